"""The diagonal Gaussian an encoder's moments stand for.

It knows no network; what a latent is scaled by is decided elsewhere.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from ldm_jax.types import Array


def _sum_example(x: Array) -> Array:
    return x.sum(tuple(range(1, x.ndim)))


class DiagonalGaussian(struct.PyTreeNode):
    """N(mean, diag(exp(logvar))). mean, logvar: [B, h, w, c] float32.

    Source: CompVis/latent-diffusion@a506df5 ldm/modules/distributions/distributions.py; there `deterministic`
    zeroes the spread, here one takes `mode()`.
    """

    mean: Array
    logvar: Array

    @classmethod
    def from_moments(cls, moments: Array) -> "DiagonalGaussian":
        """Of moments [B, h, w, 2c] float.

        The mean's channels come first, then the log variance's, which is clamped to [-30, 20].
        """
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, -30.0, 20.0))

    @property
    def std(self) -> Array:
        return jnp.exp(0.5 * self.logvar)

    def sample(self, key: Array) -> Array:
        """A draw, [B, h, w, c] float32.

        key: one key for the whole batch, or B of them, so that an example's draw is its own alone.
        """
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if key.ndim == (0 if typed else 1):
            noise = jax.random.normal(key, self.mean.shape)
        else:
            noise = jax.vmap(lambda k: jax.random.normal(k, self.mean.shape[1:]))(key)
        return self.mean + self.std * noise

    def mode(self) -> Array:
        """[B, h, w, c] float32: the mean."""
        return self.mean

    def kl(self, other: "DiagonalGaussian | None" = None) -> Array:
        """KL(self || other) in nats, [B] float32, summed over positions and channels.

        `other` None is N(0, I).
        """
        if other is None:
            return 0.5 * _sum_example(jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar)
        distance = jnp.square(self.mean - other.mean) * jnp.exp(-other.logvar)
        ratio = self.logvar - other.logvar
        return 0.5 * _sum_example(distance + jnp.exp(ratio) - 1.0 - ratio)

    def nll(self, x: Array) -> Array:
        """-log p(x) in nats, [B] float32, summed over positions and channels. x: [B, h, w, c] float."""
        distance = jnp.square(x - self.mean) * jnp.exp(-self.logvar)
        return 0.5 * _sum_example(math.log(2.0 * math.pi) + self.logvar + distance)
