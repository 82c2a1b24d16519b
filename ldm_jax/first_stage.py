"""The first stages there are, by the name that a config's section says, and what the rest of the library asks of
one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.config import call, pick
from ldm_jax.models import autoencoder
from ldm_jax.types import Array, PyTree

FIRST_STAGES = {
    "kl": autoencoder.AutoencoderKL,
    "vq": autoencoder.VQModel,
    "identity": autoencoder.IdentityFirstStage,
}


class FirstStage(NamedTuple):
    """module: linen, owns encode and decode. factor: pixels per latent cell. channels: of a latent."""

    name: str
    module: Any
    factor: int
    channels: int

    def init(self, key: Array, size: int = 0) -> PyTree:
        """Fresh parameters. size: the side of the image that shapes are inferred with; the factor's fourfold by
        default."""
        if self.name == "identity":
            return {}
        side = size or 4 * self.factor
        return jax.jit(self.module.init)(
            key, jnp.zeros((1, side, side, self.module.in_channels)), jax.random.key(0)
        )["params"]

    def encode(self, params: PyTree, images: Array) -> Array:
        """images [B,H,W,C] in [-1,1] -> what encoding gives: moments [B,h,w,2c] of a KL model, else latents
        [B,h,w,c]."""
        return self.module.apply({"params": params}, images, method="encode")

    def mode(self, params: PyTree, images: Array) -> Array:
        """images [B,H,W,C] in [-1,1] -> latents [B,h,w,c], not scaled: the posterior's mean, or what `encode` gives."""
        encoded = self.encode(params, images)
        return jnp.split(encoded, 2, axis=-1)[0] if self.name == "kl" else encoded

    def decode(self, params: PyTree, z: Array) -> Array:
        """z [B,h,w,c], not scaled -> images [B,H,W,C] float32, about [-1,1]."""
        return self.module.apply({"params": params}, z, method="decode").astype(jnp.float32)


def make_first_stage(section: Mapping[str, Any], dtype: str = "float32") -> FirstStage:
    """Raises: ValueError for an unknown name or option."""
    cls, options = pick(section, "first_stage", FIRST_STAGES)
    if section["name"] == "identity":
        return FirstStage(
            "identity", call(cls, options, "first_stage identity"), 1, options.get("in_channels", 3)
        )
    module = call(cls, options, f"first_stage {section['name']!r}", dtype=jnp.dtype(dtype))
    return FirstStage(section["name"], module, 2 ** (len(module.channel_mult) - 1), module.embed_dim)
