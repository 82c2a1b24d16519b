"""Conditioning on a class label, or on a mixture of classes.

Decides that "no class" is one more row, after the last class, how a label becomes a Cond, and that a mixture is the
weighted sum of its classes' rows, with the weights as they are given. Source: Rombach et al. 2022 (arXiv:2112.10752)
section 4.3.2; CompVis/latent-diffusion@a506df5 ldm/modules/encoders/modules.py ClassEmbedder, whose cin256-v2 model has
the extra row too. The original mixes no classes. It does not know how conditions are dropped in training
(conditioning/base.py).
"""

from collections.abc import Mapping, Sequence

import jax
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
    """Labels to a Cond. mechanism 'context': learned tokens for cross-attention, one a class unless `tokens` says
    more; 'vector': the label itself.

    With 'vector' the UNet owns the table: give it num_classes + 1 classes, so that the null label has its row.
    null_class: False leaves that row out, as in cin256 of the original, which then cannot be guided.
    """

    num_classes: int
    width: int | None = None
    mechanism: str = "context"
    null_class: bool = True
    tokens: int = 1
    dtype: jnp.dtype = jnp.float32

    @property
    def has_null(self) -> bool:
        return self.null_class

    @property
    def num_rows(self) -> int:
        return self.num_classes + self.null_class

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'class_labels': as `inputs` gives them, or with 'context' [B] int32 in [0, num_rows) as well}
        -> Cond(context [B, tokens, width]) or Cond(vector [B] int32).

        A row of weights that is 1 for one class and 0 elsewhere gives that class's row of the table to the bit.
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
            self.num_rows,
            self.tokens * self.width,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
            name="embedding",
        )
        if labels.ndim == 1:
            return Cond(context=table(labels).reshape(-1, self.tokens, self.width))
        # in float32 on every device, whatever its matrix units would rather do
        mixed = jnp.matmul(labels.astype(jnp.float32), table.embedding, precision=jax.lax.Precision.HIGHEST)
        return Cond(context=mixed.astype(self.dtype).reshape(-1, self.tokens, self.width))


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'class_labels': B of integers in [0, num_classes), or with mechanism 'context' of mixtures {label:
    weight}}.

    A mixture is the sum of weight * embedding: weights are any finite numbers and are not brought to a sum of 1, which
    is what a user wants who fades a class out or leads away from one.
    Returns: {'class_labels': [B, num_rows] float32, each row's weights of the classes, 1 for a plain label}, or with
    mechanism 'vector' {'class_labels': [B] int32}; so that a mixture compiles nothing anew.
    Raises: ValueError that names the valid range; for an empty mixture, a weight that is not finite, and a mixture for
    a model with mechanism 'vector'.
    """
    conditioner, labels = setting.conditioner, given["class_labels"]
    if np.ndim(labels) != 1:
        raise ValueError(
            f"class_label: labels of shape {np.shape(labels)}, expected a list of integers or of {{label: weight}}"
        )
    if conditioner.mechanism == "vector":
        if any(isinstance(label, Mapping) for label in labels):
            raise ValueError(
                "class_label: got a mixture of classes, expected a label: the network of this model looks "
                "one up itself "
                "(mechanism 'vector')"
            )
        plain = [_label(label, conditioner.num_classes) for label in labels]
        return {"class_labels": np.asarray(plain, np.int32).reshape(-1)}
    weights = np.zeros((len(labels), conditioner.num_rows), np.float32)
    for row, label in zip(weights, labels, strict=True):
        if isinstance(label, Mapping):
            _mix(row, label, conditioner.num_classes)
        else:
            row[_label(label, conditioner.num_classes)] = 1
    return {"class_labels": weights}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of the label num_classes, the row that stands for no class (0 where there is none)."""
    conditioner = setting.conditioner
    null = conditioner.num_classes if conditioner.null_class else 0
    if conditioner.mechanism == "vector":
        return {"class_labels": np.full((batch_size,), null, np.int32)}
    return {
        "class_labels": np.tile(np.arange(conditioner.num_rows) == null, (batch_size, 1)).astype(np.float32)
    }


def _mix(row: np.ndarray, mixture: Mapping, num_classes: int) -> None:
    """Puts the weights of a mixture into its row [num_rows] float32."""
    if not mixture:
        raise ValueError("class_label: got a mixture of no classes, expected {label: weight, …}")
    for label, weight in mixture.items():
        number = np.asarray(weight)
        with np.errstate(over="ignore"):
            finite = number.ndim == 0 and number.dtype.kind in "iuf" and np.isfinite(np.float32(number))
        if not finite:
            raise ValueError(
                f"class_label: label {label} has the weight {weight!r}, expected a finite number"
            )
        row[_label(label, num_classes)] = number


def _label(label: object, num_classes: int) -> int:
    """label as an int. Raises: ValueError that names the valid range."""
    value = np.asarray(label)
    if value.ndim or not np.issubdtype(value.dtype, np.integer):
        raise ValueError(
            f"class_label: label {label!r}, expected integers, 0 to {num_classes - 1}, or mixtures {{label: weight}}"
        )
    if not 0 <= value < num_classes:
        raise ValueError(f"class_label: label {value}, expected 0 to {num_classes - 1}")
    return int(value)
