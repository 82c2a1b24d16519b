"""Decoupled cross-attention to a picture (IP-Adapter): beside each cross-attention to the text one to a few tokens
that are made of the embedding of a picture.

Decides the architecture and how the two attentions add up. Its parameters lie beside the network's, as NAME. It knows
no image encoder.
Source: Ye et al. 2023 (arXiv:2308.06721), section 3.2; tencent-ailab/IP-Adapter@62e4af9 ip_adapter/ip_adapter.py.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.control.base import Control, Site, Wrapped
from ldm_jax.models.layers import LayerNorm, Linear
from ldm_jax.types import Array, PyTree

NAME, PROJECTION, SITE = "ip_adapter", "projection", "site_{}"


class Projection(nn.Module):
    """An embedding [B, D] as `tokens` tokens [B, tokens, width]: a linear map and a LayerNorm."""

    tokens: int
    width: int

    @nn.compact
    def __call__(self, embedding: Array) -> Array:
        made = Linear(self.tokens * self.width, name="proj")(embedding)
        return LayerNorm(name="norm")(made.reshape(len(made), self.tokens, self.width))


def sites_of(unet_params: Mapping) -> list[tuple[str, str]]:
    """(attention block, transformer block) of each cross-attention of a network, in the order of the forward pass."""

    def place(name: str) -> tuple:
        part, *numbers = name.split("_")
        return {"down": 0, "mid": 1, "up": 2}[part], [int(n) for n in numbers if n.isdigit()]

    attentions = sorted((n for n in unet_params if "attn" in n and "proj_in" in unet_params[n]), key=place)
    blocks = [
        (name, block)
        for name in attentions
        for block in sorted(
            (b for b in unet_params[name] if b.startswith("block_")), key=lambda b: int(b[6:])
        )
    ]
    return [(name, block) for name, block in blocks if "attn2" in unet_params[name][block]]


def begun(unet_params: Mapping, key: Array, width: int, tokens: int) -> PyTree:
    """The parameters that one begins with: a fresh projection of embeddings [B, width], and copies of the network's
    keys and values.
    """
    kernels = [unet_params[name][block]["attn2"] for name, block in sites_of(unet_params)]
    context = kernels[0]["to_k"]["kernel"].shape[0]
    projection = Projection(tokens, context).init(key, jnp.zeros((1, width)))["params"]
    sites = {
        SITE.format(i): {n: jnp.asarray(own[n]["kernel"], jnp.float32) for n in ("to_k", "to_v")}
        for i, own in enumerate(kernels)
    }
    return {PROJECTION: projection} | sites


class Decoupled(Wrapped):
    """At each cross-attention attn(q, k, v) + scale attn(q, keys, values); all else is `inner`'s, which sees the first
    alone.

    keys, values: by the site's index, [B, T, heads * d]. scale: [B].
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    scale: Array

    def touches(self, site: Site) -> bool:
        return site.kind == "cross" or super().touches(site)

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross" or super().needs_probs(site)

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        q, k, v = super().qkv(site, q, k, v)
        if site.kind != "cross":
            return q, k, v
        more = [
            a.reshape(*a.shape[:2], *q.shape[2:]) for a in (self.keys[site.index], self.values[site.index])
        ]
        return q, *(
            jnp.concatenate([a, b.astype(a.dtype)], axis=1) for a, b in zip((k, v), more, strict=True)
        )

    def _text(self, site: Site, a: Array, axis: int) -> Array:
        """Those of an array that are the text's."""
        if site.kind != "cross":
            return a
        return jax.lax.slice_in_dim(a, 0, a.shape[axis] - self.keys[site.index].shape[1], axis=axis)

    def logits(self, site: Site, s: Array) -> Array:
        text = self._text(site, s, 3)
        rest = s[..., text.shape[3] :]
        text = super().logits(site, text)
        if site.kind != "cross":
            return text
        # each group's largest is 0, so that both have a share of the softmax that can be divided by
        return jnp.concatenate([a - a.max(-1, keepdims=True) for a in (text, rest)], axis=-1)

    def probs(self, site: Site, p: Array) -> Array:
        text = self._text(site, p, 3)
        rest = p[..., text.shape[3] :]
        if site.kind == "cross":
            text = text / text.sum(-1, keepdims=True)
            rest = rest / rest.sum(-1, keepdims=True) * self.scale[:, None, None, None]
        return jnp.concatenate([super().probs(site, text), rest], axis=-1)

    def record(self, site: Site, value: Array) -> Array | None:
        return super().record(site, self._text(site, value, -1))

    def record_projections(self, site: Site, h: Array, q: Array, k: Array) -> Array | PyTree | None:
        return super().record_projections(site, h, q, self._text(site, k, 1))


def decoupled(params: Mapping, embedding: Array, scale: Array, control: Control | None) -> Decoupled:
    """`control`, beside which a network attends to a picture.

    params: those of NAME. embedding: [B, D]. scale: [B], 0 is off.
    """
    number = len(params) - 1
    kernels = [params[SITE.format(i)] for i in range(number)]
    context = kernels[0]["to_k"].shape[0]
    tokens = params[PROJECTION]["proj"]["kernel"].shape[1] // context
    made = Projection(tokens, context).apply({"params": params[PROJECTION]}, embedding)
    keys, values = (tuple(made @ kernel[name] for kernel in kernels) for name in ("to_k", "to_v"))
    return Decoupled(control, keys, values, scale)
