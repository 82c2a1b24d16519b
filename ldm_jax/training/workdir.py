"""Checks before a run: is the config trainable, may it continue in this workdir, is there enough disk space.

It looks at plain data and file names only; it builds nothing and reads no checkpoint.
"""

import contextlib
import json
import math
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ldm_jax import atomic, paths, text_files
from ldm_jax.distributed import bucket_mark, mark, parallel
from ldm_jax.distributed.hosts import barrier, is_first
from ldm_jax.training import writers
from ldm_jax.training.optimizer import with_defaults
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

DATA = "data.json"  # what the checkpoints in a workdir were trained on
UNREADABLE = "unreadable.{}.json"  # which of its files each process could not read

# Every key that a config may have; those of the sections are the options of what they name.
KEYS = {
    "task", "seed", "image_size", "dtype", "data", "first_stage", "first_stage_from", "init_from", "scale_factor",
    "latents_mean", "latents_std", "per_channel_latents", "learned_variance",
    "loss", "discriminator",
    "lpips", "optimizer", "ema_decay", "batch_size", "total_steps", "log_every", "checkpoint_every", "preview_every",
    "keep",
    "model", "conditioning", "condition_dropout", "freeze", "schedule", "prediction_type", "stratified_timesteps",
    "timestep_density", "sampling", "text_from", "base_tokenizer", "holdout_every",
    "base", "personalization", "adapter_from", "prior", "classifier", "distillation",
    "evaluate_every", "evaluate", "class_names", "parallelism", "mesh", "steps_per_dispatch",
    "writers",
}  # fmt: skip
TASKS = ("first_stage", "diffusion", "classifier")
LPIPS = ("vgg_path", "heads_path", "dropout")
POSITIVE = ("total_steps", "log_every", "checkpoint_every", "preview_every", "keep")


def check_config(config: dict) -> None:
    """Raises: ValueError for a key that is unknown, missing, or a number that cannot be."""
    unknown = sorted(set(config) - KEYS)
    if unknown:
        raise ValueError(f"config has the unknown key {unknown[0]!r}; known keys: {', '.join(sorted(KEYS))}")
    needed = ("task", "seed", "image_size", "data", "optimizer", "batch_size", *POSITIVE)
    missing = [key for key in needed if key not in config]
    if missing:
        raise ValueError(f"config has no {missing[0]!r}; it needs: {', '.join(needed)}")
    if config["task"] not in TASKS:
        raise ValueError(f"config.task {config['task']!r} not found; there are: {', '.join(TASKS)}")
    if config["task"] == "classifier" and not config.get("base"):
        raise ValueError(
            "config.base is missing: the model that the classifier is to guide, whose latents it takes"
        )
    check_numbers(config, "config")
    writers.names(config)
    lpips = config.get("lpips") or {}
    for key in lpips:
        if key not in LPIPS:
            raise ValueError(f"config.lpips has no option {key!r}; it has: {', '.join(LPIPS)}")
    if config.get("personalization"):
        _check_personalization(config)
    if config.get("distillation"):
        _check_distillation(config)
    for key in POSITIVE:
        if config[key] < 1:
            raise ValueError(f"config.{key} is {config[key]}, expected at least 1")
    at_once = config.get("steps_per_dispatch", 1)
    if at_once < 1:
        raise ValueError(f"config.steps_per_dispatch is {at_once}, expected at least 1")
    for key in (*POSITIVE[:-1], "evaluate_every", "holdout_every"):
        if (config.get(key) or 0) % at_once:
            raise ValueError(
                f"config.{key} is {config[key]}, expected a multiple of steps_per_dispatch, {at_once}"
            )


def _check_personalization(config: dict) -> None:
    """Raises: ValueError for what does not go with training a delta alone."""
    if not (config.get("base") or config.get("init_from")):
        raise ValueError(
            "config.personalization: config.base names no model, expected a checkpoint that is taught something"
        )
    for key, wrong in (
        ("freeze", config.get("freeze")),
        ("evaluate_every", config.get("evaluate_every")),
        ("loss.learn_logvar", (config.get("loss") or {}).get("learn_logvar")),
        *(
            (f"loss.{name}.weight", ((config.get("loss") or {}).get(name) or {}).get("weight"))
            for name in ("alignment", "mutual_information")
        ),
    ):
        if wrong:
            raise ValueError(
                f"config.{key} is {wrong} with config.personalization, expected it left out: the delta alone is trained"
            )


def _check_distillation(config: dict) -> None:
    """Raises: ValueError for a run without a teacher, and for terms of the loss that it does not have."""
    if not config.get("base"):
        raise ValueError(
            "config.distillation: config.base names no model, expected the one that is the teacher"
        )
    options = config.get("loss") or {}
    for key, value in options.items():
        if isinstance(value, dict) and value.get("weight") or key == "learn_logvar" and value:
            raise ValueError(f"config.loss.{key} does not go with config.distillation, expected it left out")


def check_numbers(value: Any, name: str) -> None:
    """Raises: ValueError for a number in plain data that is not finite. name: of the value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_numbers(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            check_numbers(inner, f"{name}[{i}]")


def check_devices(config: dict) -> None:
    """Raises: ValueError where the config does not go with the devices that there are."""
    parallel.check_batch_size(config["batch_size"], jax.device_count())
    parallel.make(config.get("parallelism", "pmap"), config.get("mesh"))


def has_checkpoints(workdir: Path) -> bool:
    folder = workdir / "checkpoints"
    found = [name for name in paths.names(folder) if name.isdigit()]
    if paths.in_bucket(workdir):  # where a save that was cut off has that name too
        return any("commit_success.txt" in paths.names(folder / name) for name in found)
    return bool(found)


def check_workdir(workdir: Path, config: dict) -> None:
    """Compares the config with that of the checkpoints in the workdir, if there are any. Its length, logging, learning
    rate and distribution over devices may change when a run is resumed.

    Raises: ValueError that names the first key that differs.
    """
    free = {"total_steps", "log_every", "checkpoint_every", "preview_every", "keep", "sampling"}
    free |= {
        "base",
        "base_tokenizer",
        "personalization",
        "evaluate_every",
        "holdout_every",
        "evaluate",
        "class_names",
        "parallelism",
        "mesh",
        "steps_per_dispatch",
        "writers",
    }
    rate = {"base_lr", "scale_lr", "schedule"}

    def fixed(config: dict) -> dict:
        kept = {k: v for k, v in config.items() if k not in free}
        whole = with_defaults(config["optimizer"])
        kept["optimizer"] = {k: v for k, v in whole.items() if k not in rate}
        loss = config.get("loss") or {}  # where a term of weight 0 is none
        kept["loss"] = {k: v for k, v in loss.items() if not (isinstance(v, dict) and not v.get("weight"))}
        not_given = {"num_threads"} | {k for k, v in config["data"].items() if v is None}
        kept["data"] = {k: v for k, v in config["data"].items() if k not in not_given}
        return json.loads(json.dumps(kept))

    path = workdir / "config.json"
    if not path.exists() or not has_checkpoints(workdir):
        return
    kept = text_files.read_object(path, "the workdir's config", {"optimizer": dict, "data": dict})
    before, now = fixed(kept), fixed(config)
    differing = sorted(k for k in set(before) | set(now) if before.get(k) != now.get(k))
    if differing:
        key = differing[0]
        raise ValueError(
            f"workdir {workdir} belongs to another config: {key} is {before.get(key)!r} there and "
            f"{now.get(key)!r} here; "
            "take another --workdir"
        )


@contextlib.contextmanager
def claimed(workdir: Path) -> Iterator[Callable[[], None]]:
    """The workdir is this run's while the block runs: its first process holds the mark (distributed/mark.py), and the
    others wait until it does. What killed runs left half written is removed.

    Yields what mark.held does. Raises: ValueError, before anything is written, if another run is at work there;
    OSError, naming the host, if the workdir cannot be written.
    """
    if not is_first():
        barrier("the workdir")
        yield lambda: None
        return
    in_bucket = paths.in_bucket(workdir)
    with contextlib.ExitStack() as stack:
        try:
            check = stack.enter_context((bucket_mark if in_bucket else mark).held(workdir))
            patterns = () if in_bucket else ("*.partial", "images/*.partial")  # an object is whole or none
            for litter in [path for pattern in patterns for path in workdir.glob(pattern)]:
                shutil.rmtree(litter) if litter.is_dir() and not litter.is_symlink() else litter.unlink()
        except OSError as error:
            raise _not_writable(workdir, error) from None
        barrier("the workdir")
        yield check


@contextlib.contextmanager
def unless_refused(workdir: Path) -> Iterator[None]:
    """A workdir that the block made goes again with an error of the user's, by which a run is refused before it
    begins: no checkpoint was begun, and nothing measured or drawn. One that was there stays as it is."""
    was_there = workdir.exists()
    try:
        yield
    except (ValueError, FileNotFoundError):
        begun = any(
            (workdir / name).exists() for name in ("checkpoints", "latents.json", "latents.npy", "prior")
        )
        if is_first() and not was_there and not begun:
            with contextlib.suppress(OSError):
                paths.remove_tree(workdir)
        raise


def _here(workdir: Path) -> str:
    return f"workdir {workdir} on {socket.gethostname()}, process {jax.process_index()},"


def _not_writable(workdir: Path, error: OSError) -> OSError:
    return OSError(f"{_here(workdir)} cannot be written: {error.strerror or error}; take another --workdir")


def check_room(workdir: Path, state: PyTree) -> None:
    """Creates the workdir and writes a temporary file to it, before anything is computed.

    state: the arrays of a checkpoint. Raises: OSError, naming the host, if the workdir cannot be written or a
    checkpoint does not fit on its disk.
    """
    try:
        atomic.write_text(workdir / f"writable.{jax.process_index()}", "")
        paths.unlink(workdir / f"writable.{jax.process_index()}")
    except OSError as error:
        raise _not_writable(workdir, error) from None
    # Several processes write a state together: this one at least its part.
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / jax.process_count()
    if paths.in_bucket(workdir):  # which has room
        return
    free = shutil.disk_usage(workdir).free
    if needed > free:
        raise OSError(
            f"no space left: {_here(workdir)} has {free / 1e9:.2f} GB free, and a checkpoint needs "
            f"{needed / 1e9:.2f} GB of it"
        )


def check_data(workdir: Path, fingerprint: str) -> None:
    """Compares the fingerprint of the data with that of the checkpoints in the workdir; stores it if there are none.

    fingerprint: of a data source. Raises: ValueError if the two differ.
    """
    path = workdir / DATA
    before = None
    if path.exists():
        kept = text_files.read_object(path, "the workdir's record of its data", {"fingerprint": str})
        before = kept["fingerprint"]
    if before not in (None, fingerprint) and has_checkpoints(workdir):
        raise ValueError(
            f"workdir {workdir} was trained on other data than it would go on with: their fingerprint is "
            f"{before[:12]} there and "
            f"{fingerprint[:12]} here; restore them, or take another --workdir"
        )
    if is_first():
        atomic.write_text(path, json.dumps({"fingerprint": fingerprint}) + "\n")


def check_counter(state: TrainState, step: int, folder: Any) -> None:
    """Raises: ValueError if a state that is resumed from is not of the step that its checkpoint in `folder` is named
    after: batches and the keys of noise would be those of one step, the warm-up of the running average, which counts
    with the state, of another."""
    if int(state.step) != step:
        raise ValueError(
            f"checkpoint {step} in {folder} holds the state after step {int(state.step)}, expected {step}: its folder "
            f"was renamed; give it its name back, or move it away"
        )


def read_unreadable(workdir: Path) -> list:
    """What `keep_unreadable` kept of all processes, each entry once. Raises: ValueError for a file that is damaged."""
    found = {}
    for path in sorted(workdir.glob(UNREADABLE.format("*"))):
        what = "the workdir's list of unreadable files"
        for entry in text_files.read_object(path, what, {"files": list})["files"]:
            if not isinstance(entry, list) or not entry:
                raise ValueError(
                    f"{what} {path} holds {entry!r}, expected lists that begin with a file's name"
                )
            found[str(entry[0])] = entry
    return list(found.values())


def keep_unreadable(workdir: Path, entries: list) -> None:
    """Keeps which files of the data could not be read, so that the run may go on without them.

    entries: of a source's `unreadable_files`, lists that begin with the file's name. Each process has a file of its
    own.
    """
    if entries:
        path = workdir / UNREADABLE.format(jax.process_index())
        atomic.write_text(path, json.dumps({"files": sorted(entries)}) + "\n")
