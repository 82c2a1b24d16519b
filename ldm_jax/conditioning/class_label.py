"""Conditioning on a class label.

Decides that "no class" is one more row, after the last class, and how a label becomes a Cond. Source: Rombach
et al. 2022 (arXiv:2112.10752) section 4.3.2; CompVis/latent-diffusion@a506df5 ldm/modules/encoders/modules.py
ClassEmbedder, whose cin256-v2 model has the extra row too. It does not know how conditions are dropped in
training (conditioning/base.py).
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting
from ldm_jax.types import Array, Cond

TAKES = ("class_labels",)
EXAMPLE = {"class_labels": "class_label"}
DROPS = ("class_labels",)
ENCODES = ()


class Conditioner(nn.Module):
    """Labels to a Cond. mechanism 'context': a learned token for cross-attention; 'vector': the label itself.

    With 'vector' the UNet owns the table: give it num_classes + 1 classes, so that the null label has its row.
    null_class: False leaves that row out, as in cin256 of the original, which then cannot be guided.
    """

    num_classes: int
    width: int | None = None
    mechanism: str = "context"
    null_class: bool = True
    dtype: jnp.dtype = jnp.float32

    @property
    def has_null(self) -> bool:
        return self.null_class

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'class_labels': [B] int32 in [0, num_classes]} -> Cond(context [B, 1, width]) or
        Cond(vector [B] int32).

        deterministic changes nothing here. Raises: ValueError for an unknown mechanism, or a context without
        a width.
        """
        if self.mechanism not in ("context", "vector"):
            raise ValueError(f"class_label: mechanism={self.mechanism!r}, expected 'context' or 'vector'")
        labels = inputs["class_labels"]
        if self.mechanism == "vector":
            return Cond(vector=labels)
        if self.width is None:
            raise ValueError("class_label: mechanism 'context' needs a width, got None")
        table = nn.Embed(
            self.num_classes + self.null_class,
            self.width,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
            name="embedding",
        )
        return Cond(context=table(labels)[:, None])


def inputs(given: Mapping[str, Sequence[int]], setting: Setting) -> dict[str, np.ndarray]:
    """given {'class_labels': [B] integers in [0, num_classes)} -> {'class_labels': [B] int32}.

    Raises: ValueError that names the valid range.
    """
    labels, num_classes = np.asarray(given["class_labels"]), setting.conditioner.num_classes
    if labels.ndim != 1 or not (np.issubdtype(labels.dtype, np.integer) or labels.size == 0):
        raise ValueError(
            f"class_label: labels of shape {labels.shape} and {labels.dtype}, expected a list of integers"
        )
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(f"class_label: label {outside[0]}, expected 0 to {num_classes - 1}")
    return {"class_labels": labels.astype(np.int32)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'class_labels': [B] int32}, all num_classes: the row that stands for no class (0 where there is none)."""
    null = setting.conditioner.num_classes if setting.conditioner.null_class else 0
    return {"class_labels": np.full((batch_size,), null, np.int32)}
