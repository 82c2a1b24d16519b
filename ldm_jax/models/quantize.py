"""Vector quantization: the nearest code of a codebook, its two losses, its gradients, and renumbering of used
codes.

Source: van den Oord et al. 2017 (arXiv:1711.00937); CompVis/taming-transformers
taming/modules/vqvae/quantize.py (VectorQuantizer2). It knows neither the autoencoder around it nor the scale
of latents.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.types import Array


class Quantized(NamedTuple):
    """z_q: [B, h, w, c] float32 codes, gradients passing straight to z.

    loss: 0-d float32. indices: [B, h, w] int32.
    """

    z_q: Array
    loss: Array
    indices: Array


def squared_distances(z: Array, codebook: Array) -> Array:
    """|z - e|^2 for every code e: z [..., c] and codebook [n, c] float32 into [..., n] float32.

    The expanded form |z|^2 + |e|^2 - 2 z e, at full precision: a rounded product picks other codes.
    """
    product = jnp.matmul(z, codebook.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(z).sum(-1, keepdims=True) + jnp.square(codebook).sum(-1) - 2.0 * product


def nearest_code(z: Array, codebook: Array) -> Array:
    """The index of the code nearest to z [..., c]: [...] int32, the first one on ties."""
    return jnp.argmin(squared_distances(z, codebook), axis=-1).astype(jnp.int32)


def straight_through(z: Array, z_q: Array) -> Array:
    """z_q in value, z in gradient. z, z_q: equal shapes, float32."""
    return z + jax.lax.stop_gradient(z_q - z)


def codebook_loss(z: Array, z_q: Array, beta: float = 0.25, legacy: bool = True) -> Array:
    """Codebook plus commitment loss, 0-d float32, means over all elements. z, z_q: equal shapes, float32.

    legacy puts beta on the codebook's term, as all published models were trained; otherwise beta weighs the
    commitment |z - sg(z_q)|^2, as the paper has it. Only the gradients differ, the value is (1 + beta) times
    the mean squared error.
    """
    commitment = jnp.mean(jnp.square(z - jax.lax.stop_gradient(z_q)))
    codebook = jnp.mean(jnp.square(z_q - jax.lax.stop_gradient(z)))
    return commitment + beta * codebook if legacy else beta * commitment + codebook


def get_codebook_entry(codebook: Array, indices: Array, shape: Sequence[int] | None = None) -> Array:
    """The codes [n, c] at integer indices: [*indices.shape, c], or reshaped to `shape` (B, h, w, c)."""
    z_q = codebook[indices]
    return z_q if shape is None else z_q.reshape(shape)


def perplexity(
    indices: Array, n_embed: int, average: Callable[[Array], Array] = lambda p: p
) -> tuple[Array, Array]:
    """(perplexity, cluster usage) of integer indices of any shape, both 0-d float32.

    exp of the entropy of how often each code is used, in [1, n_embed]; and the number of codes used at all. average: of
    how often, over devices that each see a part of the indices.
    """
    p = average(jnp.bincount(indices.reshape(-1), length=n_embed) / indices.size)
    return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10))), jnp.sum(p > 0).astype(jnp.float32)


def _checked_used(used: Sequence[int], n_embed: int) -> np.ndarray:
    used = np.asarray(used)
    if used.ndim != 1 or len(np.unique(used)) != used.size or used.min() < 0 or used.max() >= n_embed:
        raise ValueError(
            f"remap: got codes of shape {used.shape}, expected distinct indices in [0, {n_embed})"
        )
    return used


def remap_to_used(
    indices: Array,
    used: Sequence[int],
    n_embed: int,
    unknown_index: str | int = "random",
    key: Array | None = None,
) -> Array:
    """Renumbers codes by their place in `used`. indices: integers in [0, n_embed), any shape; same shape out,
    int32.

    unknown_index: what a code outside `used` becomes: 'random' draws one of the used places (needs `key`),
    'extra' is len(used), an int is itself.
    Raises: ValueError for codes in `used` that repeat or lie outside the codebook, another unknown_index, a
    missing key.
    """
    used = _checked_used(used, n_embed)
    if unknown_index == "random":
        if key is None:
            raise ValueError("remap: got no key, expected one for unknown_index='random'")
        unknown = jax.random.randint(key, indices.shape, 0, used.size)
    elif unknown_index == "extra":
        unknown = used.size
    elif isinstance(unknown_index, int):
        unknown = unknown_index
    else:
        raise ValueError(f"remap: got unknown_index {unknown_index!r}, expected 'random', 'extra' or an int")
    place = np.full(n_embed, -1, np.int32)
    place[used] = np.arange(used.size)
    new = jnp.asarray(place)[indices]
    return jnp.where(new < 0, unknown, new).astype(jnp.int32)


def unmap_to_all(indices: Array, used: Sequence[int], n_embed: int) -> Array:
    """The inverse of `remap_to_used`: places in `used` become codes, int32.

    A place past its end becomes used[0].
    """
    used = _checked_used(used, n_embed)
    return jnp.asarray(used, jnp.int32)[jnp.where(indices >= used.size, 0, indices)]


class VectorQuantizer(nn.Module):
    """The codebook of a VQ autoencoder, `embedding` [n_embed, embed_dim] float32, drawn from U(-1/n_embed,
    1/n_embed).

    remap: the used codes; indices are then their places in it (`remap_to_used`), and 'random' draws from rng
    'remap'.
    """

    n_embed: int
    embed_dim: int
    beta: float = 0.25
    legacy: bool = True
    remap: tuple[int, ...] | None = None
    unknown_index: str | int = "random"

    def setup(self):
        bound = 1.0 / self.n_embed

        def init(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        self.embedding = self.param("embedding", init, (self.n_embed, self.embed_dim))

    def __call__(self, z: Array) -> Quantized:
        """z: [B, h, w, embed_dim] float; the arithmetic is float32."""
        z = z.astype(jnp.float32)
        indices = nearest_code(z, self.embedding)
        z_q = self.embedding[indices]
        loss = codebook_loss(z, z_q, self.beta, self.legacy)
        if self.remap is not None:
            key = self.make_rng("remap") if self.unknown_index == "random" else None
            indices = remap_to_used(indices, self.remap, self.n_embed, self.unknown_index, key)
        return Quantized(straight_through(z, z_q), loss, indices)

    def nearest(self, z: Array) -> Array:
        """The code nearest to each cell of z [B, h, w, embed_dim] float, float32; gradients pass straight to z."""
        z = z.astype(jnp.float32)
        return straight_through(z, self.embedding[nearest_code(z, self.embedding)])

    def get_codebook_entry(self, indices: Array, shape: Sequence[int] | None = None) -> Array:
        """The codes at `indices` (places in `remap` where there is one); see the function of that name."""
        if self.remap is not None:
            indices = unmap_to_all(indices, self.remap, self.n_embed)
        return get_codebook_entry(self.embedding, indices, shape)
