"""The first stages there are, by the name that a config's section says, and what the rest of the library asks of one.

A new one is a linen module in a file of models/ and a row of FIRST_STAGES. Besides encode, decode and __call__, as
AutoencoderKL has them, the module says what it has, by the names of FirstStage's fields: has_variance, has_parameters,
losses, factor and latent_channels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.config import call, options_of, pick
from ldm_jax.models import autoencoder
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.types import Array, PyTree

FIRST_STAGES = {
    "kl": autoencoder.AutoencoderKL,
    "vq": autoencoder.VQModel,
    "identity": autoencoder.IdentityFirstStage,
}


class FirstStage(NamedTuple):
    """module: linen, owns encode and decode. factor: pixels per latent cell. channels: of a latent.

    has_variance: `encode` gives the moments of a Gaussian posterior, mean first; otherwise latents.
    has_parameters: False of one that is a fixed map. losses: the name of what it is trained with in
    training/first_stage_loss.GENERATOR_LOSSES; None if there is nothing to train.
    """

    name: str
    module: Any
    factor: int
    channels: int
    has_variance: bool
    has_parameters: bool
    losses: str | None

    @property
    def encoded_channels(self) -> int:
        """Channels of what `encode` gives: twice those of a latent with a variance."""
        return 2 * self.channels if self.has_variance else self.channels

    def init(self, key: Array, size: int = 0) -> PyTree:
        """Fresh parameters. size: the side of the image that shapes are inferred with; the factor's fourfold by
        default."""
        if not self.has_parameters:
            return {}
        side = size or 4 * self.factor
        return jax.jit(self.module.init)(
            key, jnp.zeros((1, side, side, self.module.in_channels)), jax.random.key(0)
        )["params"]

    def encode(self, params: PyTree, images: Array) -> Array:
        """images [B,H,W,C] in [-1,1] -> what encoding gives, [B,h,w,encoded_channels]: moments or latents."""
        return self.module.apply({"params": params}, images, method="encode")

    def mode_of(self, encoded: Array) -> Array:
        """encoded [B,h,w,encoded_channels], as `encode` gives it -> latents [B,h,w,c], not scaled: the posterior's
        mean, or themselves."""
        return encoded[..., : self.channels] if self.has_variance else encoded

    def sample_of(self, encoded: Array, keys: Array) -> Array:
        """As `mode_of`, but a sample of the posterior where there is one, by keys [B]."""
        return DiagonalGaussian.from_moments(encoded).sample(keys) if self.has_variance else encoded

    def mode(self, params: PyTree, images: Array) -> Array:
        """images [B,H,W,C] in [-1,1] -> latents [B,h,w,c], not scaled: the posterior's mean, or what `encode` gives."""
        return self.mode_of(self.encode(params, images))

    def decode(self, params: PyTree, z: Array) -> Array:
        """z [B,h,w,c], not scaled -> images [B,H,W,C] float32, about [-1,1]."""
        return self.module.apply({"params": params}, z, method="decode").astype(jnp.float32)


def make_first_stage(section: Mapping[str, Any], dtype: str = "float32") -> FirstStage:
    """Raises: ValueError for an unknown name or option."""
    cls, options = pick(section, "first_stage", FIRST_STAGES)
    computes = {"dtype": jnp.dtype(dtype)} if "dtype" in options_of(cls) else {}
    module = call(cls, options, f"first_stage {section['name']!r}", **computes)
    return FirstStage(
        name=section["name"],
        module=module,
        factor=module.factor,
        channels=module.latent_channels,
        has_variance=module.has_variance,
        has_parameters=module.has_parameters,
        losses=module.losses,
    )
