"""DETR of scenes, or of any source with boxes: which objects are in a picture, and where.

Decides the small sizes at which minutes are enough; the network is models/detr.py, the loss set_prediction.py.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.detr import DETR, Detections
from ldm_jax.training import set_prediction
from ldm_jax.training.beside.base import Learner, check_fields, picture, pixels
from ldm_jax.types import Array, PyTree

BACKBONE = dict(
    stem_width=16, widths=(16, 32, 64), depths=(1, 1, 1), bottleneck=False, norm="group", stem="small"
)


def learner(
    *,
    num_classes: int = 24,
    image_size: int = 64,
    max_objects: int = 3,
    num_queries: int = 8,
    width: int = 64,
    num_heads: int = 4,
    encoder_layers: int = 1,
    decoder_layers: int = 3,
    hidden: int = 128,
    backbone: Mapping[str, Any] | None = None,
    learning_rate: float = 1e-3,
) -> Learner:
    """max_objects: of a picture; the largest, where it has more. backbone: options of models/resnet.py.

    Examples need `image`, `boxes` [n, 4] (y0, x0, y1, x1) relative to the sides, and `labels` [n].
    Raises: ValueError for an example without boxes, or labels that are none of num_classes.
    """
    sizes = dict(BACKBONE | dict(backbone or {}))
    sizes |= {name: tuple(sizes[name]) for name in ("widths", "depths")}
    network = DETR(
        num_classes, num_queries, width, num_heads, encoder_layers, decoder_layers, hidden, backbone=sizes
    )

    def init(key: Array) -> PyTree:
        return network.init(key, jnp.zeros((1, image_size, image_size, 3)))["params"]

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        found = network.apply({"params": params}, pixels(batch["image"]))
        return set_prediction.loss(found, set_prediction.Objects(*(batch[name] for name in FIELDS)))

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": picture(fields, image_size)} | targets(fields, max_objects, num_classes)

    return Learner(network, init, loss, example, learning_rate=learning_rate)


FIELDS = ("boxes", "labels", "there")


def targets(fields: Mapping[str, Any], max_objects: int, num_classes: int) -> dict[str, np.ndarray]:
    """The objects of an example as set_prediction.Objects has them, without the batch's axis."""
    check_fields("detr", fields, "boxes", "labels")
    boxes = np.asarray(fields["boxes"], np.float32).reshape(-1, 4)
    labels = np.asarray(fields["labels"], np.int32)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels are {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1} as num_classes is "
            f"{num_classes}"
        )
    largest = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")[:max_objects]
    y0, x0, y1, x1 = boxes[largest].T
    middles = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
    more = max_objects - len(largest)
    return dict(
        boxes=np.pad(middles, ((0, more), (0, 0))),
        labels=np.pad(labels[largest], (0, more)),
        there=np.arange(max_objects) < len(largest),
    )


def found(network: DETR, params: PyTree, images: Array) -> tuple[Array, Array, Array]:
    """images [B, H, W, 3] uint8 -> of each query boxes [B, N, 4] (x0, y0, x1, y1) relative to the sides, labels [B, N]
    and scores [B, N], the probability of the likeliest class that is an object."""
    said: Detections = network.apply({"params": params}, pixels(images))
    p = jax.nn.softmax(said.logits[-1])[..., :-1]
    return set_prediction.corners(said.boxes[-1]), p.argmax(-1), p.max(-1)
