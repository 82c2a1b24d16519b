"""Trains either stage of a latent diffusion model:

    python train.py --config configs/shapes_kl_f4.py --workdir runs/shapes_kl_f4

Run the same command again to resume, on any number of devices. On several hosts, run it on each of them. `--dry_run` prints
the resolved config, shapes and parameter counts, and exits.
"""

import json
import logging
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from ldm_jax import (
    boxes,
    bundle,
    cli,
    dry_run,
    grid,
    labels,
    monitor,
    reporting,
    training_program,
    utilization,
)
from ldm_jax.checkpoints import open_checkpoint
from ldm_jax.convert.lpips import load_lpips
from ldm_jax.data import latents as stored
from ldm_jax.data import pipeline, transforms
from ldm_jax.examples import check_example, conditions_of, inputs_of, needed_beside_moments, open_source
from ldm_jax.pipeline import LatentDiffusion, check_sampling
from ldm_jax.precompute_latents import read_first_stage
from ldm_jax.system import System, call, make_first_stage, make_system
from ldm_jax.training import checkpoint, hosts, latents, loop, parallel, preemption, profiling, watch
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree
from ldm_jax.warm_start import start_from
from ldm_jax.workdir import (
    check_config,
    check_data,
    check_devices,
    check_room,
    check_workdir,
    has_checkpoints,
)

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py or configs/NAME.py:runlocal")
flags.DEFINE_string("workdir", None, "where checkpoints, logs and pictures go; the same folder resumes")
flags.DEFINE_string(
    "latents",
    None,
    "train on the latents in this folder (ldm_jax.data.precompute_latents), not on the pictures",
)
flags.DEFINE_bool(
    "dry_run", False, "print the resolved config, shapes and parameter counts as JSON, and exit"
)
flags.DEFINE_string(
    "topology",
    None,
    "with --dry_run: compile the step for this slice of Cloud TPU, as v5e:16x16, and say what it costs",
)
flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where no cluster says which processes there are"
)
flags.DEFINE_integer("num_processes", None, "how many processes train together; with --coordinator")
flags.DEFINE_integer("process_id", None, "which of them this is, from 0; with --coordinator")
flags.DEFINE_integer(
    "profile_at", None, "trace steps for TensorBoard's profiler, after this one; also: touch WORKDIR/profile"
)
flags.DEFINE_integer("profile_steps", profiling.STEPS, "how many steps a trace has")

log = logging.getLogger("train")


def main(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; see --help")
    if FLAGS.config is None:
        raise ValueError("--config is missing: one of configs/*.py")
    config = FLAGS.config.to_dict()
    if FLAGS.latents:
        config["data"] = stored.instead_of(config["data"], FLAGS.latents)
    if FLAGS.topology and not FLAGS.dry_run:
        raise ValueError(f"--topology {FLAGS.topology} goes with --dry_run: nothing is run on it")
    if FLAGS.dry_run:
        check_config(config)
        if FLAGS.topology:
            cost = dry_run.training(config, FLAGS.topology)
            print(json.dumps(cost, indent=2))
            dry_run.check_fits(cost, config)
        else:
            check_devices(config)
            print(json.dumps(dry_run.trained(config), indent=2))
        return
    if FLAGS.profile_steps < 1:
        raise ValueError(f"--profile_steps is {FLAGS.profile_steps}, expected at least 1")
    if FLAGS.profile_at is not None and not 0 <= FLAGS.profile_at < config["total_steps"]:
        raise ValueError(
            f"--profile_at is {FLAGS.profile_at}, expected a step of the run, 0 to {config['total_steps'] - 1}"
        )
    if not FLAGS.workdir:
        raise ValueError("--workdir is missing: the folder for checkpoints, logs and pictures")
    if "://" in FLAGS.workdir:
        raise ValueError(
            f"--workdir is {FLAGS.workdir}, expected a folder: mount the bucket, or better a file system (docs/cloud_tpu.md)"
        )
    hosts.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if not hosts.is_first():
        cli.show_warnings_only()
    with hosts.telling_the_others():
        train(config, Path(FLAGS.workdir), FLAGS.profile_at, FLAGS.profile_steps)


def train(
    config: dict, workdir: Path, profile_at: int | None = None, profile_steps: int = profiling.STEPS
) -> TrainState:
    """Runs `config` in `workdir` to its last step, or to the one that it is told to stop after, from wherever an earlier run
    stopped. Returns the last state. profile_at, profile_steps: of training/profiling.py."""
    check_config(config)
    check_devices(config)
    hosts.agree(
        {f"config.{key}": value for key, value in config.items()} | {"the code": hosts.code_version()}
    )
    check_workdir(workdir, config)
    check_room(workdir, {})
    layout = parallel.make(config.get("parallelism", "pmap"), config.get("mesh"))
    job = (first_stage_job if config["task"] == "first_stage" else diffusion_job)(config, workdir, layout)
    check_room(workdir, job.state)
    hosts.agree({"the data": job.fingerprint})
    check_data(workdir, job.fingerprint)
    if job.class_names and not config.get("class_names"):
        config = dict(config, class_names=job.class_names)
    if hosts.is_first():
        checkpoint.write_json(workdir / "config.json", config)

    # Resume: the newest readable checkpoint in the workdir, else the fresh state.
    checkpoints = checkpoint.manager(workdir, config["keep"])
    restored = checkpoint.restore(checkpoints, layout.abstract(job.state))
    state, start = restored if restored else (layout.place(job.state), 0)
    hosts.agree({"the step of the newest checkpoint": start})
    log.info("%s at step %d of %d", "resuming" if restored else "starting", start, config["total_steps"])

    writer, evaluate = metric_writer(workdir), monitor.every(config, workdir)
    mfu = utilization.Utilization(lambda: step_flops(config, workdir))
    with (
        preemption.watching(checkpoints) as stop,
        profiling.on_demand(workdir, profile_at, profile_steps) as tracer,
    ):
        calls = loop.Calls(
            report=lambda done, values, times: report(writer, config, mfu, done, values, times),
            show=lambda done, state: show(workdir, writer, job, done, state),
            evaluate=lambda done, state: together("the evaluation", evaluate(writer, done, state)),
            stop=stop,
            before_step=tracer.before_step,
            after_step=tracer.after_step,
        )
        state, _ = loop.run(config, job, layout, checkpoints, state, start, calls)
    writer.flush()
    checkpoints.close()
    hosts.barrier("the end")
    return state


def report(
    writer: Any, config: dict, mfu: Callable, done: int, values: dict[str, float], times: watch.Times
) -> None:
    if hosts.is_first():
        utilized = mfu(times.steps_per_second)
        writer.write_scalars(done, reporting.scalars(config, values, times, utilized) | watch.memory())
        log.info(reporting.line(config, done, values, times, utilized))


def step_flops(config: dict, workdir: Path) -> int:
    """dry_run.training_flops of a run that goes on in `workdir`, which has the first stage of a second."""
    if config["task"] == "diffusion":
        config = dict(config, first_stage=bundle.read_config(workdir / "first_stage")["first_stage"])
    return dry_run.training_flops(config)


def show(workdir: Path, writer: Any, job: loop.Job, done: int, state: TrainState) -> None:
    """Pictures of the state, drawn by process 0 from what all of them hold."""
    drawn = parallel.fetch(job.drawn(state))
    if hosts.is_first():
        for name, picture in job.preview(drawn).items():
            grid.write_png(workdir / "images" / f"{name}_{done:08d}.png", picture)
            writer.write_images(done, {name: picture[None]})
    together("the pictures", True)


def together(name: str, was_done: bool) -> bool:
    """The others wait here, not on their devices, for what process 0 did alone; was_done: whether it did. Returns that."""
    if was_done:
        hosts.barrier(name, hosts.LONG)
    return was_done


def metric_writer(workdir: Path):
    """TensorBoard in the workdir, written by process 0. Imported here because clu brings tensorflow along."""
    from clu import metric_writers

    if not hosts.is_first():
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(workdir))])


# -------------------------------------------------------------------------------------------------------------- the data


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


def first_stage_job(config: dict, workdir: Path, layout: parallel.Layout) -> loop.Job:
    first_stage, step, begin = training_program.first_stage_parts(config, layout)
    frozen = {}
    if training_program.has_perceptual(config):
        options = {k: v for k, v in config["lpips"].items() if v not in ("", None) and k != "dropout"}
        frozen["lpips"] = call(load_lpips, options, "lpips")
    else:
        log.info("no perceptual loss: config.lpips names no weights")
    with parallel.on_host():
        state = begin(init_key(config))
    source, crop = open_source(config), image_transform(config)

    def transform(example, rng):
        return {"image": crop(example["image"], rng)}

    shown = next(pipeline.evaluation_batches(source, batch_size=8, transform=transform))["image"]
    reconstruct = jax.jit(lambda p, x: first_stage.module.apply({"params": p}, x, sample_posterior=False)[0])

    def drawn(state: TrainState) -> PyTree:
        return state.params["autoencoder"] if state.ema_params is None else state.ema_params

    def preview(params: PyTree) -> dict:
        pictures = np.concatenate([shown, np.asarray(reconstruct(params, shown))])
        return {"reconstructions": grid.grid(grid.to_uint8(pictures), columns=8)}

    _, learning_rate = training_program.make_optimizer(config, jax.device_count())
    batches = batches_of(config, source, transform)
    return loop.Job(state, step, frozen, batches, drawn, preview, learning_rate, source.fingerprint())


# ------------------------------------------------------------------------------------------------------ the second stage


def open_first_stage(config: dict, workdir: Path) -> bundle.Bundle:
    """The first stage that the latents are of: the workdir's own copy, or else the one that the config names, copied there.

    The copy comes first so that a run goes on in the latents that it began in, whatever has become of the original.
    """
    kept = workdir / "first_stage"
    if kept.is_dir() and (has_checkpoints(workdir) or not hosts.is_first()):
        return bundle.read(kept)
    if config.get("first_stage_from"):
        section, params = read_first_stage(config)
    else:
        first_stage = make_first_stage(config["first_stage"])
        if first_stage.name != "identity":
            log.warning("config.first_stage_from names no trained first stage: a fresh one is used")
        section, params = config["first_stage"], first_stage.init(init_key(config))
    opened = bundle.Bundle(dict(task="first_stage", first_stage=section), {"first_stage": params})
    bundle.save(kept, opened)
    return opened


def diffusion_job(config: dict, workdir: Path, layout: parallel.Layout) -> loop.Job:
    with hosts.first_alone("the first stage"):
        first = open_first_stage(config, workdir)
    config = dict(config, first_stage=first.config["first_stage"])
    frozen = {"first_stage": first.params["first_stage"]}
    system = make_system(config)
    source, crop = open_source(config), image_transform(config)
    check_example(config, system, source)
    check_sampling(config.get("sampling", {}), system.schedule.num_timesteps)
    if {"class_labels", "layouts"} & set(system.takes) and not config.get("class_names"):
        config["class_names"] = list(getattr(source, "class_names", ())) or None
    with hosts.first_alone("the latents"):
        if system.tokenizer is not None and hosts.is_first():
            system.tokenizer.save(str(workdir / "tokenizer.json"))
        source, scale_factor = measure_latents(config, workdir, system, frozen, source, crop)
    frozen["scale_factor"] = np.float32(scale_factor)

    conditions = conditions_of(config, system, source, crop)
    with parallel.on_host():
        params = first_params(config, system)
        if isinstance(source, stored.LatentsSource) and source.has_text:
            frozen_text = "conditioner" in (config.get("freeze") or ())
            encoder = {"conditioner": params["conditioner"]}
            source.check_text(bundle.fingerprint(encoder) if frozen_text else None)
        step, begin = training_program.diffusion_parts(config, system, layout, params)
        state = begin(params)
    _, learning_rate = training_program.make_optimizer(config, jax.device_count())
    preview = preview_of(config, system, frozen, source, conditions)
    batches = batches_of(config, source, inputs_of(system, conditions))
    fingerprint = source.fingerprint()
    drawn, names = operator.attrgetter("ema_params"), config.get("class_names")
    return loop.Job(state, step, frozen, batches, drawn, preview, learning_rate, fingerprint, names)


def first_params(config: dict, system: System) -> PyTree:
    """Those of the network and its conditioner before the first step, and what the loss learns."""
    params = system.init(init_key(config))
    if config.get("init_from"):
        opened = open_checkpoint(config["init_from"]).bundle().params
        params, notes = start_from(params, opened, config.get("freeze") or ())
        log.info("init_from %r: %s", config["init_from"], notes)
    return training_program.with_logvar(config, system, params)


def measure_latents(config: dict, workdir: Path, system: System, frozen: PyTree, source: Any, crop: Callable):
    """(source, scale factor): the factor that the config gives, or else 1 / std of the latents of the whole data set.

    Latents that were stored ahead of training have theirs with them. With data.precompute_latents the source then gives
    moments, and what the conditioning needs beside them. Both are kept in the workdir.
    """

    def plain(example, rng):
        return {"image": crop(example["image"], rng)}

    has_variance = system.first_stage.name == "kl"
    encode = jax.jit(lambda x: system.first_stage.encode(frozen["first_stage"], x))
    batches = pipeline.evaluation_batches(source, batch_size=64, transform=plain)
    made_of = dict(first_stage=bundle.fingerprint(frozen), data=source.fingerprint())
    ahead = isinstance(source, stored.LatentsSource)
    if ahead:
        source.check(first_stage=made_of["first_stage"], image_size=config["image_size"])
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
        if ahead:
            measured = source.statistics
        elif precompute:
            measured = latents.precompute(path, batches, len(source), encode, has_variance, made_of)._asdict()
        else:
            measured = latents.measure(batches, encode, has_variance)._asdict()
        before = dict(made_of, **measured)
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

    def preview(ema_params: PyTree) -> dict:
        params = dict(ema_params, first_stage=frozen["first_stage"])
        model = LatentDiffusion(system, params, frozen["scale_factor"])
        # Not `sample`: it refuses masks of nothing and of everything, which training may draw, and puts known pixels back.
        latents = model.sample_latents(given, seeds, **model.settle(**{"batch_size": 8, **sampling}))
        samples = grid.to_uint8(model.decode(latents))
        pictures = {"samples": grid.grid(samples, columns=4)}
        if "layouts" in given:
            names = config.get("class_names")
            told = [labels.told(system, layout, names) for layout in given["layouts"]]
            drawn = [boxes.draw(*pair, names) for pair in zip(samples, told, strict=True)]
            pictures["layouts"] = grid.grid(np.stack(drawn), columns=4)
        return pictures

    return preview


if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(lambda: main(app.parse_flags_with_usage(sys.argv)))
