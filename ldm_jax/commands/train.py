"""Trains either stage of a latent diffusion model:

    python train.py --config configs/shapes_kl_f4.py --workdir runs/shapes_kl_f4

Run the same command again to resume, on any number of devices. On several hosts, run it on each of them. `--dry_run` prints
the resolved config, shapes and parameter counts, and exits.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from ldm_jax import cli, dry_run, grid
from ldm_jax.atomic import write_json
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints import train_state as checkpoint
from ldm_jax.data import latents as stored
from ldm_jax.distributed import hosts, parallel, preemption
from ldm_jax.evaluation import monitor
from ldm_jax.training import loop, profiling, reporting, watch
from ldm_jax.training.diffusion_job import diffusion_job
from ldm_jax.training.first_stage_job import first_stage_job
from ldm_jax.training.state import TrainState
from ldm_jax.training.workdir import (
    check_config,
    check_data,
    check_devices,
    check_room,
    check_workdir,
)
from ldm_jax.xla import utilization

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py or configs/NAME.py:runlocal")
flags.DEFINE_string("workdir", None, "where checkpoints, logs and pictures go; the same folder resumes")
flags.DEFINE_string(
    "latents",
    None,
    "train on the latents in this folder (ldm_jax.commands.precompute_latents), not on the pictures",
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

log = logging.getLogger(__name__)


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
        write_json(workdir / "config.json", config)

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


def console() -> None:
    """The console command `ldm-train`."""
    cli.console(lambda: main(app.parse_flags_with_usage(sys.argv)))


if __name__ == "__main__":
    console()
