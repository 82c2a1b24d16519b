"""The image tower of CLIP: a vision transformer whose class token is projected to where captions lie.

Decides the architecture (patches, class token, a LayerNorm before the layers too, pre-norm, no mask). How
pixels are normalized for it is MEAN and STD; how they are resized is its users' (metrics/clip_score.py,
inference/classifiers.py).
Source: Radford et al. 2021 (arXiv:2103.00020) section 2.4; openai/CLIP clip/model.py VisionTransformer.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.models.attention import attend
from ldm_jax.models.clip_text import ACTIVATIONS
from ldm_jax.models.layers import Conv, LayerNorm, Linear
from ldm_jax.types import Array

# of pixels in [0, 1], as the released towers were trained (openai/CLIP clip/clip.py)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class CLIPVisionTransformer(nn.Module):
    """x [B, image_size, image_size, 3] float, normalized -> embedding [B, projection_dim] in dtype, not of unit length.

    activation: 'quick_gelu' (OpenAI's weights) or 'gelu' (OpenCLIP's). Attention and feed-forward are drawn from
    torch's default law: the released weights are what this tower is used with.
    Raises: ValueError for another shape, heads that do not divide the width, patches that do not divide the image, or
    an unknown activation.
    """

    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    projection_dim: int
    image_size: int = 224
    activation: str = "quick_gelu"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        self._check(x.shape)
        patches = Conv(
            self.width,
            self.patch_size,
            strides=self.patch_size,
            padding=0,
            use_bias=False,
            dtype=self.dtype,
            name="patch_embed",
        )(x)
        patches = patches.reshape(len(x), -1, self.width)
        init = nn.initializers.normal(self.width**-0.5)
        class_embed = self.param("class_embed", init, (self.width,), jnp.float32).astype(self.dtype)
        positions = self.param("position_embed", init, (patches.shape[1] + 1, self.width), jnp.float32)
        first = jnp.broadcast_to(class_embed, (len(x), 1, self.width))
        h = jnp.concatenate([first, patches], axis=1) + positions.astype(self.dtype)
        h = LayerNorm(dtype=self.dtype, name="norm_in")(h)
        for i in range(self.num_layers):
            h = CLIPVisionLayer(self.num_heads, self.activation, self.dtype, name=f"layer_{i}")(h)
        h = LayerNorm(dtype=self.dtype, name="norm_out")(h[:, 0])
        return Linear(self.projection_dim, use_bias=False, dtype=self.dtype, name="projection")(h)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or shape[1:] != (self.image_size, self.image_size, 3):
            raise ValueError(
                f"CLIPVisionTransformer: got {shape}, expected [B, {self.image_size}, {self.image_size}, 3]"
            )
        for name, whole, part in (
            ("num_heads", self.width, self.num_heads),
            ("patch_size", self.image_size, self.patch_size),
        ):
            if whole % part:
                raise ValueError(f"CLIPVisionTransformer: {name}={part}, expected a divisor of {whole}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"CLIPVisionTransformer: activation={self.activation!r}, expected {' or '.join(ACTIVATIONS)}"
            )


class CLIPVisionLayer(nn.Module):
    """Self-attention and a feed-forward four times as wide, both pre-normed and residual.

    epsilon: of the norms. layer_scale: where either branch's channels are weighted (Touvron et al. 2021,
    arXiv:2103.17239, section 2), the weight that they begin with; 0 is off.
    """

    num_heads: int
    activation: str
    dtype: jnp.dtype = jnp.float32
    epsilon: float = 1e-5
    layer_scale: float = 0.0

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """h [B, L, D] -> [B, L, D]."""
        b, length, width = h.shape
        y = LayerNorm(self.epsilon, self.dtype, name="norm1")(h)
        q, k, v = (
            Linear(width, dtype=self.dtype, name=f"to_{n}")(y).reshape(b, length, self.num_heads, -1)
            for n in "qkv"
        )
        y = Linear(width, dtype=self.dtype, name="to_out")(attend(q, k, v).reshape(b, length, width))
        h = h + self._scaled("scale1", y)
        y = LayerNorm(self.epsilon, self.dtype, name="norm2")(h)
        y = Linear(4 * width, dtype=self.dtype, name="ff_in")(y)
        y = Linear(width, dtype=self.dtype, name="ff_out")(ACTIVATIONS[self.activation](y))
        return h + self._scaled("scale2", y)

    def _scaled(self, name: str, y: Array) -> Array:
        if not self.layer_scale:
            return y
        start = nn.initializers.constant(self.layer_scale)
        return y * self.param(name, start, (y.shape[-1],), jnp.float32).astype(y.dtype)
