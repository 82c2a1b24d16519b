"""Trains tiny models for a few steps in one way of sharding after the other, and writes down what the steps said: a
process of tests/distributed/test_parallel.py, which needs more devices than pytest has, and more than one process.

    python -m tests.distributed.parallel_runs \
        '{"folder": "/tmp/x", "devices": 8, "runs": [["a", "kl", "fsdp", 8, {"data": 4}, 1]]}'
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

BATCH, SIZE = 8, 16
# What is hard to make the same everywhere: batch statistics, adaptive weights, dropout, one draw of timesteps for all.
FIRST_STAGE = dict(
    name="kl", channels=8, channel_mult=[1], num_res_blocks=1, attn_type="none", z_channels=2, embed_dim=2,
    num_groups=4,
)  # fmt: skip
DIFFUSION = dict(
    first_stage=dict(name="identity"),
    image_size=SIZE,
    batch_size=BATCH,
    model=dict(
        in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, attention_levels=[0],
        num_heads=2,
        transformer_depth=1, context_dim=8, num_groups=4, dropout=0.1,
    ),
    conditioning=dict(name="class_label", num_classes=5, width=8),
    condition_dropout=0.2,
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195),
    prediction_type="v",
    stratified_timesteps=True,
    loss=dict(
        loss_type="l2", learn_logvar=True, original_elbo_weight=1e-3,
        alignment=dict(weight=0.5, classes=dict(kind=2), width=8),
    ),
)  # fmt: skip


def batches(start: int) -> Iterator[dict]:
    """This process's rows of batches that are functions of the step."""
    import jax
    import numpy as np

    step = start
    while True:
        rng = np.random.default_rng(step)
        whole = {
            "image": rng.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32),
            "class_labels": rng.integers(0, 5, BATCH).astype(np.int32),
            "alignment": rng.dirichlet(np.ones(3), (BATCH, SIZE, SIZE)).astype(np.float32),
        }
        yield {name: values[jax.process_index() :: jax.process_count()] for name, values in whole.items()}
        step += 1


def job_of(stage: str, placement, rate: float):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from ldm_jax.distributed import parallel
    from ldm_jax.first_stage import make_first_stage
    from ldm_jax.models.discriminator import NLayerDiscriminator
    from ldm_jax.system import make_system
    from ldm_jax.training import diffusion_step, ema, first_stage_loss, first_stage_step, loop
    from ldm_jax.training.objective import diffusion_objective, init_learned
    from ldm_jax.training.state import TrainState

    key, frozen = jax.random.key(0), {}
    with parallel.on_host():
        if stage == "kl":
            first_stage = make_first_stage(FIRST_STAGE)
            discriminator = NLayerDiscriminator(4, 1, axis_name=placement.axis_name)
            txs = {"autoencoder": optax.adam(rate, 0.5, 0.9), "discriminator": optax.adam(rate, 0.5, 0.9)}
            shape = (SIZE, SIZE, 3)
            state = first_stage_step.init_state(key, first_stage.init, discriminator, shape, txs, 0.999)
            step = first_stage_step.make_step(
                first_stage_loss.generator_loss_kl,
                first_stage.module,
                discriminator,
                txs,
                disc_start=2,
                ema_decay=0.999,
                average=placement.average,
            )
            step = placement.gathering(step)

            def kept(start):
                return ({"image": batch["image"]} for batch in batches(start))
        else:
            system, tx = make_system(DIFFUSION), optax.adamw(rate)
            params = system.init(key)
            params |= init_learned(DIFFUSION, system, params, key)
            state = TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))
            objective = diffusion_objective(DIFFUSION, system)
            step = diffusion_step.make_step(placement.gradients(objective), tx, 0.999)
            frozen = {"first_stage": {}, "latent_scale": np.float32(1.0)}

            def kept(start):
                for batch in batches(start):
                    inputs = system.inputs({"class_labels": batch.pop("class_labels")})
                    yield batch | inputs

    return loop.TrainingJob(state, step, frozen, kept, lambda s: s, lambda s: {}, lambda step: rate, "")


def run(
    folder: Path, stage: str, way: str, devices: int, mesh: dict | None, at_once: int, steps: int, rate: float
) -> dict:
    """{metric: its value after every `at_once` steps}, the part of the state that is split and the sum of what is
    trained.

    Goes on from the checkpoint in `folder` if there is one, `steps` more.
    """
    import jax
    import numpy as np

    from ldm_jax.checkpoints import train_state
    from ldm_jax.distributed import parallel
    from ldm_jax.training import loop

    placement = parallel.make(way, mesh, jax.devices()[:devices])
    job, said = job_of(stage, placement, rate), {}

    def report(done, values, rate):
        for name, value in values.items():
            said.setdefault(name, []).append(value)

    calls = loop.Calls(report, lambda *_: None, lambda *_: False, lambda done: False)
    checkpoints = train_state.manager(folder)
    config = dict(
        batch_size=BATCH, total_steps=steps, checkpoint_every=steps, log_every=1, preview_every=steps
    )
    restored = train_state.restore(checkpoints, placement.abstract(job.state))
    state, start = restored or (placement.place(job.state), 0)
    config |= dict(seed=3, optimizer={}, total_steps=start + steps, steps_per_dispatch=at_once)
    state, _ = loop.run(config, job, placement, checkpoints, state, start, calls)
    checkpoints.close()
    sizes = [(x.size, x.is_fully_replicated) for x in jax.tree.leaves(state)]
    said["split"] = sum(size for size, whole in sizes if not whole) / sum(size for size, _ in sizes)
    said["sum"] = float(sum(np.abs(x).sum() for x in jax.tree.leaves(parallel.fetch(state.params))))
    return said


def main(task: dict) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={task['devices']}"
    import jax

    from ldm_jax.distributed import hosts

    jax.config.update("jax_disable_most_optimizations", True)  # compiling is all that takes time here
    process = task.get("process", 0)
    if "coordinator" in task:
        hosts.initialize(task["coordinator"], 2, process, timeout=120)
    said = {}
    for name, stage, *placement in task["runs"]:
        folder = Path(task["folder"]) / name
        said[name] = run(folder, stage, *placement, task["steps"], task.get("rate", 1e-3))
        Path(task["folder"], f"said_{process}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
