"""LLM-grounded diffusion (Lian et al. 2023, arXiv:2305.13655): each thing of a prompt in a box of its own.

A reader of captions lays the prompt out (boxes.py, or a language model, endpoint.py). Each thing is drawn by itself in its box, led
there by an energy of its cross-attention; the picture of all of them takes its things from these for the first half of the steps, led by
the same energy. Decides the energy, how far latents move, and what is taken over.
Source: section 4, equations 1 to 4; TonyLianLong/LLM-groundedDiffusion: 1 - the mean of the highest 20 % inside the box + 4 times that
outside, on the maps of the middle and the first level of the decoder, and the difference from the maps of things by themselves. There
things are drawn first and segmented by SAM; here all are drawn side by side, a row each, and a thing is where its map is high in its box.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import maps, rows
from ldm_jax.control.base import Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import boxes, endpoint, phrases
from ldm_jax.samplers.base import Edit, batch_t
from ldm_jax.types import Array

NEUTRAL = dict(scale=0.0, compose=0.0)
DRAWS = "objects"
EACH = ("masks", "tokens")
NEEDS = ("context",)
CONTROLS = True
GRADIENTS = True
TOP, OUTSIDE, TRANSFER = (
    0.2,
    4.0,
    2.0,
)  # share of the cells that count; weights of the energy's other two terms
ENOUGH = 5 / 8  # the energy of a head at which a picture is left alone
ITERATIONS = (
    (0.1, 4),
    (0.2, 3),
    (0.4, 2),
    (0.6, 1),
)  # (until this fraction of the run, so many steps at most)
LEAST = 0.2  # of a thing's highest attention in its box, where it is taken over


class HeadMaps(Control):
    """Reads the cross-attention of named tokens, head by head: [rows of the call, heads, k, N], in the middle and in the decoder.

    tokens: [R, k, L] float32, of each of the call's last R rows; others read nothing. most: rows of a map."""

    tokens: Array
    most: int = struct.field(pytree_node=False, default=16)

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" and site.place in ("mid", "up") and site.resolution <= self.most

    def record(self, site: Site, value: Array) -> Array:
        return jnp.einsum("rhnl,rkl->rhkn", value[-self.tokens.shape[0] :], self.tokens)


def prepare(
    call,
    *,
    layout=None,
    endpoint: str = "",
    endpoint_model: str = "",
    scale: float = 40.0,
    compose: float = 0.5,
) -> dict | None:
    """layout: {'background': …, 'objects': [{'phrase': words of the prompt, 'box': [x0, y0, w, h], 'alone': what one is called}, …]} for
    all pictures, or one for each; by default what boxes.py reads in each prompt. endpoint: the URL of a language model to ask instead,
    and endpoint_model its name there (endpoint.py). scale: of the energy's gradient; 0 is off. compose: the fraction of the steps in which
    the picture takes over its things; 0 is off, and with scale 0 no edit.

    Raises: ValueError for a layout that is none or names words that the prompt has not, a prompt without things, an endpoint that
    does not answer or answers something else, and numbers out of range.
    """
    if scale < 0 or not 0 <= compose <= 1:
        raise ValueError(
            f"llm_grounded: scale is {scale} and compose is {compose}, expected 0 or more, and 0 to 1"
        )
    if scale == compose == 0:
        return None
    found = [
        _layout(call, prompt, i, layout, endpoint, endpoint_model) for i, prompt in enumerate(call.prompts)
    ]
    k, (height, width) = max(len(one.objects) for one in found), call.latent_shape[:2]
    length = len(call.text_tokens(""))
    masks = np.zeros((len(found), k, height, width), np.float32)
    tokens = np.zeros((len(found), k, 2, length), np.float32)  # of the thing by itself, and in the prompt
    objects = []
    for i, (one, prompt) in enumerate(zip(found, call.prompts, strict=True)):
        said = [f"{one.background} with {o.alone}" if one.background else o.alone for o in one.objects]
        for j, thing in enumerate(one.objects):
            masks[i, j] = phrases.box_cells(
                thing.box, height, width, f"llm_grounded: the box of {thing.phrase!r}"
            )
            for which, (text, words) in enumerate(((said[j], thing.alone), (prompt, thing.phrase))):
                places = call.token_indices(text, words)
                tokens[i, j, which, places] = 1 / len(places)
        objects.append([*said, *[prompt] * (k - len(said))])
    steps = np.arange(len(call.visited)) / len(call.visited)
    most = np.zeros(len(steps), np.int32)
    for until, number in reversed(ITERATIONS):
        most[steps < until] = number
    drawn = {f"object_{j + 1}": [said[j] for said in objects] for j in range(k)}
    return dict(objects=drawn, masks=masks, tokens=tokens, scale=scale, most=most, compose=steps < compose)


def _layout(call, prompt: str, i: int, layout, url: str, model: str) -> boxes.Layout:
    """The layout of picture i. Raises: ValueError as `prepare`."""
    if layout is not None:
        given = layout[i] if isinstance(layout, list | tuple) and len(layout) == call.num_pictures else layout
        return endpoint.checked(
            given,
            prompt,
            lambda what: ValueError(f"llm_grounded: layout has {what}, expected objects and boxes"),
        )
    found = endpoint.ask(url, prompt, model) if url else boxes.read(call.clauses(prompt))
    if not found.objects:
        raise ValueError(f"llm_grounded: nothing to lay out in the prompt {prompt!r}, expected a noun phrase")
    return found


def energy(read: Array, masks: Array) -> Array:
    """[R, heads, k]: low where attention is in its box. read: [R, heads, k, N]. masks: [R, k, N], 1 inside."""
    inside = masks[:, None]
    return 1 - top_mean(read * inside, inside) + OUTSIDE * top_mean(read * (1 - inside), 1 - inside)


def top_mean(values: Array, where: Array) -> Array:
    """The mean of the highest TOP of the cells in `where`, at least one, along the last axis."""
    number = jnp.maximum(jnp.floor(TOP * where.sum(-1)), 1)[..., None]
    ranked = -jnp.sort(-values, axis=-1)
    return jnp.where(jnp.arange(values.shape[-1]) < number, ranked, 0).sum(-1) / number[..., 0]


def transfer(read: Array, own: Array, masks: Array) -> Array:
    """[B, heads, k]: how far maps [B, heads, k, N] are from those of each thing by itself, as distributions over its box."""
    shares = [
        a * masks[:, None] / jnp.maximum((a * masks[:, None]).sum(-1, keepdims=True), 1e-12)
        for a in (read, own)
    ]
    return jnp.abs(shares[0] - jax.lax.stop_gradient(shares[1])).sum(-1)


def edit(
    denoiser: Denoiser, *, masks: Array, tokens: Array, scale: Array = 40.0, most: Array, compose: Array
) -> Edit:
    """masks: [B, k, h, w] float32 of latent cells, the boxes; 0 in unused slots. tokens: [B, k, 2, L] float32, of each thing by itself and
    in the prompt, rows sum to 1. scale: [] float32. most: [S] int32, how often x moves at most. compose: [S] bool."""
    n, (b, k) = denoiser.branches, masks.shape[:2]
    used = masks.any((2, 3)).astype(jnp.float32)  # [B, k]
    # Row j B + i is thing j of picture i by itself, which has its own slot alone; the last B rows have all.
    own = jnp.eye(k)[:, None, :, None] * tokens[None, :, :, 0]  # [k, B, k, L]
    all_tokens = jnp.concatenate([own.reshape(k * b, k, -1), tokens[:, :, 1]])
    weights = jnp.concatenate([(jnp.eye(k)[:, None] * used).reshape(k * b, k), used])
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), 1)  # [n B, k]

    def reader(x):
        return HeadMaps(all_tokens, maps.most_rows(x.shape[1]))

    def loss(x, t):
        """(what is differentiated, the energy [n B] without the transfer)."""
        _, taps = denoiser.conditional(x, t, reader(x))
        total, each, sites = 0.0, 0.0, [v for name, v in taps.items() if name.endswith("/cross")]
        for read in sites:
            cells = phrases.at_site(
                masks, round((x.shape[1] * read.shape[-1] / x.shape[2]) ** 0.5), read.shape[-1]
            )
            here = (energy(read, jnp.tile(cells, (n, 1, 1))).mean(1) * weights).sum(-1)
            alone = jnp.stack([read[j * b : (j + 1) * b, :, j] for j in range(k)], 2)  # [B, heads, k, N]
            far = (transfer(read[-b:], alone, cells).mean(1) * weights[-b:]).sum()
            total, each = total + (here.sum() + TRANSFER * far) / len(sites), each + here / len(sites)
        return total, each

    def before(edited, x, info, eps_fn):
        size = scale * jnp.sqrt(1 - denoiser.schedule.alphas_cumprod[info.t.astype(jnp.int32)])

        def body(carry):
            x, active, count = carry
            (_, each), gradient = jax.value_and_grad(loss, has_aux=True)(x, batch_t(info.t, x))
            moves = active & (each > ENOUGH)
            return jnp.where(moves[:, None, None, None], x - size * gradient, x), moves, count + 1

        start = (x, weights.any(1) & (scale > 0), jnp.int32(0))
        return edited, jax.lax.while_loop(lambda c: c[1].any() & (c[2] < most[info.index]), body, start)[0]

    def init(x_T):
        return jnp.zeros_like(masks)

    def control(edited, info):
        return HeadMaps(all_tokens, maps.most_rows(masks.shape[2]))

    def after(edited, x, taps, info):
        """edited: where each thing has been looked at by itself, the sum over steps, sites and heads."""
        for read in (v for name, v in taps.items() if name.endswith("/cross")):
            alone = jnp.stack([read[j * b : (j + 1) * b, :, j].mean(1) for j in range(k)], -1)  # [B, N, k]
            height = round((x.shape[1] * alone.shape[1] / x.shape[2]) ** 0.5)
            edited = edited + jnp.moveaxis(maps.resize(alone.reshape(b, height, -1, k), x.shape), -1, 1)
        apart = rows.split_branches(x, n)
        together, order = apart[-1], jnp.argsort(-masks.sum((2, 3)), axis=1)  # the largest first
        inside = where(edited, masks)
        for j in range(k):
            at = order[:, j][:, None, None, None]
            mine = jnp.take_along_axis(inside, at, 1)[:, 0, ..., None]
            thing = jnp.take_along_axis(apart[:-1], at[None], 0)[0]
            together = jnp.where(mine > 0, thing, together)
        together = jnp.where(compose[info.index], together, apart[-1])
        return edited, rows.join_branches(apart.at[-1].set(together))

    def shows(edited):
        return {"mask": where(edited, masks).max(1)}

    return Edit(init=init, control=control, before=before, after=after, shows=shows)


def where(looked: Array, masks: Array) -> Array:
    """[B, k, h, w]: the cells of each box [B, k, h, w] in which a thing is looked at, above LEAST of its highest there."""
    inside = looked * masks
    return masks * (inside >= LEAST * inside.max((2, 3), keepdims=True))
