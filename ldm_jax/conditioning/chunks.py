"""Prompts that are longer than a text encoder reads at once: as several, each with its begin and end, side by side.

Where a prompt is parted is AUTOMATIC1111's rule (stable-diffusion-webui modules/sd_hijack_clip.py tokenize_line): after
as many tokens as there is room for, 75 of CLIP's 77, or after a comma that is at most 20 tokens before. What is read of
the parts lies one after the other along the tokens, and what is pooled is the first one's. It knows no tokenizer.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.types import Array

BACK = 20  # tokens that a comma may lie before the end of a full part


def parts(is_comma: Sequence[bool], room: int, back: int = BACK) -> list[tuple[int, int]]:
    """[(first, one after the last)] of the tokens of each part, at least one. is_comma: of each token. room: most
    tokens of a part."""
    number, start, found = len(is_comma), 0, []
    while number - start > room:
        end = start + room
        if not is_comma[end]:  # which would begin the next part
            commas = [at for at in range(max(start, end - back), end) if is_comma[at]]
            end = commas[-1] + 1 if commas else end
        found.append((start, end))
        start = end
    return [*found, (start, number)]


def laid_out(values: np.ndarray, is_comma: Sequence[bool], empty: np.ndarray, number: int) -> np.ndarray:
    """[number * L]: values [T] of a prompt's tokens, in parts with begin and end. empty: [L], what stands for the
    prompt without words: begin, end, padding. Parts that are not there are empty, those beyond `number` left out."""
    rows = np.tile(empty, (number, 1))
    for row, (first, end) in zip(rows, parts(is_comma, len(empty) - 2), strict=False):
        row[1 : 1 + end - first] = values[first:end]
        row[1 + end - first] = empty[1]
    return rows.reshape(-1)


def apart(array: Array, length: int) -> Array:
    """array [B, n * length, ...] -> [B * n, length, ...]."""
    return array.reshape(-1, length, *array.shape[2:])


def each(encode: Callable, length: int) -> Callable:
    """encode, (tokens [B, L], offsets [B, L, D] or None) -> [B, L, D], of parts of `length`: for tokens
    [B, n * length], which are read part by part, [B, n * length, D]."""

    def encoded(tokens: Array, offsets: Array | None) -> Array:
        if tokens.shape[1] <= length:
            return encode(tokens, offsets)
        out = encode(apart(tokens, length), None if offsets is None else apart(offsets, length))
        return out.reshape(*tokens.shape, -1)

    return encoded
