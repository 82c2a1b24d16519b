"""Samples of a model on all devices of this host, and what a model is told when many are drawn.

Each device runs the program of one device on its share of a batch, so that image i depends on seed i, as everywhere. It
knows no metric.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import text_files
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.shapes_world import prompts as shapes
from ldm_jax.shapes_world.scenes import WORDS
from ldm_jax.types import PyTree


class OnAllDevices(LatentDiffusion):
    """The same model, each batch shared among devices (those of this host); batches must divide by their number."""

    def __init__(self, model: LatentDiffusion, devices: Sequence[jax.Device] | None = None):
        self.devices = list(jax.local_devices() if devices is None else devices)
        self._mesh = Mesh(np.asarray(self.devices), ("images",))
        super().__init__(model.system, model.params, model.scale_factor, model.config)
        self.place(model.params)

    def place(self, params: PyTree) -> None:
        """Samples with these parameters from now on, the same on every device."""
        self.params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))

    def _shared(self, run, in_specs):
        split = PartitionSpec("images")
        return jax.jit(
            jax.shard_map(run, mesh=self._mesh, in_specs=in_specs, out_specs=split, check_vma=False)
        )

    def _program(self, recipe):
        key = ("shared", recipe)
        if key not in self._programs:
            run = super()._program(recipe)
            whole, split = PartitionSpec(), PartitionSpec("images")
            specs = (whole, split, split, split, whole, whole, whole, whole, split)
            self._programs[key] = self._shared(run, specs)
        return self._programs[key]

    def _decode(self, latents) -> np.ndarray:
        if "shared decode" not in self._programs:
            scale = self.scale_factor
            self._programs["shared decode"] = self._shared(
                lambda p, z: self.system.first_stage.decode(p, z / scale),
                (PartitionSpec(), PartitionSpec("images")),
            )
        number = len(latents)
        padded = -(-number // len(self.devices)) * len(self.devices)  # tiles may be fewer than the devices
        latents = np.asarray(latents)[np.minimum(np.arange(padded), number - 1)]
        return np.asarray(self._programs["shared decode"](self.params["first_stage"], latents))[:number]

    def draw(self, given: dict[str, Sequence], seeds: Sequence[int], rows: int, **options) -> np.ndarray:
        """[N, H, W, 3] uint8, one per seed, in a batch of `rows` >= N, a multiple of the devices: the last seed fills it up.

        given: a value for each seed, by names of system.takes. options: of LatentDiffusion.sample.
        """
        fill = [min(i, len(seeds) - 1) for i in range(rows)]
        given = {name: [values[i] for i in fill] for name, values in given.items()}
        return self.sample(seeds=[int(seeds[i]) for i in fill], batch_size=rows, **given, **options)[
            : len(seeds)
        ]


def draws_shapes(model: LatentDiffusion) -> bool:
    """Whether a text model knows the words of the shapes world, and so its prompts."""
    known = model.system.tokenizer
    return (
        "prompts" in model.system.takes
        and model.system.image_size == 64
        and known is not None
        and known.get_vocab_size() < 100
        and all(known.token_to_id(word) is not None for word in WORDS)
    )


def conditions(model: LatentDiffusion, count: int, prompts: str | Path | None = None) -> dict[str, list]:
    """What `count` samples are told, by names of system.takes: prompts out of a file, one in a line, in turn; classes in
    turn; held-out prompts of the shapes world, of all kinds in turn, where the model knows its words.

    Raises: ValueError for a model that takes something else, or prompts that are not there.
    """
    takes = [name for name in model.system.takes if name not in model.system.optional]
    if prompts is not None and "prompts" not in takes:
        raise ValueError(f"--prompts {prompts}: this model takes {', '.join(takes) or 'no conditions'}")
    if not takes:
        return {}
    if takes == ["prompts"]:
        if prompts is not None:
            said = read_prompts(prompts)
            return {"prompts": [said[i % len(said)] for i in range(count)]}
        if draws_shapes(model):
            return {"prompts": shapes.mixed_prompts(count)}
        raise ValueError("this model takes prompts: name a file with one in each line, --prompts FILE")
    if takes == ["class_labels"]:
        number = next(p.conditioner.num_classes for p in model.system.parts if "class_labels" in p.kind.TAKES)
        return {"class_labels": [i % number for i in range(count)]}
    raise ValueError(
        f"this command samples models that take prompts, class_labels or nothing, and this one takes {', '.join(takes)}: "
        "draw with sample.py, and measure its folder with --images"
    )


def kinds(model: LatentDiffusion, prompts: str | Path | None = None) -> tuple[str, ...] | None:
    """The kinds of prompt that `conditions` takes in turn; None where it takes other prompts or none."""
    return shapes.KINDS if prompts is None and draws_shapes(model) else None


def read_prompts(path: str | Path) -> list[str]:
    """The lines of a text file that are not empty. Raises: ValueError if it is not there, or has none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"prompts {str(path)!r} are not there, expected a text file with one in each line")
    said = [line.strip() for _, line in text_files.lines(path, "prompts")]
    if not said:
        raise ValueError(f"prompts {path}: the file is empty, expected one in each line")
    return said
