"""Trains either stage of a latent diffusion model:

    python train.py --config configs/shapes_kl_f4.py --workdir runs/shapes_kl_f4

Run the same command again to resume. `--dry_run` prints the resolved config, shapes and parameter counts, and exits.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from ldm_jax import boxes, bundle, cli, grid, monitor
from ldm_jax.checkpoints import open_checkpoint
from ldm_jax.convert.lpips import load_lpips
from ldm_jax.data import pipeline, transforms
from ldm_jax.examples import check_example, conditions_of, needed_beside_moments
from ldm_jax.models.autoencoder import check_size
from ldm_jax.models.discriminator import NLayerDiscriminator
from ldm_jax.models.lpips import LPIPS
from ldm_jax.objective import diffusion_objective, freeze
from ldm_jax.pipeline import LatentDiffusion, check_params, check_sampling
from ldm_jax.system import System, call, make_first_stage, make_system
from ldm_jax.training import (
    checkpoint,
    diffusion_step,
    ema,
    first_stage_loss,
    first_stage_step,
    latents,
    optimizer,
    parallel,
)
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree
from ldm_jax.warm_start import start_from
from ldm_jax.workdir import check_config, check_workdir, has_checkpoints

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py or configs/NAME.py:runlocal")
flags.DEFINE_string("workdir", None, "where checkpoints, logs and pictures go; the same folder resumes")
flags.DEFINE_bool(
    "dry_run", False, "print the resolved config, shapes and parameter counts as JSON, and exit"
)

log = logging.getLogger("train")


class Job(NamedTuple):
    """What one stage contributes to the loop below."""

    state: TrainState
    step: Callable  # (state, frozen, batch, seed) -> (state, metrics), for one device
    frozen: PyTree  # what the step needs and does not train
    batches: Callable[[int], Iterator]  # start_step -> host batches of this process
    preview: Callable[[TrainState], dict[str, np.ndarray]]  # pictures of the state, uint8
    learning_rate: Callable[[int], Any]  # of an optimizer step
    class_names: list[str] | None = (
        None  # of the labels that the model is conditioned on, where the data have names
    )


def main(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; see --help")
    if FLAGS.config is None:
        raise ValueError("--config is missing: one of configs/*.py")
    config = FLAGS.config.to_dict()
    if FLAGS.dry_run:
        print(json.dumps(dry_run(config), indent=2))
        return
    if not FLAGS.workdir:
        raise ValueError("--workdir is missing: the folder for checkpoints, logs and pictures")
    train(config, Path(FLAGS.workdir))


def train(config: dict, workdir: Path) -> TrainState:
    """Runs `config` in `workdir` to its last step, from wherever an earlier run stopped. Returns the last state."""
    check_config(config)
    check_workdir(workdir, config)
    job = (first_stage_job if config["task"] == "first_stage" else diffusion_job)(config, workdir)
    if job.class_names and not config.get("class_names"):
        config = dict(config, class_names=job.class_names)
    checkpoint.write_json(workdir / "config.json", config)

    # Resume: the newest readable checkpoint in the workdir, else the fresh state.
    checkpoints = checkpoint.manager(workdir, config["keep"])
    restored = checkpoint.restore(checkpoints, job.state)
    state, start = restored if restored else (job.state, 0)
    log.info("%s at step %d of %d", "resuming" if restored else "starting", start, config["total_steps"])

    state = loop(config, workdir, job, checkpoints, state, start)
    checkpoints.close()
    return state


def loop(
    config: dict, workdir: Path, job: Job, checkpoints: Any, state: TrainState, start: int
) -> TrainState:
    writer, evaluate = metric_writer(workdir), monitor.every(config, workdir)
    batches = job.batches(start)
    step = parallel.parallel_step(job.step)
    state, frozen = parallel.replicate(state), parallel.replicate(job.frozen)
    seed = jnp.uint32(config["seed"])
    local, hosts = config["batch_size"] // jax.process_count(), jax.process_count()
    position = (np.arange(local) * hosts + jax.process_index()).astype(np.int32)
    total, since, logged = config["total_steps"], time.time(), start
    saved = start

    for number in range(start, total):
        batch = dict(next(batches), position=position)
        state, metrics = step(state, frozen, parallel.split(batch), seed)
        done = number + 1
        save = done == total or done % config["checkpoint_every"] == 0
        if done == total or done % config["log_every"] == 0 or save:
            values = {k: float(v) for k, v in parallel.unreplicate(metrics).items()}
            if not all(np.isfinite(v) for v in values.values()):
                checkpoints.wait_until_finished()
                bad = ", ".join(k for k, v in values.items() if not np.isfinite(v))
                raise RuntimeError(
                    f"NaN or infinity in {bad} between steps {logged + 1} and {done}; the last good checkpoint is step {saved} in {workdir}"
                )
            values["learning_rate"] = float(
                job.learning_rate((done - 1) // config["optimizer"].get("accumulate", 1))
            )
            report(writer, config, done, values, (done - logged) / (time.time() - since))
            since, logged = time.time(), done
        if save:
            checkpoint.save(checkpoints, done, parallel.unreplicate(state), wait=done == total)
            saved = done
        if done == total or done % config["preview_every"] == 0:
            for name, picture in job.preview(parallel.unreplicate(state)).items():
                grid.write_png(workdir / "images" / f"{name}_{done:08d}.png", picture)
                writer.write_images(done, {name: picture[None]})
            since, logged = time.time(), done
        if evaluate(writer, done, state):
            since, logged = time.time(), done
    writer.flush()
    return parallel.unreplicate(state)


def report(writer: Any, config: dict, done: int, values: dict, steps_per_second: float) -> None:
    images_per_second = steps_per_second * config["batch_size"]
    left = (config["total_steps"] - done) / steps_per_second
    writer.write_scalars(done, dict(values, images_per_second=images_per_second))
    shown = {k: values[k] for k in ("loss", "total_loss", "rec_loss", "gradient_norm") if k in values}
    numbers = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
    minutes, seconds = divmod(int(left), 60)
    log.info(
        "step %d/%d  %s  %.1f images/s  %d:%02d left",
        done,
        config["total_steps"],
        numbers,
        images_per_second,
        minutes,
        seconds,
    )


def metric_writer(workdir: Path):
    """TensorBoard in the workdir, written by process 0. Imported here because clu brings tensorflow along."""
    from clu import metric_writers

    if jax.process_index():
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(workdir))])


# -------------------------------------------------------------------------------------------------------------- the data


def open_source(config: dict):
    options = dict(config["data"])
    for own in ("recipe", "flip", "precompute_latents", "derive"):
        options.pop(own, None)
    return pipeline.open_source(options.pop("name"), options.pop("split", "train"), **options)


def image_transform(config: dict) -> Callable:
    """(image uint8, rng) -> [size, size, 3] float32 in [-1, 1], with the recipe's random crops and flips."""
    data = config["data"]
    return transforms.recipe(data.get("recipe", "none"), config["image_size"], "train", data.get("flip"))


def batches_of(config: dict, source: Any, transform: Callable) -> Callable[[int], Iterator]:
    def batches(start_step: int) -> Iterator:
        return pipeline.batches(
            source,
            batch_size=config["batch_size"] // jax.process_count(),
            transform=transform,
            seed=config["seed"],
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    return batches


# ------------------------------------------------------------------------------------------------------- the first stage


def init_key(config: dict):
    """The key that fresh parameters are drawn with. One program draws them all; with threefry, it compiles for minutes."""
    return jax.random.key(config["seed"], impl="unsafe_rbg")


def make_optimizer(config: dict) -> tuple[Any, Callable]:
    """(the optimizer that the config names, its learning rate by step), at the original's rate (training/optimizer.py)."""
    options = dict(config["optimizer"])
    devices, accumulate = jax.device_count(), options.get("accumulate", 1)
    base_lr, scale_lr = options.pop("base_lr"), options.pop("scale_lr", True)
    lr = optimizer.learning_rate(base_lr, config["batch_size"] // devices, devices, accumulate, scale_lr)
    tx = call(optimizer.make_optimizer, {}, "optimizer", learning_rate=lr, **options)
    return tx, optimizer.make_lr_schedule(lr, options.get("schedule"))


def load_perceptual(section: dict) -> tuple[PyTree, Callable]:
    """(parameters, (frozen, x, x_rec, key) -> [B,1,1,1]) of the LPIPS weights that the config names."""
    options = {k: v for k, v in section.items() if v not in ("", None)}
    module = LPIPS(dropout=options.pop("dropout", False))

    def perceptual(frozen, x, x_rec, key):
        return module.apply({"params": frozen["lpips"]}, x, x_rec, rngs={"dropout": key})

    return call(load_lpips, options, "lpips"), perceptual


def first_stage_job(config: dict, workdir: Path) -> Job:
    if config["first_stage"].get("name") == "identity":
        raise ValueError("first_stage 'identity' has nothing to train; name kl or vq")
    first_stage = make_first_stage(config["first_stage"], config.get("dtype", "float32"))
    check_size(config["image_size"], config["image_size"], first_stage.factor)
    discriminator = (
        call(NLayerDiscriminator, config["discriminator"], "discriminator")
        if config.get("discriminator")
        else None
    )
    frozen, perceptual = {}, None
    if config.get("lpips", {}).get("vgg_path"):
        frozen["lpips"], perceptual = load_perceptual(config["lpips"])
    else:
        log.info("no perceptual loss: config.lpips names no weights")
    (tx, learning_rate), (disc_tx, _) = make_optimizer(config), make_optimizer(config)
    txs = {"autoencoder": tx, "discriminator": disc_tx}
    size = config["image_size"]
    ema_decay = config.get("ema_decay")
    key = init_key(config)
    loss_options = dict(config.get("loss", {}))
    logvar_init = loss_options.pop("logvar_init", 0.0)
    if first_stage.name == "vq":
        loss_options.setdefault("n_embed", first_stage.module.n_embed)
    state = first_stage_step.init_state(
        key, first_stage.init, discriminator, (size, size, 3), txs, ema_decay, logvar_init
    )
    step = call(
        first_stage_step.make_step,
        loss_options,
        "loss",
        then=first_stage_loss.generator_loss_kl
        if first_stage.name == "kl"
        else first_stage_loss.generator_loss_vq,
        kind=first_stage.name,
        autoencoder=first_stage.module,
        discriminator=discriminator,
        txs=txs,
        perceptual=perceptual,
        ema_decay=ema_decay,
    )
    source, crop = open_source(config), image_transform(config)

    def transform(example, rng):
        return {"image": crop(example["image"], rng)}

    shown = next(pipeline.evaluation_batches(source, batch_size=8, transform=transform))["image"]
    reconstruct = jax.jit(lambda p, x: first_stage.module.apply({"params": p}, x, sample_posterior=False)[0])

    def preview(state: TrainState) -> dict:
        params = state.params["autoencoder"] if state.ema_params is None else state.ema_params
        pictures = np.concatenate([shown, np.asarray(reconstruct(params, shown))])
        return {"reconstructions": grid.grid(grid.to_uint8(pictures), columns=8)}

    return Job(state, step, frozen, batches_of(config, source, transform), preview, learning_rate)


# ------------------------------------------------------------------------------------------------------ the second stage


def open_first_stage(config: dict, workdir: Path) -> bundle.Bundle:
    """The first stage that the latents are of: the workdir's own copy, or else the one that the config names, copied there.

    The copy comes first so that a run goes on in the latents that it began in, whatever has become of the original.
    """
    kept = workdir / "first_stage"
    if kept.is_dir() and has_checkpoints(workdir):
        return bundle.read(kept)
    if config.get("first_stage_from"):
        opened = open_checkpoint(config["first_stage_from"]).bundle()
        section, params = opened.config["first_stage"], opened.params["first_stage"]
        if config.get("first_stage"):
            section, expected = config["first_stage"], make_first_stage(config["first_stage"])
            shapes = jax.eval_shape(expected.init, jax.random.key(0))
            check_params(shapes, params, f"first_stage_from {config['first_stage_from']!r}")
    else:
        first_stage = make_first_stage(config["first_stage"])
        if first_stage.name != "identity":
            log.warning("config.first_stage_from names no trained first stage: a fresh one is used")
        section, params = config["first_stage"], first_stage.init(init_key(config))
    opened = bundle.Bundle(dict(task="first_stage", first_stage=section), {"first_stage": params})
    bundle.save(kept, opened)
    return opened


def diffusion_job(config: dict, workdir: Path) -> Job:
    first = open_first_stage(config, workdir)
    config = dict(config, first_stage=first.config["first_stage"])
    frozen = {"first_stage": first.params["first_stage"]}
    system = make_system(config)
    source, crop = open_source(config), image_transform(config)
    check_example(config, system, source)
    check_sampling(config.get("sampling", {}), system.schedule.num_timesteps)
    if system.tokenizer is not None:
        system.tokenizer.save(str(workdir / "tokenizer.json"))
    labelled = {"class_labels", "layouts"} & set(system.takes)
    class_names = list(getattr(source, "class_names", ())) if labelled else None
    source, scale_factor = measure_latents(config, workdir, system, frozen, source, crop)
    frozen["scale_factor"] = jnp.float32(scale_factor)

    conditions = conditions_of(config, system, source, crop)

    def transform(example, rng):
        """What the network needs of an example: its moments or image, and its conditions."""
        shown, given = conditions(example, rng)
        inputs = system.inputs({name: [value] for name, value in given.items()})
        return shown | {key: value[0] for key, value in inputs.items()}

    params = system.init(init_key(config))
    if config.get("init_from"):
        opened = open_checkpoint(config["init_from"]).bundle().params
        params, notes = start_from(params, opened, config.get("freeze") or ())
        log.info("init_from %r: %s", config["init_from"], notes)
    options = config.get("loss", {})
    if options.get("learn_logvar"):
        params["logvar"] = jnp.full(
            system.schedule.num_timesteps, options.get("logvar_init", 0.0), jnp.float32
        )
    tx, learning_rate = make_optimizer(config)
    tx = freeze(tx, config.get("freeze") or (), params)
    step = diffusion_step.make_step(diffusion_objective(config, system), tx, config.get("ema_decay", 0.9999))
    state = TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))
    preview = preview_of(config, system, frozen, source, conditions)
    batches = batches_of(config, source, transform)
    return Job(state, step, frozen, batches, preview, learning_rate, class_names)


def measure_latents(config: dict, workdir: Path, system: System, frozen: PyTree, source: Any, crop: Callable):
    """(source, scale factor): the factor that the config gives, or else 1 / std of the latents of the whole data set.

    With data.precompute_latents the source then gives moments, and what the conditioning needs beside them. Both are kept in
    the workdir.
    """

    def plain(example, rng):
        return {"image": crop(example["image"], rng)}

    has_variance = system.first_stage.name == "kl"
    encode = jax.jit(lambda x: system.first_stage.encode(frozen["first_stage"], x))
    batches = pipeline.evaluation_batches(source, batch_size=64, transform=plain)
    made_of = dict(first_stage=bundle.fingerprint(frozen), data=source.fingerprint())
    path, record = workdir / "latents.npy", workdir / "latents.json"
    precompute = config["data"].get("precompute_latents", False)
    before = json.loads(record.read_text()) if record.exists() else {}
    differing = [k for k in made_of if before.get(k) != made_of[k]]
    if differing and has_checkpoints(workdir):
        raise ValueError(
            f"workdir {workdir} was trained on other {'data' if 'data' in differing else 'latents'} than it would go on with; "
            "restore them, or take another --workdir"
        )
    if differing or (precompute and not path.exists()):
        if precompute:
            measured = latents.precompute(path, batches, len(source), encode, has_variance, made_of)
        else:
            measured = latents.measure(batches, encode, has_variance)
        before = dict(made_of, **measured._asdict())
        if config.get("scale_factor"):
            before["scale_factor"] = config["scale_factor"]
        checkpoint.write_json(record, before)
    log.info(
        "latents: mean %s, std %s, scale factor %.5f",
        np.round(before["mean"], 3),
        np.round(before["std"], 3),
        before["scale_factor"],
    )
    if precompute:
        fields = needed_beside_moments(config, system)
        source = latents.MomentsSource(source, np.load(path, mmap_mode="r"), fields)
    return source, before["scale_factor"]


def preview_of(config: dict, system: System, frozen: PyTree, source: Any, conditions: Callable) -> Callable:
    """Eight samples of fixed seeds, for the conditions of the first eight examples."""
    sampling, seeds = dict(config.get("sampling", {})), range(8)
    given: dict[str, list] = {}
    if system.parts:
        seeds = range(min(8, len(source)))
        for i in seeds:
            _, values = conditions({"index": i, **source[i]}, np.random.default_rng(i))
            values.pop("seeds", None)  # the pictures' own
            for name, value in values.items():
                given.setdefault(name, []).append(value)

    def preview(state: TrainState) -> dict:
        params = dict(state.ema_params, first_stage=frozen["first_stage"])
        model = LatentDiffusion(system, params, frozen["scale_factor"])
        # Not `sample`: it refuses masks of nothing and of everything, which training may draw, and puts known pixels back.
        latents = model.sample_latents(given, seeds, **model.settle(**{"batch_size": 8, **sampling}))
        samples = grid.to_uint8(model.decode(latents))
        pictures = {"samples": grid.grid(samples, columns=4)}
        if "layouts" in given:
            names = config.get("class_names")
            drawn = [boxes.draw(*pair, names) for pair in zip(samples, given["layouts"], strict=True)]
            pictures["layouts"] = grid.grid(np.stack(drawn), columns=4)
        return pictures

    return preview


def dry_run(config: dict) -> dict:
    """The resolved config, the shapes and the parameter counts, without allocating a parameter."""
    check_config(config)
    count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))  # noqa: E731
    key = jax.random.key(0)
    if config["task"] == "diffusion" and not config.get("first_stage"):
        config = dict(config, first_stage=open_checkpoint(config["first_stage_from"]).config["first_stage"])
    first_stage = make_first_stage(config["first_stage"])
    parameters = {"first_stage": count(jax.eval_shape(first_stage.init, key))}
    size = config["image_size"]
    shapes = {"image": [config["batch_size"], size, size, 3]}
    shapes["latents"] = [
        config["batch_size"],
        size // first_stage.factor,
        size // first_stage.factor,
        first_stage.channels,
    ]
    if config["task"] == "diffusion":
        parameters |= {
            name: count(tree) for name, tree in jax.eval_shape(make_system(config).init, key).items()
        }
    elif config.get("discriminator"):
        module = call(NLayerDiscriminator, config["discriminator"], "discriminator")
        parameters["discriminator"] = count(
            jax.eval_shape(module.init, key, jnp.zeros((1, size, size, 3)))["params"]
        )
    return dict(config=config, shapes=shapes, parameters=parameters, devices=[str(d) for d in jax.devices()])


if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(lambda: main(app.parse_flags_with_usage(sys.argv)))
