"""A promptable mask refiner (SAM) of scenes, or of any source with masks of instances.

Decides what it is asked in training and the loss. A box, a little off, means its object; a point means the object under
it, or as often all objects: the first of the network's masks is for boxes, the others for points, of which the best
one learns.
Source: Kirillov et al. 2023 (arXiv:2304.02643), section 3 and appendix A: 20 times the focal loss and the dice loss,
the least over three masks where a prompt may mean several things, and the square of how far off the predicted overlap
is. The original's rounds of further points, drawn where a mask was wrong, are left out.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from ldm_jax.models.sam import BOTTOM_RIGHT, INSIDE, NOTHING, OUTSIDE, SAM, TOP_LEFT, Masks
from ldm_jax.training.beside.base import Learner, Trained, apply_in_parts, check_fields, picture, pixels
from ldm_jax.types import Array, PyTree

FOCAL, DICE = 20.0, 1.0


def learner(
    *,
    image_size: int = 64,
    patch_size: int = 4,
    width: int = 64,
    num_layers: int = 4,
    num_heads: int = 4,
    window: int = 8,
    global_layers: tuple[int, ...] = (1, 3),
    features: int = 64,
    decoder_heads: int = 4,
    decoder_hidden: int = 128,
    jitter: float = 0.1,
    learning_rate: float = 1e-3,
) -> Learner:
    """jitter: how far a box's corners are off at most, in parts of its sides.

    Examples need `image` and `instance_mask` [H, W], 0 the background, i + 1 the object i.
    Raises: ValueError for an example without masks, or without an object.
    """
    network = SAM(
        image_size, patch_size, width, num_layers, num_heads, window, tuple(global_layers), features,
        decoder_heads=decoder_heads, decoder_hidden=decoder_hidden, iou_hidden=features,
    )  # fmt: skip
    side = 4 * image_size // patch_size  # of masks

    def init(key: Array) -> PyTree:
        blank = jnp.zeros((1, image_size, image_size, 3))
        return network.init(key, blank, jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), jnp.int32))["params"]

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        found = network.apply({"params": params}, pixels(batch["image"]), batch["points"], batch["labels"])
        return mask_loss(found, batch["mask"], (batch["labels"] == INSIDE).any(-1))

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        check_fields("sam", fields, "instance_mask")
        masks = Image.fromarray(np.asarray(fields["instance_mask"], np.int32))
        instances = np.asarray(masks.resize((image_size, image_size), Image.Resampling.NEAREST))
        points, labels, mask = asked(instances, rng, jitter)
        small = Image.fromarray(mask.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        return dict(
            image=picture(fields, image_size), points=points, labels=labels, mask=np.asarray(small, np.uint8)
        )

    return Learner(network, init, loss, example, learning_rate=learning_rate)


def asked(
    instances: np.ndarray, rng: np.random.Generator, jitter: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prompt about instances [H, W]: points [2, 2] float32 (x, y), labels [2] int32, and the mask [H, W] bool that is
    meant. Raises: ValueError if there is no object."""
    known = np.unique(instances[instances > 0])
    if not len(known):
        raise ValueError("sam: a picture without an object, expected instance_mask with at least one")
    mask = instances == rng.choice(known)
    if rng.random() < 0.5:
        box = box_of(mask)
        off = rng.uniform(-jitter, jitter, 4) * np.tile(box[2:] - box[:2], 2)
        return (
            (box + off).reshape(2, 2).astype(np.float32),
            np.asarray([TOP_LEFT, BOTTOM_RIGHT], np.int32),
            mask,
        )
    ys, xs = np.nonzero(mask)
    i = rng.integers(len(ys))
    points = np.asarray([[xs[i], ys[i]], [0, 0]], np.float32)
    return points, np.asarray([INSIDE, NOTHING], np.int32), mask if rng.random() < 0.5 else instances > 0


def box_of(mask: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) of the outermost pixels of a mask [H, W] bool, [4] float32."""
    ys, xs = np.nonzero(mask)
    return np.asarray([xs.min(), ys.min(), xs.max(), ys.max()], np.float32)


def focal_loss(logits: Array, mask: Array, alpha: float = 0.25, gamma: float = 2.0) -> Array:
    """The mean over the pixels of logits and mask [..., H, W] -> [...]. Source: Lin et al. 2017 (arXiv:1708.02002)."""
    return optax.sigmoid_focal_loss(logits, mask, alpha=alpha, gamma=gamma).mean((-2, -1))


def dice_loss(logits: Array, mask: Array) -> Array:
    """1 - Dice of logits and mask [..., H, W] -> [...]. Source: Milletari et al. 2016 (arXiv:1606.04797), eq. 1; with 1
    added above and below the fraction's line, and no squares below it, as in facebookresearch/detr."""
    p = jax.nn.sigmoid(logits)
    return 1 - (2 * (p * mask).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + mask.sum((-2, -1)) + 1)


def overlap(logits: Array, mask: Array) -> Array:
    """Intersection over union of logits > 0 and mask > 0, [..., H, W] -> [...]; 1 where both are empty."""
    a, b = logits > 0, mask > 0
    union = (a | b).sum((-2, -1))
    return jnp.where(union, (a & b).sum((-2, -1)) / jnp.maximum(union, 1), 1.0)


def mask_loss(found: Masks, mask: Array, open_to_doubt: Array) -> tuple[Array, dict[str, Array]]:
    """found: of masks [B, H, W] in [0, 1]. open_to_doubt [B] bool: prompts that may mean several things. Returns the
    loss, and its parts with the mean overlap of the mask that learned."""
    there = jnp.broadcast_to(mask[:, None].astype(jnp.float32), found.logits.shape)
    wrong = FOCAL * focal_loss(found.logits, there) + DICE * dice_loss(found.logits, there)  # [B, 1 + n]
    best = 1 + wrong[:, 1:].argmin(-1)
    which = jnp.where(open_to_doubt, best, 0)[:, None]
    learned = jnp.take_along_axis(wrong, which, axis=1).mean()
    true = jax.lax.stop_gradient(overlap(found.logits, there))
    shown = open_to_doubt[:, None] == (jnp.arange(wrong.shape[1]) > 0)  # those that the prompt asks for
    off = (jnp.square(found.iou - true) * shown).sum() / shown.sum()
    reached = jnp.take_along_axis(true, which, axis=1).mean()
    return learned + off, dict(mask=learned, off=off, iou=reached)


def refine(
    network: SAM, params: PyTree, images: Array, points: Array, labels: Array, mask: Array | None = None
) -> Masks:
    """The masks that prompts mean: images [B, H, W, 3] uint8, the others as SAM takes them."""
    return network.apply({"params": params}, pixels(images), points, labels, mask)


@functools.cache
def _refining(network: SAM) -> Callable[..., Masks]:
    """refine(network, …), the same function at every call, so that it is compiled once."""
    return functools.partial(refine, network)


def masks_of(
    trained: Trained,
    images: Sequence[np.ndarray],
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    points: Sequence[Sequence[tuple[float, float, bool]]] | None = None,
) -> list[np.ndarray]:
    """The mask [H, W] bool that is meant in each of images [H, W, 3] uint8, of any size.

    boxes: of each (x0, y0, x1, y1) in pixels. points: of each [(x, y, whether it is inside), …], as many of all; of one
    point alone the mask is that of the three whose overlap is expected to be highest.
    Raises: ValueError unless one of both is given, for each picture, and for what lies outside of a picture.
    """
    if (boxes is None) == (points is None):
        raise ValueError(
            f"sam: got {'neither' if boxes is None else 'both'} of boxes and points, expected one of them"
        )
    given = boxes if points is None else points
    if len(given) != len(images) or len({np.shape(one) for one in given}) != 1:
        raise ValueError(
            f"sam: prompts of {len(given)} pictures, expected {len(images)}, each with as many points"
        )
    side, where, labels = trained.learner.network.image_size, [], []
    for i, (image, asked) in enumerate(zip(images, given, strict=True)):
        at, kinds = _in_place(np.asarray(asked, np.float32), points is None)
        sides = np.asarray(image.shape[1::-1], np.float32)
        if at.min() < 0 or (at > sides).any():
            raise ValueError(
                f"sam: {asked} lies outside of picture {i}, which is {sides[0]:.0f} x {sides[1]:.0f}"
            )
        where.append(at / sides * side)
        labels.append(kinds)
    shown = np.stack([picture({"image": image}, side) for image in images])
    found = apply_in_parts(
        _refining(trained.learner.network), trained.params, shown, np.stack(where), np.stack(labels)
    )
    alone = points is not None and np.shape(points[0])[0] == 1
    which = 1 + found.iou[:, 1:].argmax(1) if alone else np.zeros(len(images), int)
    chosen = found.logits[np.arange(len(images)), which]
    return [
        np.asarray(jax.image.resize(one, image.shape[:2], "bilinear")) > 0
        for one, image in zip(chosen, images, strict=True)
    ]


def _in_place(asked: np.ndarray, is_box: bool) -> tuple[np.ndarray, np.ndarray]:
    """(points [n, 2], labels [n] int32) of a box [4], or of points [n, 3]; as the original does, a point of no meaning
    follows where there is no box."""
    if is_box:
        return asked.reshape(2, 2), np.asarray([TOP_LEFT, BOTTOM_RIGHT], np.int32)
    kinds = np.where(asked[:, 2] > 0, INSIDE, OUTSIDE)
    return np.pad(asked[:, :2], ((0, 1), (0, 0))), np.append(kinds, NOTHING).astype(np.int32)
