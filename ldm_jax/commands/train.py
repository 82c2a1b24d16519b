"""Trains either stage of a latent diffusion model:

    ldm-train --config shapes_kl_f4 --workdir runs/shapes_kl_f4

Run the same command again to resume, on any number of devices. On several hosts, run it on each of them. `--dry_run`
prints the resolved config, shapes and parameter counts, and exits.
"""

import argparse
import contextlib
import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from ldm_jax import cli, grid, paths
from ldm_jax.atomic import write_json
from ldm_jax.checkpoints import bundle, train_state
from ldm_jax.commands import config_flag, dry_run
from ldm_jax.data import latents
from ldm_jax.distributed import hosts, parallel, preemption
from ldm_jax.evaluation import monitor
from ldm_jax.training import held_out, loop, optimizer, profiling, program, watch, writers
from ldm_jax.training.base_model import with_base
from ldm_jax.training.classifier_job import classifier_job
from ldm_jax.training.diffusion_job import diffusion_job
from ldm_jax.training.examples import check_there
from ldm_jax.training.first_stage_job import first_stage_job
from ldm_jax.training.perceptual import with_weights
from ldm_jax.training.state import TrainState
from ldm_jax.training.workdir import (
    check_config,
    check_counter,
    check_data,
    check_devices,
    check_room,
    check_workdir,
    claimed,
    has_checkpoints,
    keep_unreadable,
    unless_refused,
)
from ldm_jax.xla import compiling, utilization

JOBS = dict(first_stage=first_stage_job, diffusion=diffusion_job, classifier=classifier_job)
log = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=config_flag.epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--workdir",
        help="where checkpoints, logs and pictures go, a folder or gs://BUCKET/…; the same one resumes",
    )
    add("--latents", help="train on the latents in this folder (ldm-precompute-latents), not on the pictures")
    add(
        "--dry_run",
        action="store_true",
        help="print the resolved config, shapes and parameter counts as JSON, and exit",
    )
    add(
        "--topology",
        help="with --dry_run: compile the step for this slice of Cloud TPU, as v5e:16x16, and say what it costs",
    )
    add("--coordinator", help="host:port of process 0, where no cluster says which processes there are")
    add("--num_processes", type=int, help="how many processes train together; with --coordinator")
    add("--process_id", type=int, help="which of them this is, from 0; with --coordinator")
    add(
        "--profile_at",
        type=int,
        help="trace steps for TensorBoard's profiler, after this one; also: touch WORKDIR/profile",
    )
    add(
        "--profile_steps",
        type=int,
        default=profiling.STEPS,
        help="how many steps a trace has (default %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args, rest = make_parser().parse_known_args(argv)
    config = config_flag.read_config(rest)
    if args.latents:
        config["data"] = latents.instead_of(config["data"], args.latents)
    config = with_base(config)
    if args.topology and not args.dry_run:
        raise ValueError(f"--topology {args.topology} goes with --dry_run: nothing is run on it")
    if args.dry_run:
        check_config(config)
        if args.topology:
            cost = dry_run.training(config, args.topology)
            print(json.dumps(cost, indent=2))
            dry_run.check_fits(cost, config)
        else:
            check_devices(config)
            print(json.dumps(dry_run.trained(config), indent=2))
        return
    check_run(args, config)
    hosts.initialize(args.coordinator, args.num_processes, args.process_id)
    if not hosts.is_first():
        cli.show_warnings_only()
    with hosts.telling_the_others():
        train(config, paths.of(args.workdir), args.profile_at, args.profile_steps)


def check_run(args: argparse.Namespace, config: dict) -> None:
    """Raises: ValueError for arguments that a run cannot have."""
    if args.profile_steps < 1:
        raise ValueError(f"--profile_steps is {args.profile_steps}, expected at least 1")
    if args.profile_at is not None and not 0 <= args.profile_at < config["total_steps"]:
        last = config["total_steps"] - 1
        raise ValueError(f"--profile_at is {args.profile_at}, expected a step of the run, 0 to {last}")
    if not args.workdir:
        raise ValueError("--workdir is missing: the folder for checkpoints, logs and pictures")
    paths.of(args.workdir)


def train(
    config: dict, workdir: Path, profile_at: int | None = None, profile_steps: int = profiling.STEPS
) -> TrainState:
    """Trains `config` in `workdir` to its last step or until a stop is requested; continues an earlier run in the same
    folder.

    profile_at, profile_steps: see training/profiling.py. Returns the last state."""
    # 1. Check the config and the hosts, and claim the workdir, before anything is built.
    paths.check(workdir)
    config = with_base(config)
    check_config(config)
    check_devices(config)
    check_there(config, has_checkpoints(workdir))
    config = with_weights(config, workdir)
    hosts.agree(
        {f"config.{key}": value for key, value in config.items()} | {"the code": hosts.code_version()}
    )
    with unless_refused(workdir), claimed(workdir) as still_ours:
        return train_claimed(config, workdir, still_ours, profile_at, profile_steps)


def train_claimed(
    config: dict, workdir: Path, still_ours: Callable[[], None], profile_at: int | None, profile_steps: int
) -> TrainState:
    """`train` in a workdir that no other run is in. still_ours: raises if one has taken it over."""
    check_workdir(workdir, config)
    check_room(workdir, {})
    note = optimizer.schedule_note(config["optimizer"].get("schedule"), program.optimizer_steps(config))
    if note and hosts.is_first():
        log.warning("%s", note)
    # 2. Build the job of this stage and check its data and disk space.
    placement = parallel.make(config.get("parallelism", "pmap"), config.get("mesh"))
    job = JOBS[config["task"]](config, workdir, placement)
    check_room(workdir, job.state)
    hosts.agree({"the data": job.fingerprint})
    check_data(workdir, job.fingerprint)
    if job.class_names and not config.get("class_names"):
        config = dict(config, class_names=job.class_names)
    if hosts.is_first():
        write_json(workdir / "config.json", config)

    # 3. Resume from the newest readable checkpoint in the workdir, or start from the fresh state.
    checkpoints = train_state.manager(workdir, config["keep"])
    with train_state.closing(checkpoints):
        restored = train_state.restore(checkpoints, placement.abstract(job.state))
        state, start = restored if restored else (placement.place(job.state), 0)
        check_counter(state, start, checkpoints.directory)
        hosts.agree({"the step of the newest checkpoint": start})
        log.info("%s at step %d of %d", "resuming" if restored else "starting", start, config["total_steps"])
        # 4. Run the loop with logging, pictures, evaluation and profiling attached.
        writer, evaluate = writers.make(config, workdir), monitor.every(config, workdir)
        held = held_out.every(config, job.held_out)
        mfu = utilization.Utilization(lambda: step_flops(config, workdir))
        with (
            preemption.watching(checkpoints) as stop,
            profiling.on_demand(workdir, profile_at, profile_steps) as tracer,
        ):

            def told(*values: Any) -> None:
                still_ours()
                keep_unreadable(workdir, job.unreadable())
                report(writer, config, mfu, *values)

            def asked(iterations: int) -> bool:
                train_state.check(checkpoints)  # or a failed save would be known when the next one begins
                return stop(iterations)

            calls = loop.Calls(
                report=told,
                show=lambda done, state: show(workdir, writer, job, done, state),
                evaluate=lambda done, state: together(
                    "the evaluation", bool(evaluate(writer, done, state) | held(writer, done, state))
                ),
                stop=asked,
                patiently=patiently(stop),
                before_step=tracer.before_step,
                after_step=tracer.after_step,
            )
            try:
                state, _ = loop.run(config, job, placement, checkpoints, state, start, calls)
            finally:
                with contextlib.suppress(OSError):  # of a full disk, which says more where it is met first
                    keep_unreadable(workdir, job.unreadable())
        writer.close()
    # 5. The logs and checkpoints are closed; no process leaves before the others are done.
    hosts.barrier("the end")
    return state


def patiently(stop: preemption.Notice) -> Callable:
    """loop.Calls.patiently: where several processes work together, in this thread, as they stop together."""
    if jax.process_count() > 1:
        return compiling.in_this_thread
    return functools.partial(compiling.in_thread, around=stop.at_once)


def report(
    writer: Any, config: dict, mfu: Callable, done: int, values: dict[str, float], times: watch.Times
) -> None:
    if hosts.is_first():
        utilized = mfu(times.steps_per_second)
        writer.write_scalars(done, watch.scalars(config, values, times, utilized) | watch.memory())
        log.info(watch.line(config, done, values, times, utilized))


def step_flops(config: dict, workdir: Path) -> int:
    """dry_run.training_flops of the run in `workdir`; other runs than a first stage's read that of theirs from
    there."""
    if config["task"] != "first_stage":
        config = dict(config, first_stage=bundle.read_config(workdir / "first_stage")["first_stage"])
    return dry_run.training_flops(config)


def show(workdir: Path, writer: Any, job: loop.TrainingJob, done: int, state: TrainState) -> None:
    """Draws and writes preview pictures: all processes gather the parameters, process 0 draws."""
    drawn = parallel.fetch(job.drawn(state))
    if hosts.is_first():
        for name, picture in job.preview(drawn).items():
            grid.write_png(workdir / "images" / f"{name}_{done:08d}.png", picture)
            writer.write_images(done, {name: picture[None]})
    together("the pictures", True)


def together(name: str, was_done: bool) -> bool:
    """Makes the other processes wait at a barrier, not on their devices, after work that process 0 does alone.
    was_done: whether there was such work; returned unchanged."""
    if was_done:
        hosts.barrier(name, hosts.LONG)
    return was_done


def console() -> None:
    """The console command `ldm-train`."""
    cli.console(main)


if __name__ == "__main__":
    console()
