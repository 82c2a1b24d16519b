"""Prompt-to-Prompt (Hertz et al. 2022, arXiv:2208.01626): words are swapped, added or weighed, and the
picture keeps its layout.

The source and the edited picture are drawn together from one noise; for the first steps the edited one takes
over the source's cross-attention maps, word by word, and the source's self-attention on small maps. Values
stay its own. Decides which maps are taken over and until when, and which cells may change at all; which token
of one prompt stands for which of the other is conditioning/tokens.py's. Source: algorithm 1;
google/prompt-to-prompt prompt-to-prompt_stable.ipynb AttentionReplace, AttentionRefine, AttentionReweight and
LocalBlend: the conditional half alone is edited, and self-attention where a map has at most 16 x 16 cells.
There the padding of a longer prompt keeps its place; here it is counted from the last word.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from ldm_jax.control import maps, rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit, batch_t
from ldm_jax.types import Array

NEUTRAL = dict(cross_steps=0.0, self_steps=0.0)
BRANCHES = ("source",)
EACH = ("alignment", "own", "weights", "cross_gate", "blend")
NEEDS = ("context",)
CONTROLS = True
SELF_ROWS = 16  # of the largest map whose self-attention is taken over
ALIGN = ("replace", "refine")
MOST_WEIGHT = 5.0  # of a word


class TakeOver(Control):
    """The last branch's attention from the first's.

    alignment: [B, L, L], from the source's tokens to the edited's. own: [B, L], 1 for tokens that keep their
    own map. weights: [B, L], of what is taken over. cross_gate: [B, L], self_gate: [], in [0, 1], 1 takes
    all. reads: whether cross-attention of small maps is recorded, the mean over heads [rows, N, L].
    """

    alignment: Array
    own: Array
    weights: Array
    cross_gate: Array
    self_gate: Array
    branches: int = struct.field(pytree_node=False, default=2)
    self_rows: int = struct.field(pytree_node=False, default=SELF_ROWS)
    reads: bool = struct.field(pytree_node=False, default=False)

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" or (site.kind == "self" and site.resolution <= self.self_rows)

    def probs(self, site: Site, p: Array) -> Array:
        guided = p.shape[0] == 2 * self.branches * self.alignment.shape[0]
        calls = rows.split_calls(p, guided, self.branches)  # [halves, branches, B, heads, N, K]
        source, target = calls[-1, 0], calls[-1, -1]
        if site.kind == "cross":
            per_token = [v[:, None, None, :] for v in (self.own, self.weights, self.cross_gate)]
            own, weights, gate = per_token
            taken = jnp.einsum("bhni,bij->bhnj", source, self.alignment)
            taken = (own * target + (1 - own) * taken) * weights
        else:
            taken, gate = source, self.self_gate
        return calls.at[-1, -1].set(gate * taken + (1 - gate) * target).reshape(p.shape)

    def record(self, site: Site, value: Array) -> Array | None:
        small = site.kind == "cross" and site.resolution <= maps.CELLS
        return value.mean(1) if self.reads and small else None


def prepare(
    call,
    *,
    source,
    cross_steps: float = 0.8,
    self_steps: float = 0.4,
    align: str | None = None,
    word_steps: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    blend: str | Sequence[str] | bool | None = None,
    keep: str | Sequence[str] | None = None,
    blend_threshold: float = 0.3,
    blend_start: float = 0.2,
    self_rows: int = SELF_ROWS,
) -> dict | None:
    """source: the prompt of the picture whose layout is kept. cross_steps, self_steps: the fraction of the
    steps, from the first, in which cross- and self-attention are taken over; 0 and 0 is no edit. word_steps:
    {word of the edited prompt: its own cross_steps}. align: 'replace', of prompts with as many words, each of
    which stands in the place of one; 'refine', by the words that both have; None: replace where it can be.
    weights: {word of the edited prompt: what its map is multiplied with}, from -5 to 5. blend: words, of
    either prompt, outside of whose maps the picture is the source's; True: those that one prompt alone has; keep:
    words inside of whose maps it is.
    blend_threshold: of a map whose largest value is 1, in [0, 1]. blend_start: the fraction of the steps
    after which it blends. self_rows: of the largest map whose self-attention is taken over.

    Raises: ValueError for numbers out of range, prompts that cannot be aligned, and words that are not in the
    prompt.
    """
    shares = dict(
        cross_steps=cross_steps,
        self_steps=self_steps,
        blend_threshold=blend_threshold,
        blend_start=blend_start,
    )
    shares |= {f"word_steps of {word!r}": value for word, value in _numbers("word_steps", word_steps).items()}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"prompt_to_prompt: {name} is {value}, expected a number from 0 to 1")
    for word, value in _numbers("weights", weights).items():
        if not -MOST_WEIGHT <= value <= MOST_WEIGHT:
            raise ValueError(
                f"prompt_to_prompt: the weight of {word!r} is {value}, expected a number from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}"
            )
    if align not in (None, *ALIGN):
        raise ValueError(f"prompt_to_prompt: align is {align!r}, expected {' or '.join(ALIGN)}")
    pairs = list(zip(source, call.prompts, strict=True))
    alignment, own = zip(*(_aligned(call, align, a, b) for a, b in pairs), strict=True)
    length = len(own[0])
    if cross_steps == self_steps == 0 and not (word_steps or blend):
        return None

    def by_word(given: Mapping[str, float], default: float) -> np.ndarray:
        """[B, L], `given` at the tokens of its words in the edited prompt."""
        out = np.full((len(pairs), length), default, np.float32)
        for row, (_, prompt) in zip(out, pairs, strict=True):
            for word, value in given.items():
                row[call.token_indices(prompt, word)] = value
        return out

    place = np.arange(len(call.visited)) / len(call.visited)
    until = by_word(word_steps or {}, cross_steps)
    return dict(
        alignment=np.stack(alignment),
        own=np.stack(own),
        weights=by_word(weights or {}, 1.0),
        cross_gate=(place[None, :, None] < until[:, None, :]).astype(np.float32),
        self_gate=(place < self_steps).astype(np.float32),
        blend=np.stack(
            [
                np.stack([_chosen(call, pair, blend, length), _chosen(call, pair, keep, length)])
                for pair in pairs
            ]
        ),
        blend_gate=(place >= blend_start).astype(np.float32),
        threshold=blend_threshold,
        blends=bool(blend),
        self_rows=self_rows,
    )


def _numbers(name: str, given: Mapping[str, float] | None) -> dict[str, float]:
    """Raises: ValueError for what is no {word: number}."""
    fits = given is None or isinstance(given, Mapping)
    if not fits or not all(isinstance(v, int | float) and np.isfinite(v) for v in (given or {}).values()):
        raise ValueError(f"prompt_to_prompt: {name} is {given!r}, expected {{word: number}}")
    return dict(given or {})


def _aligned(call, align: str | None, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """([L, L], [L]): the alignment of two prompts, and which tokens keep their own map."""
    if align is None:
        align = "replace" if call.word_count(source) == call.word_count(target) else "refine"
    if align == "refine":
        return call.refine(source, target)
    matrix = call.align(source, target)
    return matrix, np.zeros(len(matrix), np.float32)


def _chosen(call, pair: tuple[str, str], words: str | Sequence[str] | bool | None, length: int) -> np.ndarray:
    """[2, L] float32, 1 for the tokens of these words in the source and in the edited prompt; True: of those that
    one of them alone has. Raises: ValueError for a word of neither."""
    if words is True:
        return np.stack([call.refine(*prompts)[1] for prompts in (pair[::-1], pair)])
    out = np.zeros((2, length), np.float32)
    for word in [words] if isinstance(words, str) else list(words or ()):
        missing = []
        for row, prompt in zip(out, pair, strict=True):
            try:
                row[call.token_indices(prompt, word)] = 1
            except ValueError as error:
                missing.append(error)
        if len(missing) == 2:
            raise missing[1]
    return out


def edit(
    denoiser: Denoiser,
    *,
    alignment: Array,
    own: Array,
    weights: Array,
    cross_gate: Array,
    self_gate: Array,
    blend: Array,
    blend_gate: Array,
    threshold: Array,
    blends: bool = False,
    self_rows: int = SELF_ROWS,
) -> Edit:
    """alignment: [B, L, L] float32. own, weights: [B, L]. cross_gate: [B, S, L], self_gate, blend_gate: [S],
    in [0, 1], of each step. blend: [B, 2, 2, L], 1 for the tokens of the words that may change and of those
    that may not, in the source and in the edited prompt. threshold: []. blends: whether there are any; if
    not, the cells that change are not looked for.
    """
    n = denoiser.branches

    def control(edited, info):
        gates = jnp.take(cross_gate, info.index, axis=1), self_gate[info.index]
        return TakeOver(alignment, own, weights, *gates, n, self_rows, blends)

    if not blends:
        return Edit(control=control)
    tokens = rows.join_branches(jnp.moveaxis(blend, 2, 0))  # [n B, 2, L]

    def seen(taps: dict, x: Array) -> Array:
        """[n B, h', w', 2]: how much the cells look at the words."""
        return jnp.einsum("rhwl,rkl->rhwk", maps.finest(taps, x.shape)[-x.shape[0] :], tokens)

    def init(x_T):
        first = control(None, _First())
        found = jax.eval_shape(
            lambda x: seen(denoiser.conditional(x, batch_t(denoiser.visited[0], x), first)[1], x), x_T
        )
        return jnp.zeros(found.shape, jnp.float32), jnp.zeros((x_T.shape[0] // n, *x_T.shape[1:3]))

    def after(edited, x, taps, info):
        edited = edited[0] + seen(taps, x)
        source, target = rows.split_branches(x, n)
        mask = changing(edited, x.shape, threshold, n)
        on = blend_gate[info.index] * mask + (1 - blend_gate[info.index])
        blended = jnp.where(on > 0.5, target, source)
        return (edited, mask[..., 0]), rows.join_branches(jnp.stack([source, blended]))

    return Edit(init=init, control=control, after=after, shows=lambda edited: {"mask": edited[1]})


class _First:
    """The first step, of which only the index is asked for."""

    index = 0


def changing(seen: Array, shape: tuple[int, ...], threshold: Array, branches: int) -> Array:
    """[B, h, w, 1] float32, 1 for the cells that look at words that may change, in the source or in the
    edited picture, and not at those that may not (LocalBlend). seen: [n B, h', w', 2], summed over the steps
    so far. shape: of the latents."""
    largest = lax.reduce_window(seen, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    pooled = jnp.stack([largest[..., 0], seen[..., 1]], -1)  # what is kept is not widened
    size = (seen.shape[0], *shape[1:3], 2)
    pooled = jax.image.resize(pooled, size, "nearest")
    top = pooled.max((1, 2), keepdims=True)
    over = (pooled / jnp.where(top > 0, top, 1.0)) > threshold
    over = rows.split_branches(over, branches).any(0)
    return (over[..., :1] & ~over[..., 1:]).astype(jnp.float32)
