r"""The weights of words in a prompt, `a (red:1.3) circle`, and what they do to a text encoder's output.

The notation is AUTOMATIC1111's (stable-diffusion-webui modules/prompt_parser.py): `(words:1.3)` weighs words by 1.3,
`(words)` by 1.1, `[words]` by 1 / 1.1, one inside the other multiply, and `\(`, `\)`, `\[`, `\]` are brackets that are
meant. Each token's vector in the encoder's output is multiplied by its weight, and the whole by one number that brings
its mean back to what it was, as modules/sd_emphasis.py does it ("Original"). Where this differs: the mean is that of
one picture's prompt, where the original's is that of all prompts of a batch, since here a picture depends on nothing
else; a bracket that is not closed is an error; and what that program does at certain steps alone (`[from:to:0.5]`) is
refused. A prompt without brackets is taken as it is. Knows no encoder and no tokenizer's rules.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldm_jax.text_files import shown
from ldm_jax.types import Array

ROUND, SQUARE = 1.1, 1 / 1.1
CLOSES = {"(": ")", "[": "]"}
NUMBER = re.compile(r"^(.*):\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$", re.DOTALL)
DEEPEST, LARGEST = 100, 1000.0  # brackets inside of each other, and a weight


class Weighted(str):
    """The words of a prompt without its brackets, an ordinary string. pieces: of it, in order, each with its weight."""

    pieces: tuple[tuple[str, float], ...]

    def __new__(cls, pieces: Sequence[tuple[str, float]]) -> "Weighted":
        made = super().__new__(cls, "".join(text for text, _ in pieces))
        made.pieces = tuple(pieces)
        return made


def parsed(prompt: str) -> str:
    """The prompt as Weighted; one without brackets, or that is one already, as it is.

    Raises: ValueError for a bracket that is not closed or not opened, and for what is not known here.
    """
    if isinstance(prompt, Weighted) or not isinstance(prompt, str) or not set("()[]") & set(prompt):
        return prompt
    pieces: list[list[Any]] = []  # [text, weight]
    opened: list[tuple[str, int, int]] = []  # (bracket, its place in the prompt, the pieces before it)
    at = 0
    while at < len(prompt):
        letter = prompt[at]
        if letter == "\\" and at + 1 < len(prompt) and prompt[at + 1] in "()[]\\":
            pieces.append([prompt[at + 1], 1.0])
            at += 1
        elif letter in CLOSES:
            opened.append((letter, at, len(pieces)))
            if len(opened) > DEEPEST:
                raise ValueError(f"prompt {shown(str(prompt))}: brackets are nested more than {DEEPEST} deep")
        elif letter in CLOSES.values():
            if not opened or CLOSES[opened[-1][0]] != letter:
                raise ValueError(_unbalanced(prompt, at))
            bracket, _, first = opened.pop()
            _close(pieces, first, bracket, prompt)
        else:
            end = next((i for i in range(at + 1, len(prompt)) if prompt[i] in "()[]\\"), len(prompt))
            pieces.append([prompt[at:end], 1.0])
            at = end - 1
        at += 1
    if opened:
        raise ValueError(_unbalanced(prompt, opened[-1][1]))
    joined: list[list[Any]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1][0] += text
        elif text:
            joined.append([text, weight])
    return Weighted([(text, weight) for text, weight in joined])


def _close(pieces: list[list[Any]], first: int, bracket: str, prompt: str) -> None:
    """Weighs the pieces from `first` on, which stood in one pair of brackets."""
    weight = ROUND if bracket == "(" else SQUARE
    said = NUMBER.match(pieces[-1][0]) if len(pieces) > first else None
    if said and bracket == "[":
        raise ValueError(
            f"prompt {shown(str(prompt))}: [{said[0]}] changes words at a step, which is not known here; expected "
            r"(words:1.3), (words) or [words], or \[ and \] for brackets that are meant"
        )
    if said:
        pieces[-1][0], weight = said[1], float(said[2])
    if not abs(weight) <= LARGEST:
        raise ValueError(
            f"prompt {shown(str(prompt))}: the weight {said[2][:20]}, expected at most {LARGEST:g}"
        )
    for piece in pieces[first:]:
        piece[1] *= weight


def _unbalanced(prompt: str, at: int) -> str:
    what = "closed" if prompt[at] in CLOSES else "opened"
    return (
        f"prompt {shown(str(prompt))}: the {prompt[at]!r} at character {at + 1} is not {what}; expected \\{prompt[at]} "
        "for a bracket that is meant, or plain_prompts (--plain_prompts), which takes prompts as they are"
    )


def all_parsed(prompts: Any) -> Any:
    """`parsed` of a prompt or each of a list of them; what is neither is left to who reads it."""
    if isinstance(prompts, str):
        return parsed(prompts)
    return [parsed(prompt) for prompt in prompts] if isinstance(prompts, list | tuple) else prompts


def pieces_of(prompt: str) -> tuple[tuple[str, float], ...]:
    """((text, weight), …) of any prompt."""
    return prompt.pieces if isinstance(prompt, Weighted) else ((prompt, 1.0),)


def of_spans(pieces: Sequence[tuple[str, float]], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """[L] float32: the weight of each token. pieces: as of `pieces_of`. spans: the characters (start, end) of the
    pieces' text that each token covers, of which the last one counts; an empty span, as of begin, end and padding, has
    weight 1."""
    ends = np.cumsum([len(text) for text, _ in pieces])
    weights = np.array([*(weight for _, weight in pieces), 1.0], np.float32)
    return np.array(
        [weights[np.searchsorted(ends, b, "left")] if b > a else 1.0 for a, b in spans], np.float32
    )


def weighed(encoded: Array, weights: Array | None, length: int) -> Array:
    """encoded [..., B, L, D], each token's vector times its weight, [B, L], and brought back to its mean over tokens
    and channels; to the bit as it is where all weights of a prompt are 1, and without weights. length: of the parts
    that longer prompts are read in (chunks.py), each of which keeps its own mean."""
    if weights is None:
        return encoded
    if encoded.shape[-2] > length:
        shape = encoded.shape
        split = encoded.reshape(*shape[:-2], -1, length, shape[-1])
        return weighed(split, weights.reshape(len(weights), -1, length), length).reshape(shape)
    plain = encoded.astype(jnp.float32)
    scaled = plain * weights[..., None]
    mean, new = (jnp.mean(x, axis=(-2, -1), keepdims=True) for x in (plain, scaled))
    restored = scaled * jnp.where(new == 0, 1.0, mean / jnp.where(new == 0, 1.0, new))
    any_weight = jnp.any(weights != 1, axis=-1)[..., None, None]
    return jnp.where(any_weight, restored, plain).astype(encoded.dtype)
