"""A perceptron at each cell or token: the head that reads features of a network for a loss of their own, and what SAM
makes masks of tokens by.

Source: Yu et al. 2024, REPA (arXiv:2410.06940), section 3.3, whose projection has three layers and SiLU between them;
Kirillov et al. 2023, SAM (arXiv:2304.02643), appendix A, with ReLU.
"""

from collections.abc import Callable

from flax import linen as nn

from ldm_jax.models.layers import Linear
from ldm_jax.types import Array


class Projection(nn.Module):
    """[..., C] float -> [..., features] float32: `depth` hidden layers of `width` with an activation, and a last one
    without. It computes in float32."""

    features: int
    width: int
    depth: int
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.depth):
            x = self.activation(Linear(self.width, name=f"hidden_{i}")(x))
        return Linear(self.features, name="out")(x)
