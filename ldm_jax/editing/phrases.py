"""Words, phrases and regions that a user names, as arrays: which tokens of each picture's prompt they are, and where.

What several methods of this room read in their `prepare`; call is an inference.methods.Call. Slots are filled up to a power of
two, so that another number of words seldom compiles anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.types import Array

SLOTS = 4  # the fewest


def slots(number: int) -> int:
    """The number of slots for so many words or phrases: SLOTS, or the next power of two."""
    return max(SLOTS, 1 << (max(number, 1) - 1).bit_length())


def named(call: Any, given: Any, option: str) -> list[list[str]]:
    """One list of words or phrases for each picture. given: 'a,b' or a list of strings for all pictures, or a list for each.

    Raises: ValueError for another kind of value, and a number of lists that is not that of the pictures.
    """
    given = [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given
    several = isinstance(given, Sequence) and all(isinstance(one, str) for one in given)
    each = [list(given)] * call.num_pictures if several else given
    fits = isinstance(each, Sequence) and len(each) == call.num_pictures
    fits = fits and all(not isinstance(one, str) and all(isinstance(w, str) for w in one) for one in each)
    if not fits:
        raise ValueError(
            f"{option}: got {given!r}, expected words, or a list of them for each of {call.num_pictures} pictures"
        )
    return [list(one) for one in each]


def nouns(call: Any) -> list[list[str]]:
    """The last word of each phrase of each prompt: 'circle' and 'square' of 'a red circle and a square'."""
    return [[clause.words[-1] for clause in call.clauses(p) if clause.words] for p in call.prompts]


def noun_phrases(call: Any) -> list[list[str]]:
    """The phrases of each prompt, of more than an article."""
    return [[clause.text for clause in call.clauses(p) if clause.words] for p in call.prompts]


def weights(call: Any, words: Sequence[Sequence[str]]) -> np.ndarray:
    """[N, W, L] float32: which tokens of its prompt each word has, a row sums to 1; a slot that is not used is zeros.

    Raises: ValueError for a word that is not in its prompt, naming those that are.
    """
    found = np.zeros((len(words), slots(max(map(len, words))), len(call.text_tokens(""))), np.float32)
    for row, prompt, said in zip(found, call.prompts, words, strict=True):
        for slot, word in zip(row, said, strict=False):
            places = call.token_indices(prompt, word)
            slot[places] = 1 / len(places)
    return found


def takes(call: Any, phrases: Sequence[Sequence[str]]) -> np.ndarray:
    """[N, k, L] int32: for each token of a prompt that belongs to a phrase, its place in the phrase said alone; -1 elsewhere.

    Raises: ValueError for a phrase that is not in its prompt.
    """
    found = np.full((len(phrases), slots(max(map(len, phrases))), len(call.text_tokens(""))), -1, np.int32)
    for row, prompt, said in zip(found, call.prompts, phrases, strict=True):
        for slot, phrase in zip(row, said, strict=False):
            alone = np.flatnonzero(call.text_tokens(phrase))
            places = call.token_indices(prompt, phrase)
            slot[places] = alone[np.arange(len(places)) % len(alone)]
    return found


def texts(phrases: Sequence[Sequence[str]]) -> list[list[str]]:
    """The phrases of each picture, filled up with empty ones, as a method's CONDITIONS: k lists of N."""
    number = slots(max(map(len, phrases)))
    return [
        list(one) for one in zip(*([*said, *[""] * (number - len(said))] for said in phrases), strict=True)
    ]


def overwrite(context: Array, alone: Array, take: Array) -> Array:
    """context [B, L, D] with the tokens of one phrase as the phrase said alone has them. alone: [B, L, D]. take: [B, L] int32."""
    said = jnp.take_along_axis(alone, jnp.maximum(take, 0)[..., None], axis=1)
    return jnp.where(take[..., None] >= 0, said.astype(context.dtype), context)


# --------------------------------------------------------------------------------------------------------------------
# regions


def regions(call: Any, given: Any, method: str) -> tuple[list[list[str]], np.ndarray]:
    """(phrases of each picture, masks [N, k, h, w] float32 of latent cells, 1 inside) of what a user gives.

    given: [{'phrase': words of the prompt, 'box': [x0, y0, w, h] as fractions of the picture, or 'mask': [H, W] numbers of any
      size, above 0.5 inside}, …] for all pictures, or a list of them for each.
    Raises: ValueError for another structure, a box that is empty or reaches out of the picture, and a mask without a cell.
    """
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise ValueError(
            f"{method}: regions is {given!r}, expected [{{'phrase': …, 'box': [x0, y0, w, h]}}, …]"
        )
    each = [given] * call.num_pictures if isinstance(given[0], Mapping) else given
    if len(each) != call.num_pictures or not all(isinstance(r, Mapping) for one in each for r in one):
        raise ValueError(f"{method}: regions are of {len(each)} pictures, expected {call.num_pictures}")
    height, width = call.latent_shape[:2]
    masks = np.zeros((len(each), slots(max(map(len, each))), height, width), np.float32)
    for row, one in zip(masks, each, strict=True):
        for slot, region in zip(row, one, strict=False):
            slot[:] = _cells(region, height, width, method)
    return [[region["phrase"] for region in one] for one in each], masks


def _cells(region: Mapping, height: int, width: int, method: str) -> np.ndarray:
    """[height, width] float32 of one region."""
    kinds = {"phrase", "box"}, {"phrase", "mask"}
    if set(region) not in kinds or not isinstance(region["phrase"], str):
        raise ValueError(
            f"{method}: a region has {', '.join(map(str, region))}, expected phrase, and box or mask"
        )
    if "box" in region:
        cells = box_cells(region["box"], height, width, f"{method}: the box of {region['phrase']!r}")
    else:
        mask = np.asarray(region["mask"], np.float32)
        if mask.ndim != 2:
            raise ValueError(
                f"{method}: the mask of {region['phrase']!r} has shape {mask.shape}, expected [H, W]"
            )
        rows, columns = (
            (np.arange(n) + 0.5) * size / n for n, size in zip((height, width), mask.shape, strict=True)
        )
        cells = (mask[np.ix_(rows.astype(int), columns.astype(int))] > 0.5).astype(np.float32)
    if not cells.any():
        raise ValueError(f"{method}: the region of {region['phrase']!r} has no cell, expected at least one")
    return cells


def box_cells(box: Any, height: int, width: int, what: str) -> np.ndarray:
    """[height, width] float32, 1 where the middle of a cell lies in the box, and in its middle cell at least.

    box: (x0, y0, w, h), fractions of the picture. Raises: ValueError for an empty one, or one that reaches out of the picture.
    """
    array = np.asarray(box, dtype=object)
    numbers = array.shape == (4,) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in array
    )
    x, y, w, h = (float(v) for v in array) if numbers else (0.0, 0.0, 0.0, 0.0)
    if not (x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 1 + 1e-6 and y + h <= 1 + 1e-6):
        raise ValueError(
            f"{what} is {box!r}, expected [x0, y0, width, height], fractions inside of the picture"
        )
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside = np.ix_((rows >= y) & (rows < y + h), (columns >= x) & (columns < x + w))
    cells = np.zeros((height, width), np.float32)
    cells[inside] = 1
    cells[min(int((y + h / 2) * height), height - 1), min(int((x + w / 2) * width), width - 1)] = 1
    return cells


def at_site(masks: Array, rows: int, cells: int) -> Array:
    """masks [B, k, h, w] -> [B, k, cells] at a site of so many rows, the nearest cell."""
    return jax.image.resize(masks, (*masks.shape[:2], rows, cells // rows), "nearest").reshape(
        *masks.shape[:2], cells
    )
