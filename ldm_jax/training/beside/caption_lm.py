"""A language model of captions and of where their things are: stage one of LLM-grounded diffusion, without an endpoint.

Decides the words, how a box is said (left, top, width and height, each one of `bins` + 1 words), and how a layout is
read out. A sequence is a caption, '|', and for each of its phrases in turn the boxes of its things and ';'. Where the
grammar says what comes next, a box or a mark, only that is drawn from.
Source: Lian et al. 2023 (arXiv:2305.13655), section 3, where the model is GPT-4; boxes as words: Chen et al. 2022,
Pix2Seq (arXiv:2109.10852), section 3.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.models.causal_lm import CausalLM
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import Phrase, read_caption
from ldm_jax.training.beside.base import Learner, check_fields
from ldm_jax.training.beside.sam import box_of
from ldm_jax.types import Array, PyTree

PAD, BEGIN, END, LAYOUT, NEXT = range(5)
MARKS = ("[PAD]", "[BOS]", "[EOS]", "|", ";")


def learner(
    *,
    bins: int = 32,
    width: int = 96,
    num_layers: int = 4,
    num_heads: int = 4,
    max_length: int = 40,
    learning_rate: float = 1e-3,
) -> Learner:
    """Examples need `caption`, `phrases` and `instance_mask`, as the source `shapes` has them.

    Raises: ValueError for an example without phrases, with a word that the shapes world has not, or too long a one.
    """
    network = CausalLM(len(MARKS) + len(world.WORDS) + bins + 1, width, num_layers, num_heads, max_length)

    def init(key: Array) -> PyTree:
        return network.init(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        each, there = next_word_loss(network, params, batch["tokens"])
        value = each.sum() / there.sum()
        return value, {"perplexity": jnp.exp(value)}

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        said = sentence(fields, bins)
        if len(said) > max_length:
            raise ValueError(f"caption_lm: {len(said)} tokens, expected at most max_length={max_length}")
        return {"tokens": np.pad(np.asarray(said, np.int32), (0, max_length - len(said)))}

    return Learner(network, init, loss, example, learning_rate=learning_rate)


def words_of(caption: str) -> list[int]:
    """Its words' tokens. Raises: ValueError for one that the shapes world has not."""
    words = caption.lower().replace(",", " , ").split()
    for word in words:
        if word not in world.WORDS:
            raise ValueError(f"caption_lm: {word!r} in {caption!r}, expected words of the shapes world")
    return [len(MARKS) + world.WORDS.index(word) for word in words]


def sentence(fields: Mapping[str, Any], bins: int) -> list[int]:
    """The tokens of an example."""
    check_fields("caption_lm", fields, "phrases", "instance_mask")
    instances, said = np.asarray(fields["instance_mask"]), [BEGIN, *words_of(fields["caption"]), LAYOUT]
    first = len(MARKS) + len(world.WORDS)
    for _, _, mask in fields["phrases"]:
        there = instances * (np.asarray(mask) >= 0.5)
        for i in np.unique(there[there > 0]):
            x0, y0, x1, y1 = box_of(there == i)
            box = np.asarray([x0, y0, x1 + 1 - x0, y1 + 1 - y0]) / len(instances)
            said += [first + int(v) for v in np.rint(box * bins)]
        said.append(NEXT)
    return [*said, END]


def next_word_loss(network: CausalLM, params: PyTree, tokens: Array) -> tuple[Array, Array]:
    """tokens [B, L], padded with PAD -> (nats of each token after the first, 0 of padding; whether it counts), [B, L -
    1] both."""
    logits = network.apply({"params": params}, tokens[:, :-1])
    there = tokens[:, 1:] != PAD
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.where(there, nats, 0.0), there


class Speaker:
    """Says what comes after given tokens. temperature: 0 takes the likeliest."""

    def __init__(self, network: CausalLM, params: PyTree, temperature: float = 1.0, seed: int = 0):
        self.network, self.temperature, self.rng = network, temperature, np.random.default_rng(seed)
        self.params = params

        @jax.jit
        def logits(params: PyTree, tokens: Array, at: Array) -> Array:
            said = network.apply({"params": params}, tokens)
            return jnp.take_along_axis(said, at[:, None, None], axis=1)[:, 0]

        self._logits = logits

    def next(self, said: Sequence[Sequence[int]], allowed: Sequence[np.ndarray]) -> list[int]:
        """The token after each of `said`, one of those that are allowed (indices) for it."""
        tokens = np.zeros((len(said), self.network.max_length), np.int32)
        for row, one in zip(tokens, said, strict=True):
            row[: len(one)] = one
        last = np.asarray([len(one) - 1 for one in said])
        logits = np.asarray(self._logits(self.params, tokens, last), np.float64)
        out = []
        for row, which in zip(logits, allowed, strict=True):
            if self.temperature == 0:
                out.append(int(which[row[which].argmax()]))
            else:
                drawn = row[which] / self.temperature + self.rng.gumbel(size=len(which))
                out.append(int(which[drawn.argmax()]))
        return out


def captions(speaker: Speaker, number: int) -> list[str]:
    """Captions as the model says them, each up to its '|', or cut where none came."""
    words = np.concatenate([[LAYOUT], np.arange(len(MARKS), len(MARKS) + len(world.WORDS))])
    said, going = [[BEGIN] for _ in range(number)], np.ones(number, bool)
    while going.any() and len(said[0]) < speaker.network.max_length:
        for i, token in enumerate(speaker.next(said, [words] * number)):
            going[i] &= token != LAYOUT
            said[i].append(token if going[i] else PAD)
    return [
        " ".join(world.WORDS[t - len(MARKS)] for t in one[1:] if t >= len(MARKS)).replace(" ,", ",")
        for one in said
    ]


def layouts(speaker: Speaker, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """For each prompt of the shapes world's grammar {'background': '', 'objects': [{'phrase', 'alone', 'box': [x0, y0,
    w, h]}, …]}, as editing/llm_grounded.py takes `layout`. Boxes are cut at the picture's border.

    Raises: ValueError for a prompt outside the grammar, or with more things than the model has room for.
    """
    phrases = [read_caption(prompt)[0] for prompt in prompts]
    said = [[BEGIN, *words_of(prompt), LAYOUT] for prompt in prompts]
    starts, first = [len(one) for one in said], len(MARKS) + len(world.WORDS)
    bins = speaker.network.vocab_size - first - 1
    numbers = np.arange(first, first + bins + 1)
    box = [numbers[:-1]] * 2 + [numbers[1:]] * 2  # it begins inside of the picture, and has an area
    plans = [[kind for p in some for kind in (*box * p.number, np.asarray([NEXT]))] for some in phrases]
    for start, plan, prompt in zip(starts, plans, prompts, strict=True):
        if start + len(plan) > speaker.network.max_length:
            raise ValueError(
                f"caption_lm: {prompt!r} and its layout are {start + len(plan)} tokens, expected at most "
                f"{speaker.network.max_length}"
            )
    for step in range(max(map(len, plans))):
        allowed = [plan[min(step, len(plan) - 1)] for plan in plans]
        for i, token in enumerate(speaker.next(said, allowed)):
            said[i] += [token] * (step < len(plans[i]))
    return [
        _layout(some, (np.asarray([t for t in one[start:] if t >= first]) - first).reshape(-1, 4) / bins)
        for some, one, start in zip(phrases, said, starts, strict=True)
    ]


def _layout(phrases: Sequence[Phrase], boxes: np.ndarray) -> dict[str, Any]:
    objects, left = [], iter(boxes.tolist())
    for phrase in phrases:
        alone = " ".join(word for word in ("a", phrase.size, phrase.color, phrase.shape) if word)
        for _ in range(phrase.number):
            x0, y0, w, h = next(left)
            box = [x0, y0, min(w, 1 - x0), min(h, 1 - y0)]
            objects.append({"phrase": phrase.text, "alone": alone, "box": box})
    return {"background": "", "objects": objects}
