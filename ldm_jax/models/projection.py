"""The head that reads features of a network for a loss of their own: a perceptron at each cell.

Source: Yu et al. 2024, REPA (arXiv:2410.06940), section 3.3, whose projection has three layers and SiLU between them.
"""

from flax import linen as nn

from ldm_jax.models.layers import Linear
from ldm_jax.types import Array


class Projection(nn.Module):
    """[..., C] float -> [..., features] float32: `depth` hidden layers of `width` with SiLU, and a last one without.
    It computes in float32."""

    features: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.depth):
            x = nn.silu(Linear(self.width, name=f"hidden_{i}")(x))
        return Linear(self.features, name="out")(x)
