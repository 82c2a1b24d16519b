"""Files of textual inversion as they are exchanged: read as a delta of personalization/textual_inversion.py, and
written.

    {token: [D] or [n, D]}                     diffusers, learned_embeds.safetensors or .bin; of Stable Diffusion XL two
                                               files, the second learned_embeds_2
    {'string_to_param': {'*': [n, D]}, …}      AUTOMATIC1111, .pt
    {'emb_params': [n, D]}                     kohya's scripts; of Stable Diffusion XL {'clip_l': …, 'clip_g': …}
Where a file does not say its word, that is the file's name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.convert import files
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.personalization.words import TABLE, tables
from ldm_jax.types import PyTree

TOWERS = ("clip_l", "clip_g")
LAYOUTS = ("diffusers", "kohya")
BASES = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the second encoder of Stable Diffusion XL",
}
_NAMELESS = ("emb_params", "string_to_param.*", "*")


def is_embedding(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file holds embeddings of words alone."""
    names = set(tensors) - {"string_to_token.*"}
    shaped = all(len(tensors[name].shape) in (1, 2) for name in names)
    return shaped and bool(names) and (names <= set(TOWERS) or len(names) == 1) and not _is_layer(*names)


def _is_layer(first: str, *_: str) -> bool:
    """Whether a name is that of a network's layer: a file of one alone is a file of something else."""
    return first.endswith((".weight", ".bias", ".alpha"))


def read(file: Path, tensors: Mapping[str, Tensor], template: PyTree) -> tuple[dict[str, Any], PyTree]:
    """(section of personalization, delta) of a file, for a model with these parameters.

    Raises: ValueError for numbers that are not finite, and embeddings of another width than the model's.
    """
    found = {
        name: _rows(file, name, tensor) for name, tensor in tensors.items() if name != "string_to_token.*"
    }
    token = file.stem
    if len(found) == 1 and not found.keys() & {*_NAMELESS, *TOWERS}:
        (token,) = found
        found |= _second(file, token)
    places = {path[-3] if path[-3] in TOWERS else "": path for path in tables(template)}
    rows = _placed(file, found, token, places)
    number = {len(array) for array in rows.values()}
    if len(number) != 1:
        raise ValueError(f"{file}: its text encoders have {number} vectors, expected as many of each")
    for path, array in rows.items():
        wide = flatten(template)["conditioner", *path].shape[1]
        if array.shape[1] != wide:
            fits = BASES.get(array.shape[1], "another model")
            raise ValueError(
                f"{file} is of another base: its vectors have {array.shape[1]} numbers, as those of {fits}, and this "
                f"model's have {wide}"
            )
    section = dict(name="textual_inversion", token=token, vectors=number.pop())
    return section, unflatten({("conditioner", *path): array for path, array in rows.items()})


def _placed(
    file: Path, found: Mapping[str, np.ndarray], token: str, places: Mapping[str, ParamPath]
) -> dict[ParamPath, np.ndarray]:
    """{path of a table: its rows}."""
    if set(places) == {""}:
        if len(found) > 1:
            raise ValueError(
                f"{file} has vectors for {', '.join(found)}, and this model has one text encoder"
            )
        return {places[""]: next(iter(found.values()))}
    named = {
        "clip_l": found.get("clip_l", found.get(token)),
        "clip_g": found.get("clip_g", found.get("second")),
    }
    missing = [tower for tower in places if named.get(tower) is None]
    if not places or missing:
        raise ValueError(
            f"{file} has no vectors for {', '.join(missing) or 'any text encoder'}, expected some for each that the "
            f"model has"
        )
    return {path: named[tower] for tower, path in places.items()}


def _second(file: Path, token: str) -> dict[str, np.ndarray]:
    """{'second': …} of the file beside it that diffusers writes for the second text encoder."""
    beside = file.with_name(f"{file.stem}_2{file.suffix}")
    if not beside.is_file():
        return {}
    other = files.open_tensors(beside)
    return {"second": _rows(beside, token, other[token])} if token in other else {}


def _rows(file: Path, name: str, tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor.read(), np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{file}: {name} has NaN or infinity in it, expected finite numbers")
    return np.atleast_2d(array)


def write(
    file: Path,
    layout: str,
    section: Mapping[str, Any],
    delta: PyTree,
    header: Mapping[str, str],
    dtype: Any = None,
) -> None:
    """Writes the vectors of a word; with `diffusers` those of a second text encoder into a file beside it.

    A file that is called .pt or .bin is one of torch.save. Raises: ValueError for another layout, and for a word that
    has vectors for sites of a network, which no other program reads.
    """
    if section["name"] != "textual_inversion" or layout not in LAYOUTS:
        raise ValueError(
            f"{file}: {section['name']} cannot be written as {layout}, expected textual_inversion as diffusers or kohya"
        )
    token = section["token"]
    shared = section.get("vectors", 1)  # without the words of single pictures
    rows = {
        path[-3] if path[-3] in TOWERS else "": np.asarray(a)[:shared] for path, a in flatten(delta).items()
    }
    assert all(path[-2:] == TABLE for path in flatten(delta))
    if layout == "kohya":
        written = {file: {tower or "emb_params": array for tower, array in rows.items()}}
    elif "" in rows:
        written = {file: {token: rows[""]}}
    else:
        places = dict(zip(TOWERS, (file, file.with_name(f"{file.stem}_2{file.suffix}")), strict=True))
        written = {place: {token: rows[tower]} for tower, place in places.items() if tower in rows}
    for place, tensors in written.items():
        if place.suffix in (".pt", ".bin"):
            files.write_ckpt(place, tensors, dtype, wrapped=False)
        else:
            files.write_safetensors(place, tensors, dtype, {"format": "pt"} | dict(header))
