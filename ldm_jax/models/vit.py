"""A vision transformer that sees all patches of a picture, or some: ViT's, DINO's, DINOv2's and MAE's encoder.

Decides the architecture (patches, learned places, a class token, pre-norm layers, a norm behind the last). It knows no
head and no loss. Its layers are those of CLIP's image tower, with other norms.
Source: Dosovitskiy et al. 2021 (arXiv:2010.11929), section 3.1; Oquab et al. 2023, DINOv2 (arXiv:2304.07193), whose
branches are scaled (`layer_scale`). DINOv2's registers and its resized places are not here.
"""

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models.clip_vision import CLIPVisionLayer
from ldm_jax.models.layers import Conv, LayerNorm
from ldm_jax.types import Array


class ViT(nn.Module):
    """x [B, image_size, image_size, 3] float, normalized -> [B, 1 + L, width] float32: the class token, then the
    patches, row by row.

    epsilon: of norms. layer_scale: see CLIPVisionLayer.
    Raises: ValueError for another shape, or patches or heads that do not divide the picture or the width.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    epsilon: float = 1e-6
    layer_scale: float = 0.0

    @nn.compact
    def __call__(self, x: Array, kept: Array | None = None) -> Array:
        """kept: [B, K] int32, the patches that are seen, None all of them. Then the output has 1 + K rows, in order."""
        self._check(x.shape)
        patches = Conv(self.width, self.patch_size, strides=self.patch_size, padding=0, name="patch_embed")(x)
        patches = patches.reshape(len(x), -1, self.width)
        normal = nn.initializers.normal(0.02)
        places = self.param("position_embed", normal, (1, 1 + patches.shape[1], self.width), jnp.float32)
        first = self.param("class_embed", normal, (1, 1, self.width), jnp.float32) + places[:, :1]
        patches = patches + places[:, 1:]
        if kept is not None:
            patches = jnp.take_along_axis(patches, kept[..., None], axis=1)
        h = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), patches], axis=1)
        for i in range(self.num_layers):
            layer = CLIPVisionLayer(
                self.num_heads, "gelu", epsilon=self.epsilon, layer_scale=self.layer_scale, name=f"layer_{i}"
            )
            h = layer(h)
        return LayerNorm(self.epsilon, name="norm")(h)

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape[1:] != (self.image_size, self.image_size, 3):
            raise ValueError(f"ViT: got {shape}, expected [B, {self.image_size}, {self.image_size}, 3]")
        for name, whole, part in (
            ("patch_size", self.image_size, self.patch_size),
            ("num_heads", self.width, self.num_heads),
        ):
            if whole % part:
                raise ValueError(f"ViT: {name}={part}, expected a divisor of {whole}")
