"""Edits pictures, drawn or given: chooses how a given picture is inverted, and draws it and its edit side by side.

Decides what an editing method is told of the source. What a method does is its own file's in editing/.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import grid
from ldm_jax.conditioning import emphasis
from ldm_jax.data import pictures
from ldm_jax.find import find
from ldm_jax.inference import inversions, methods, words
from ldm_jax.types import Array

BATCH_SIZE = 8  # as of LatentDiffusion.sample


class Edited(NamedTuple):
    """The result of `edit`.

    images: [N, H, W, 3] uint8. sources: the images of each source branch, by name. masks: what the method shows
    of its work, such as 'mask' [N, h, w] float32, latent cells in [0, 1]. maps: of each branch, and of 'edited',
    for each picture [(word, [h, w] float32)], where the word's tokens are looked at, the mean over steps, sites
    and heads; {} for a network without cross-attention.
    """

    images: np.ndarray
    sources: dict[str, np.ndarray]
    masks: Mapping[str, np.ndarray] = MappingProxyType({})
    maps: Mapping[str, list[words.WordMaps]] = MappingProxyType({})


def edit(
    model: Any,
    source: str | Sequence[str],
    prompts: str | Sequence[str],
    method: str,
    seeds: Sequence[int] | None,
    image: Sequence | Array | None,
    inversion: Any,
    options: Mapping[str, Any] | None,
    sampling: dict[str, Any],
) -> Edited:
    """See LatentDiffusion.edit."""
    for name in ("edit", "output", "inverted"):
        if name in sampling:
            raise ValueError(f"edit has no option {name!r}: it gives Edited(images, sources), uint8 arrays")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not sampling.get("plain_prompts"):
        source, prompts = emphasis.all_parsed(source), emphasis.all_parsed(prompts)
    module = find("editing", method)

    # A given picture: what draws it again.
    if image is not None:
        names = ("batch_size", "guidance_scale", *inversions.SHARED)
        shared = {name: sampling[name] for name in names if name in sampling}
        asked = inversion or getattr(module, "INVERSION", inversions.SAMPLER)
        sampling["inverted"] = model.invert(image, source, asked, seeds, **shared)
        if seeds is None:
            seeds = range(len(sampling["inverted"].arrays["trajectory"]))
    elif inversion is not None:
        raise ValueError(f"inversion {inversion!r}: there is no image that it could be of")

    # The source, where the method looks at it, and the picture beside it.
    looks = "source" in (*getattr(module, "BRANCHES", ()), *methods.options_of("editing", method))
    said = ({"source": source} if looks else {}) | dict(options or {})
    given = {name: said[name] for name in getattr(module, "PICTURES", {}) if said.get(name) is not None}
    for name, picture in given.items():
        prompt = module.PICTURES[name]
        said = {prompt: ""} | said
        said[name] = _trajectory(model, picture, said[prompt], len(prompts), sampling)
    drawn, shown = _drawn(model, prompts, seeds, edit=[(method, said)], **sampling)
    told = {name: said[name] for name in getattr(module, "BRANCHES", ())} if drawn.shape[1] > 1 else {}
    sources = {name: drawn[:, i] for i, name in enumerate(told)}
    maps = {}
    if "maps" in shown:
        read = np.concatenate([shown["maps"][:, : len(told)], shown.pop("maps")[:, -1:]], axis=1)
        maps = words.of_maps(model.system.tokenizer, read, told | {"edited": prompts})
    if not sources and image is None:  # of a method, or a neutral setting, that looks at no other branch
        sources = {"source": model.sample(source, seeds, **sampling)}
    elif not sources:
        clean = sampling["inverted"].arrays["trajectory"][:, -1]
        rebuilt = model._in_batches(model.decode, clean, sampling.get("batch_size", BATCH_SIZE))
        sources = {"source": grid.to_uint8(rebuilt)}
    return Edited(drawn[:, -1], sources, shown, maps)


def _trajectory(
    model: Any, picture: Any, prompt: Any, number: int, sampling: Mapping[str, Any]
) -> np.ndarray:
    """[number, S + 1, h, w, c]: what a picture, an array or a file, or one each, is inverted to without guidance."""
    many = picture if isinstance(picture, list | tuple) else [picture]
    images = [pictures.read_picture(one) if isinstance(one, str | Path) else np.asarray(one) for one in many]
    shared = {name: sampling[name] for name in ("batch_size", *inversions.SHARED) if name in sampling}
    shape = sampling["inverted"].image_shape if "inverted" in sampling else model.system.image_shape
    for image in images:
        if np.shape(image)[:2] != tuple(shape):
            raise ValueError(
                f"a further picture is of size {np.shape(image)[:2]}, expected {tuple(shape)}, that of the edited one"
            )
    path = model.invert(images, prompt, inversions.SAMPLER, **shared).arrays["trajectory"]
    return np.broadcast_to(path, (number, *path.shape[1:]))


def _drawn(model: Any, *args, **options) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(pictures of all branches [N, n, H, W, 3] uint8, what the edits show) of LatentDiffusion.sample's arguments."""
    batches = [batch for _, batch in model.stream(*args, output="edited", **options)]
    shown = {name: np.concatenate([one[name] for _, one in batches]) for name in batches[0][1]}
    return np.concatenate([drawn for drawn, _ in batches]), shown
