"""Where a run's figures and pictures go: TensorBoard in its workdir, and Weights & Biases where the config asks for it.

Decides which of config.writers there are, and what of a run Weights & Biases is told. Its own settings are its own
environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME, WANDB_MODE=offline.
"""

import importlib.util
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import paths, text_files
from ldm_jax.atomic import write_json
from ldm_jax.distributed import hosts
from ldm_jax.training import events

KNOWN = ("tensorboard", "wandb")
KEPT = "wandb.json"  # in the workdir: which run it is there, so that a run that goes on does so there too


def names(config: Mapping[str, Any]) -> list[str]:
    """config.writers, by default TensorBoard alone. Raises: ValueError for an unknown one, or one that is not
    installed."""
    given = config.get("writers")
    found = ["tensorboard"] if given is None else list(given)
    for name in found:
        if name not in KNOWN:
            raise ValueError(f"config.writers: {name!r} not found; there are: {', '.join(KNOWN)}")
    if "wandb" in found and importlib.util.find_spec("wandb") is None:
        raise ValueError("config.writers has wandb, which is not installed: pip install 'ldm_jax[wandb]'")
    return found


def make(config: Mapping[str, Any], workdir: Path) -> Any:
    """One writer of all of them, with the methods of events.EventWriter; of other processes than the first, of none."""
    if not hosts.is_first():
        return events.EventWriter(None)
    makes = {"tensorboard": lambda: events.EventWriter(workdir), "wandb": lambda: Wandb(config, workdir)}
    return Several([makes[name]() for name in names(config)])


class Several:
    """Each call goes to all of them."""

    def __init__(self, writers: Sequence[Any]):
        self.writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        for writer in self.writers:
            writer.write_images(step, images)

    def flush(self) -> None:
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class Wandb:
    """A run of Weights & Biases, with the methods of events.EventWriter; wandb writes in a process of its own.

    The step is a metric of its own, against which all others are drawn: a run that goes on from its last checkpoint
    repeats steps, which wandb's own counter does not do.
    """

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        import wandb

        kept = workdir / KEPT
        if kept.exists():
            run_id = text_files.read_object(kept, "the workdir's record of its wandb run", {"id": str})["id"]
        else:
            run_id = secrets.token_hex(8)
            write_json(kept, {"id": run_id})
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ldm_jax"),
            name=os.environ.get("WANDB_NAME", paths.absolute(workdir).name),
            dir=str(paths.scratch(workdir)),
            id=run_id,
            resume="allow",
            config=dict(config),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log({"step": step} | {name: float(value) for name, value in scalars.items()})

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """images: [N, H, W, C] uint8 each."""
        shown = {name: [self._image(np.asarray(one)) for one in many] for name, many in images.items()}
        self._run.log({"step": step} | shown)

    def flush(self) -> None:
        """wandb sends by itself."""

    def close(self) -> None:
        self._run.finish()
