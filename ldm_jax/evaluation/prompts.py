"""Prompts and classes for the samples of an evaluation, and drawing them in batches of one size.

It knows no metric.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm_jax import text_files
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world.scenes import WORDS


def draw(
    model: LatentDiffusion, given: dict[str, Sequence], seeds: Sequence[int], rows: int, **options
) -> np.ndarray:
    """[N, H, W, 3] uint8, one per seed, in a batch of `rows` >= N, a multiple of the devices: the last seed fills it
    up, so that every batch is computed by one program.

    given: a value for each seed, by names of system.takes; brackets of captions are letters as any. options: of
    LatentDiffusion.sample.
    """
    fill = [min(i, len(seeds) - 1) for i in range(rows)]
    given = {name: [values[i] for i in fill] for name, values in given.items()}
    batch_size = -(-rows // model.devices.number)
    drawn = model.sample(
        seeds=[int(seeds[i]) for i in fill], batch_size=batch_size, plain_prompts=True, **given, **options
    )
    return drawn[: len(seeds)]


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
    """The conditions of `count` samples, by names of system.takes: the prompts of a file, one per line, in turn;
    classes in turn; or, if the model knows their words, held-out prompts of the shapes world, all kinds in turn.

    Raises: ValueError if the model takes other conditions, or if there are no prompts.
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
            return {"prompts": shapes_prompts.mixed_prompts(count)}
        raise ValueError("this model takes prompts: name a file with one in each line, --prompts FILE")
    if takes == ["class_labels"]:
        number = next(p.conditioner.num_classes for p in model.system.parts if "class_labels" in p.kind.TAKES)
        return {"class_labels": [i % number for i in range(count)]}
    raise ValueError(
        f"this command samples models that take prompts, class_labels or nothing, and this one takes "
        f"{', '.join(takes)}: "
        "draw with sample.py, and measure its folder with --images"
    )


def kinds(model: LatentDiffusion, prompts: str | Path | None = None) -> tuple[str, ...] | None:
    """The kinds of prompt that `conditions` takes in turn; None where it takes other prompts or none."""
    return shapes_prompts.KINDS if prompts is None and draws_shapes(model) else None


def read_prompts(path: str | Path) -> list[str]:
    """The lines of a text file that are not empty. Raises: ValueError if it is not there, or has none."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"prompts {str(path)!r} are not there, expected a text file with one in each line")
    said = [line.strip() for _, line in text_files.lines(path, "prompts")]
    if not said:
        raise ValueError(f"prompts {path}: the file is empty, expected one in each line")
    return said
