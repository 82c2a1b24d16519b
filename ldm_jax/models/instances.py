"""Instances at their places (InstanceDiffusion): tokens that say what is where, a gated self-attention with them
between the two attentions of each transformer block, and ScaleU in the decoder.

Decides the architecture. Its parameters lie beside the network's, as NAME. It knows no text encoder: what an instance
is comes as an embedding.
Source: Wang et al. 2024 (arXiv:2402.03290), section 3; frank-xwang/InstanceDiffusion@c141cfb ldm/modules/attention.py,
diffusionmodules/{text_grounding_net,openaimodel}.py; the gated self-attention is GLIGEN's, Li et al. 2023
(arXiv:2301.07093), section 3.2. Left out: scribbles and polygons, and the picture of all masks that ConvNeXt reads. A
mask is read as its average over MASK x MASK cells in the place of a polygon. Where the original masks self-attention at
64 x 64 cells alone, here it is masked everywhere.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ldm_jax.control.base import Control, Site, Wrapped
from ldm_jax.models import ip_adapter
from ldm_jax.models.attention import FeedForward
from ldm_jax.models.layers import LayerNorm, Linear
from ldm_jax.types import Array, PyTree

NAME, TOKENS, SITE, SCALE = "instances", "tokens", "site_{}", "scale_{}"
FORMS = ("boxes", "points", "masks")
FREQUENCIES = 16
MASK = 8  # cells of a side that a mask is read in


def fourier(numbers: Array, frequencies: int = FREQUENCIES) -> Array:
    """[..., n] in [0, 1] -> [..., 2 F n]: sin and cos of F frequencies 100^(j / F), as FourierEmbedder there."""
    bands = 100.0 ** (jnp.arange(frequencies) / frequencies)
    angles = numbers[..., None, :] * bands[:, None]  # [..., 16, n]
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-2).reshape(*numbers.shape[:-1], -1)


class Tokens(nn.Module):
    """UniFusion: a token for each instance and each form in which its place is said.

    width: of the tokens. hidden: of the two hidden layers of each form's own map (3072 in the original).
    """

    width: int
    hidden: int

    @nn.compact
    def __call__(self, embedding: Array, places: Mapping[str, Array], said: Array) -> Array:
        """embedding: [B, N, D] of what each instance is. places: 'boxes' [B, N, 4] (x0, y0, x1, y1), 'points' [B, N,
        2], 'masks' [B, N, h, w], in [0, 1]. said: [B, N, 1 + 3] in {0, 1}, whether there is such an instance, and which
        forms it is given in; what is not takes a learned null. -> [B, 3 N, width], form after form.
        """
        there = said[..., :1]
        null = self.param("null", nn.initializers.zeros, embedding.shape[-1:])
        embedding = there * embedding + (1 - there) * null
        tokens = []
        for i, form in enumerate(FORMS):
            numbers = places[form]
            if form == "masks":
                shape = (*numbers.shape[:2], MASK, MASK)
                numbers = jax.image.resize(numbers, shape, "linear").reshape(*shape[:2], -1)
            place, given = fourier(numbers), said[..., i + 1 : i + 2]
            place = given * place + (1 - given) * self.param(
                f"null_{form}", nn.initializers.zeros, place.shape[-1:]
            )
            h = jnp.concatenate([embedding, place], axis=-1)
            for j in range(2):
                h = nn.silu(Linear(self.hidden, name=f"{form}_{j}")(h))
            tokens.append(Linear(self.width, name=f"{form}_2")(h))
        return jnp.concatenate(tokens, axis=1)


class Fuser(nn.Module):
    """Gated self-attention of a stream with instance tokens, and a gated feed-forward; both gates begin at zero."""

    num_heads: int

    @nn.compact
    def __call__(self, x: Array, tokens: Array, sees: Array, scale: Array) -> Array:
        """x [B, N, C], tokens [B, M, D], sees [B, N + M, N + M] bool, scale [B] -> [B, N, C]."""
        n, c = x.shape[1:]
        joined = jnp.concatenate([x, Linear(c, name="linear")(tokens).astype(x.dtype)], axis=1)
        gates = [
            jnp.tanh(self.param(f"alpha_{name}", nn.initializers.zeros, ())) for name in ("attn", "dense")
        ]
        by = [(scale * gate)[:, None, None] for gate in gates]
        h = LayerNorm(name="norm1")(joined)
        q, k, v = (
            Linear(c, use_bias=False, name=f"to_{name}")(h).reshape(*h.shape[:2], self.num_heads, -1)
            for name in "qkv"
        )
        s = jnp.einsum("bnhd,bkhd->bhnk", q[:, :n], k) * q.shape[-1] ** -0.5
        p = jax.nn.softmax(jnp.where(sees[:, None, :n], s, -jnp.inf), axis=-1)
        attended = jnp.einsum("bhnk,bkhd->bnhd", p, v).reshape(*x.shape)
        x = x + by[0] * Linear(c, name="to_out")(attended)
        return x + by[1] * FeedForward(name="ff")(LayerNorm(name="norm2")(x))


def visible(regions: Array, said: Array) -> Array:
    """[B, n + M, n + M] bool: which of n cells and M = 3 N tokens sees which.

    A cell of instances sees those of the instances that it belongs to, one of none sees those of none (in the original
    itself alone). The token of a box or a mask sees the cells of its instance, and is seen by them; that of a point
    all. Tokens see each other, and everything itself. Of instances that are not there nothing is seen.
    regions: [B, N, n] bool. said: as of Tokens.
    """
    b, number, n = regions.shape
    there = said[..., 0] > 0
    regions = regions & there[..., None]
    inside = regions.any(1)
    shared = (regions[:, :, :, None] & regions[:, :, None]).any(1)
    cells = shared | ~(inside[:, :, None] | inside[:, None])
    of_point = jnp.broadcast_to(there[..., None], regions.shape)
    tokens = jnp.concatenate([regions, of_point, regions], axis=1)  # [B, M, n]
    exists = jnp.concatenate([there] * len(FORMS), axis=1)
    among = jnp.broadcast_to(exists[:, None], (b, 3 * number, 3 * number))
    rows = [
        jnp.concatenate([cells, tokens.swapaxes(1, 2)], axis=2),
        jnp.concatenate([tokens, among], axis=2),
    ]
    return jnp.concatenate(rows, axis=1) | jnp.eye(n + 3 * number, dtype=bool)


def regions_of(places: Mapping[str, Array], said: Array, height: int, width: int) -> Array:
    """[B, N, height * width] bool: the cells of each instance: of its mask, else of its box, else none."""
    b, number = said.shape[:2]
    y, x = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    x0, y0, x1, y1 = jnp.moveaxis(places["boxes"], -1, 0)[..., None]
    cell = 0.5 / height
    rows, columns = (
        (y > y0 - cell) & (y < y1 + cell),
        (x > x0 - cell) & (x < x1 + cell),
    )  # those that it touches
    box = rows[..., :, None] & columns[..., None, :]
    mask = jax.image.resize(places["masks"], (b, number, height, width), "linear") > 0.1
    has_box, has_mask = (said[..., i, None, None] > 0 for i in (1, 3))
    return jnp.where(has_mask, mask, box & has_box).reshape(b, number, -1)


def low_passed(x: Array, by: Array) -> Array:
    """by [] times the lowest frequencies of x [B, h, w, C], the mean and the first below it on each axis: what
    Fourier_filter with threshold 1 there adds to x for a scale of by + 1.
    """
    spectrum = jnp.fft.fft2(x.astype(jnp.float32), axes=(1, 2))
    h, w = x.shape[1:3]
    kept = (jnp.arange(h)[:, None] % (h - 1) == 0) & (jnp.arange(w) % (w - 1) == 0)  # 0 and -1
    return (by * jnp.fft.ifft2(spectrum * kept[..., None], axes=(1, 2)).real).astype(x.dtype)


class Placed(Wrapped):
    """Tells the streams of transformer blocks about the instances, and scales the decoder; all else is `inner`'s.

    params: those of NAME. tokens: [B, M, D]. regions: {height of a site: [B, N, n]}. said: as of Tokens. scale: [B], 0
    is off. heads: (height, heads) of each level.
    """

    params: PyTree
    tokens: Array
    regions: dict[int, Array]
    said: Array
    scale: Array
    heads: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)

    def _scaled(self, site: Site) -> bool:
        return site.kind in ("trunk", "skip") and SCALE.format(site.index) in self.params

    def touches(self, site: Site) -> bool:
        return site.kind == "stream" or self._scaled(site) or super().touches(site)

    def features(self, site: Site, x: Array) -> Array:
        if site.kind == "stream":
            sees = visible(self.regions[site.resolution], self.said)
            own = {"params": self.params[SITE.format(site.index)]}
            x = Fuser(dict(self.heads)[site.resolution]).apply(own, x, self.tokens, sees, self.scale)
        elif self._scaled(site):
            own, by = self.params[SCALE.format(site.index)], self.scale[:, None, None, None]
            if site.kind == "trunk":
                x = x + by * (jnp.tanh(own["trunk"]) * x)
            else:
                x = x + by * low_passed(x, jnp.tanh(own["skip"]))
        return super().features(site, x)


def placed(
    params: Mapping,
    heads: Sequence[int],
    x: Array,
    hints: Mapping[str, Array],
    scale: Array,
    control: Control | None,
) -> Placed:
    """`control`, before which the network is told about instances.

    params: those of NAME. heads: of each level of the network, whose latents are x [B, h, w, c]. hints: 'embedding' [B,
    N, D], FORMS and 'said' as of Tokens. scale: [B].
    """
    own = params[TOKENS]
    width, hidden = own["boxes_2"]["kernel"].shape[1], own["boxes_0"]["kernel"].shape[1]
    places, said = {form: hints[form] for form in FORMS}, hints["said"]
    tokens = Tokens(width, hidden).apply({"params": own}, hints["embedding"], places, said)
    sizes = [(x.shape[1] // 2**level, x.shape[2] // 2**level) for level in range(len(heads))]
    regions = {h: regions_of(places, said, h, w) for h, w in sizes}
    levels = tuple((h, number) for (h, _), number in zip(sizes, heads, strict=True))
    return Placed(control, dict(params), tokens, regions, said, scale, levels)


def begun(unet_params: Mapping, key: Array, dim: int, width: int, hidden: int) -> PyTree:
    """Fresh parameters beside a network with these. dim: of the embedding. width, hidden: as of Tokens."""
    places = {"boxes": jnp.zeros((1, 1, 4)), "points": jnp.zeros((1, 1, 2)), "masks": jnp.zeros((1, 1, 4, 4))}
    tokens = Tokens(width, hidden).init(key, jnp.zeros((1, 1, dim)), places, jnp.ones((1, 1, 4)))["params"]
    found = {TOKENS: tokens}
    for i, (name, block) in enumerate(ip_adapter.sites_of(unet_params)):
        channels = unet_params[name][block]["attn2"]["to_q"]["kernel"].shape[0]
        given = jnp.zeros((1, 1, channels)), jnp.zeros((1, 1, width)), jnp.ones((1, 2, 2), bool), jnp.ones(1)
        found[SITE.format(i)] = Fuser(1).init(jax.random.fold_in(key, i), *given)["params"]
    for i, channels in enumerate(_trunks(unet_params)):
        found[SCALE.format(i)] = {"trunk": jnp.zeros(channels), "skip": jnp.zeros(())}
    return found


def _trunks(unet_params: Mapping) -> list[int]:
    """The channels that come to each block of the decoder from the one before."""
    names = [n for n in unet_params if re.fullmatch(r"up_\d+_res_\d+", n)]
    names.sort(key=lambda name: [int(number) for number in name.split("_")[1::2]])
    found, before = [], unet_params["mid_res_1"]["conv_2"]["kernel"].shape[-1]
    for name in names:
        found.append(before)
        before = unet_params[name]["conv_2"]["kernel"].shape[-1]
    return found
