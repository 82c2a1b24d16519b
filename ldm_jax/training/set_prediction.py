"""DETR's loss: which query is to tell which object, and how well it does.

Decides the matching, one query to each object so that the sum of costs is least, and the loss of matched and unmatched
queries. The matching is computed inside the step (optax's Hungarian algorithm), without the host.
Source: Carion et al. 2020 (arXiv:2005.12872), equations 1 and 2, section 3.1 and appendix A.2: -p(c) + 5 L1 - 2 GIoU is
the cost of a match, and trains nothing; facebookresearch/detr models/matcher.py and models/detr.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ldm_jax.models.detr import Detections
from ldm_jax.types import Array

CLASS, L1, GIOU = 1.0, 5.0, 2.0
NO_OBJECT = 0.1  # the weight of a query that is to say that there is nothing


class Objects(NamedTuple):
    """The objects of pictures. boxes: [B, M, 4], as Detections has them. labels: [B, M] int32. there: [B, M] bool,
    False where a picture has fewer than M."""

    boxes: Array
    labels: Array
    there: Array


def corners(boxes: Array) -> Array:
    """[..., 4] (x, y, width, height) of the middle -> (x0, y0, x1, y1)."""
    middle, sides = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([middle - sides / 2, middle + sides / 2], axis=-1)


def giou(a: Array, b: Array) -> Array:
    """Generalized intersection over union of boxes a and b [..., 4] (x0, y0, x1, y1), in [-1, 1].

    Source: Rezatofighi et al. 2019 (arXiv:1902.09630), algorithm 1. Boxes without an area have 0 in the place of 0 / 0.
    """

    def area(box: Array) -> Array:
        return jnp.clip(box[..., 2:] - box[..., :2], 0).prod(-1)

    both = jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], -1)
    hull = jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)
    shared = area(both)
    union = area(a) + area(b) - shared
    least_area = 1e-9  # whose square, in the gradient, is still a float
    return shared / jnp.maximum(union, least_area) - (area(hull) - union) / jnp.maximum(
        area(hull), least_area
    )


def costs(logits: Array, boxes: Array, objects: Objects) -> Array:
    """[B, N, M] float32 of one layer's logits [B, N, C + 1] and boxes [B, N, 4]: of each query for each object, 0 for
    objects that are not there."""
    p = jnp.take_along_axis(jax.nn.softmax(logits), objects.labels[:, None], axis=-1)  # [B, N, M]
    a, b = boxes[:, :, None], objects.boxes[:, None]
    cost = L1 * abs(a - b).sum(-1) - CLASS * p - GIOU * giou(corners(a), corners(b))
    return jnp.where(objects.there[:, None], cost, 0.0)


def match(cost: Array) -> Array:
    """cost [B, N, M], N >= M -> [B, M] int32: the query of each object."""

    def one(cost: Array) -> Array:
        rows, columns = optax.assignment.hungarian_algorithm(cost)
        return jnp.zeros(cost.shape[1], jnp.int32).at[columns].set(rows.astype(jnp.int32))

    return jax.vmap(one)(cost)


def layer_loss(logits: Array, boxes: Array, objects: Objects) -> dict[str, Array]:
    """The unweighted parts of one layer's loss, scalars: 'classes', 'l1' and 'giou'."""
    queries = match(jax.lax.stop_gradient(costs(logits, boxes, objects)))
    batch, none = jnp.arange(len(logits))[:, None], logits.shape[-1] - 1
    # An object that is not there is dropped: it is written to a query behind the last.
    place = jnp.where(objects.there, queries, logits.shape[1])
    wanted = jnp.full(logits.shape[:2], none).at[batch, place].set(objects.labels, mode="drop")
    weight = jnp.where(wanted == none, NO_OBJECT, 1.0)
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
    found = jnp.take_along_axis(boxes, queries[..., None], axis=1)  # [B, M, 4]
    number = jnp.maximum(objects.there.sum(), 1)
    apart = abs(found - objects.boxes).sum(-1)
    overlap = giou(corners(found), corners(objects.boxes))
    return dict(
        classes=(weight * ce).sum() / weight.sum(),
        l1=jnp.where(objects.there, apart, 0).sum() / number,
        giou=jnp.where(objects.there, 1 - overlap, 0).sum() / number,
    )


def loss(found: Detections, objects: Objects) -> tuple[Array, dict[str, Array]]:
    """The loss, summed over the decoder's layers, each with a matching of its own; and the last layer's parts.

    Raises: ValueError for fewer queries than objects.
    """
    queries, number = found.logits.shape[2], objects.labels.shape[1]
    if queries < number:
        raise ValueError(f"{queries} queries for up to {number} objects, expected at least as many queries")
    parts = jax.vmap(layer_loss, in_axes=(0, 0, None))(found.logits, found.boxes, objects)
    total = CLASS * parts["classes"] + L1 * parts["l1"] + GIOU * parts["giou"]
    return total.sum(), {name: values[-1] for name, values in parts.items()}
