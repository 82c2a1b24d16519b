"""What the scores of the tasks on the shapes world share: the model that is scored, held-out scenes, grids to look at.

A task is one file of this folder that defines
    score(args) -> Outcome      args: of the command (command.py); its docstring's first sentence is the command's help
and, if it needs them, TASK: its name on the command line, where that is not the file's, and OPTIONS: {flag: what
argparse takes}, its own arguments.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import atomic, cli, grid
from ldm_jax.checkpoints.base import options_from
from ldm_jax.inference import pipeline
from ldm_jax.params import fingerprint
from ldm_jax.shapes_world import scenes as world

# Seeds count up from it, as in shapes_world/prompts.py: training's previews take the low ones.
FIRST_SEED = 1_000_000
SHOWN = 16  # pictures of a grid
PART = 40  # pictures after which a long measurement keeps what it has


class Outcome(NamedTuple):
    """figures: what the last line says. shown: pictures by the name of their grid, the rows of it, [N, H, W, 3] uint8
    each."""

    figures: dict[str, Any]
    shown: dict[str, list[np.ndarray]]


class Model:
    """The model of --checkpoint with its --adapter, sampled with the settings of the arguments.

    Raises: ValueError if it was trained at another size than that of the scenes, unless any_size.
    """

    def __init__(self, args: argparse.Namespace, any_size: bool = False):
        self.args = args
        adapters = [args.adapter] if args.adapter else []
        self.model = pipeline.load(args.checkpoint, adapters=adapters, **options_from(args)._asdict())
        self.system = self.model.system
        if self.system.image_size != world.SIZE and not any_size:
            side = self.system.image_size
            raise ValueError(
                f"--checkpoint {args.checkpoint!r} draws pictures of {side} x {side}, expected {world.SIZE} "
                f"x {world.SIZE} "
                "as the scenes of the shapes world have"
            )

    def check_takes(self, *names: str) -> None:
        """Raises: ValueError for a model that does not take these conditions, or insists on others."""
        needed = [name for name in self.system.takes if name not in self.system.optional]
        if not set(names) <= set(self.system.takes) or not set(needed) <= set(names):
            raise ValueError(
                f"--checkpoint {self.args.checkpoint!r} takes "
                f"{', '.join(self.system.takes) or 'no conditions'}, and task "
                f"{self.args.task!r} is for a model that takes {' and '.join(names) or 'none'}"
            )

    def draw(self, label: str, number: int, first: int = 0, **given) -> np.ndarray:
        """`number` pictures [N, H, W, 3] uint8, from the first on. given: of LatentDiffusion.sample, a value for
        each."""
        args, report = self.args, cli.progress(label, number)
        return self.model.sample(
            seeds=[FIRST_SEED + first + i for i in range(number)], num_steps=args.steps, sampler=args.sampler,
            guidance_scale=args.guidance_scale, batch_size=args.batch_size, progress=lambda done, _: report(done),
            **given,
        )  # fmt: skip

    def in_parts(
        self, about: dict[str, Any], number: int, make: Callable[[slice], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """{name: [number, ...]} of make(which of them), some at a time. With --out each part is kept in OUT/parts,
        so that the same command goes on where it was stopped. about: what they depend on, besides the model and the
        sampler."""
        args, found = self.args, []
        asked = dict(about, steps=args.steps, sampler=args.sampler, guidance_scale=args.guidance_scale)
        asked |= dict(model=fingerprint(self.model.params)) if args.out else {}
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        for start in range(0, number, PART):
            which = slice(start, min(start + PART, number))
            path = Path(args.out) / "parts" / f"{name}_{start}_{which.stop}.npz" if args.out else None
            if path is None or not path.is_file():
                found.append(make(which))
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic.writing(path) as partial, open(partial, "wb") as file:
                        np.savez_compressed(file, **found[-1])
            else:
                with np.load(path) as kept:
                    found.append(dict(kept))
        return {key: np.concatenate([part[key] for part in found]) for key in found[0]}

    def told(self, scenes: Sequence[world.Scene]) -> dict[str, list]:
        """Conditions that describe the scenes, for those that the model requires: prompts or class labels.

        Raises: ValueError if the model requires others.
        """
        known = {"prompts": world.caption, "class_labels": main_class}
        needed = [name for name in self.system.takes if name not in self.system.optional]
        self.check_takes(*(name for name in needed if name in known))
        return {name: [known[name](scene) for scene in scenes] for name in needed}

    def settings(self) -> dict[str, Any]:
        """The settings that every drawing task reports."""
        args = self.args
        return dict(
            num_samples=args.num_samples, steps=args.steps, sampler=args.sampler, checkpoint=args.checkpoint
        )


def main_class(scene: world.Scene) -> int:
    return world.class_label(max(scene.objects, key=lambda o: o.r))


def scenes_and_images(number: int, first: int = 0) -> tuple[list[world.Scene], np.ndarray]:
    """Held-out scenes and their pictures [N, 64, 64, 3] uint8."""
    scenes = [world.scene(first + i, "test") for i in range(number)]
    return scenes, np.stack([world.render(scene) for scene in scenes])


def mean_finite(values: np.ndarray) -> float | None:
    """The mean of a figure that is infinite where pictures agree, over the others; None where all do."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def write_grid(path: Path, series: Sequence[np.ndarray]) -> None:
    """The first pictures of each series in a row, the series below each other, as a PNG; one alone fills a square."""
    shown = min([SHOWN, *map(len, series)])
    pictures = np.concatenate([one[:shown] for one in series])
    grid.write_png(path, grid.grid(pictures, columns=shown if len(series) > 1 else None))
