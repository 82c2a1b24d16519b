"""Aligns features of the network's middle with what is known of the picture: where which class is, or what another
network sees.

Decides which features are read, what they are compared with, and the loss. Source: Yu et al. 2024, REPA
(arXiv:2410.06940), section 3.3: a small head reads the features of a network that is shown x_t, at every noise level,
and should say what a representation of x_start is. Where a picture's own map of classes is known it takes the place of
a pretrained encoder's features, and the cross-entropy that of their cosine. As in U-REPA (Tian et al. 2025,
arXiv:2503.18414), the features are those of a UNet behind its middle, and where they are fewer cells than an encoder's,
their projection is enlarged; its manifold loss is left out.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.models.projection import Projection
from ldm_jax.models.unet import site_table
from ldm_jax.system import System
from ldm_jax.training.terms import Term
from ldm_jax.training.token_masks import cells_of
from ldm_jax.types import Array, PyTree

ALIGNMENT = "alignment"  # of an example: [h, w, K] float32, of `class_map`
KINDS = ("trunk", "skip", "res")  # of sites whose features are [B, h, w, C]
MIDDLE = "mid.out"


class Recorder(Control):
    """Reads features [B, h, w, C]: of the sites of these names, or without names of the trunk where it has fewer than
    `below` cells in height."""

    names: tuple[str, ...] = struct.field(pytree_node=False, default=())
    below: int = struct.field(pytree_node=False, default=0)

    def touches(self, site: Site) -> bool:
        if self.names:
            return site.kind in KINDS and site.name in self.names
        return site.kind == "trunk" and site.resolution < self.below

    def record(self, site: Site, value: Array) -> Array:
        return value


class Comparison(NamedTuple):
    """What the features' projection is compared with, and how.

    channels: K of the projection. depth: hidden layers of the head.
    target: as of terms.Term. loss(projected [B, h, w, K], target) -> [B] float32.
    """

    channels: int
    depth: int
    target: Callable
    loss: Callable


def term(
    *,
    system: System,
    weight: float = 0.0,
    sites: tuple[str, ...] = (),
    classes: Mapping[str, int] | None = None,
    features: str | None = None,
    width: int = 128,
) -> Term | None:
    """The options of config.loss.alignment; None for weight 0.

    sites: the names of the features that are read, each by a head of its own; none given: all of the trunk, which leads
    from the middle to the output, that is coarser than the latents; of a network of one level the middle's output.
    classes: {name: number of classes without the background} of the maps that a data source has (`class_map`).
    features: 'package.module:function' in their place: a function of images [B, H, W, 3] float32 in [-1, 1] that
    returns [B, h, w, D] and is compiled into the step.
    width: of the head's hidden layers, of which there is one for classes and are two for features.
    Raises: ValueError for weight < 0, or unless one of classes and features is given; later for an unknown site.
    """
    if weight < 0:
        raise ValueError(f"loss.alignment.weight: got {weight}, expected 0 (off) or more")
    if not weight:
        return None
    if bool(classes) == bool(features):
        got = "both" if classes else "neither"
        raise ValueError(f"loss.alignment: got {got} of classes and features, expected one of them")
    recorder = recorder_of(system, sites)
    compared = with_classes(classes) if classes else with_features(features, system.image_shape)
    head = Projection(compared.channels, width, compared.depth)

    def loss(params: PyTree, taps: dict, target: Array) -> Array:
        errors = [
            compared.loss(head.apply({"params": params[ALIGNMENT][head_name(tap)]}, value), target)
            for tap, value in taps.items()
        ]
        return jnp.stack(errors).mean(axis=0)

    init = partial(init_heads, system=system, recorder=recorder, head=head)
    return Term(ALIGNMENT, weight, recorder, compared.target, loss, init)


def recorder_of(system: System, sites: Sequence[str]) -> Recorder:
    """Reads features at `sites`; none given: of the trunk, where it is coarser than the latents, or of a network of one
    level the middle's output.
    """
    if not sites and len(system.unet.channel_mult) == 1:
        sites = (MIDDLE,)
    return Recorder(tuple(sites), system.latent_shape[0])


def init_heads(
    key: Array,
    params: PyTree,
    *,
    system: System,
    recorder: Recorder,
    head: Projection,
    what: str = "loss.alignment.sites",
) -> PyTree:
    """{site: parameters of its head}. Raises: ValueError, beginning with `what`, for a site that the network does not
    have.
    """
    null = system.null_inputs(1)
    latent = np.zeros((1, *system.latent_shape), np.float32)
    inputs = {k: latent if k in system.encodes else v for k, v in null.items()}
    cond = jax.eval_shape(lambda params: system.condition(params, inputs), params)
    table = [
        (site, shape) for site, shape in site_table(system.unet, latent.shape, cond) if site.kind in KINDS
    ]
    for name in recorder.names:
        if name not in (known := [site.name for site, _ in table]):
            raise ValueError(f"{what}: {name!r} not found; there are: {', '.join(known)}")
    read = [(site.name, shape) for site, shape in table if recorder.touches(site)]
    return {
        head_name(name): head.init(jax.random.fold_in(key, i), jnp.zeros((1, shape[-1])))["params"]
        for i, (name, shape) in enumerate(read)
    }


def head_name(tap: str) -> str:
    """Of the parameters of a site's head."""
    return tap.partition("/")[0].replace(".", "_")


# --------------------------------------------------------------------------------------------------- maps of classes


def class_counts(config: Mapping[str, Any]) -> dict[str, int]:
    """{name: number of classes} of the maps that config.loss.alignment asks the data for; {} where it asks for none."""
    options = config.get("loss", {}).get(ALIGNMENT) or {}
    return dict(options.get("classes") or {}) if options.get("weight") else {}


def class_map(
    segments: Sequence[tuple[Mapping[str, int], np.ndarray]],
    classes: Mapping[str, int],
    shape: tuple[int, int],
) -> np.ndarray:
    """[h, w, K] float32: for each name in `classes`, in alphabetical order, the parts of each cell that are background
    and that are of each class, which add up to 1.

    segments: (labels, mask) of each object, where {name: label} counts from 0 and mask [H, W] in [0, 1] is what it
    covers. shape: (h, w). Raises: ValueError if it does not divide (H, W), or for a label that is missing or too large.
    """
    maps = {name: np.zeros((*shape, classes[name] + 1), np.float32) for name in sorted(classes)}
    for labels, mask in segments:
        cells = cells_of(mask, shape)
        for name, parts in maps.items():
            label = labels.get(name)
            if label is None or not 0 <= label < classes[name]:
                raise ValueError(
                    f"loss.alignment.classes: a segment has the labels {dict(labels)}, expected a {name!r} below "
                    f"{classes[name]}"
                )
            parts[..., label + 1] += cells
    for parts in maps.values():
        parts[..., 0] = np.maximum(1 - parts.sum(axis=-1), 0)
        parts /= parts.sum(axis=-1, keepdims=True)
    return np.concatenate(list(maps.values()), axis=-1)


def with_classes(classes: Mapping[str, int]) -> Comparison:
    """With `class_map` of the batch, by `class_loss`."""
    sizes = tuple(classes[name] + 1 for name in sorted(classes))
    return Comparison(sum(sizes), 1, lambda batch: batch[ALIGNMENT], partial(class_loss, sizes=sizes))


def class_loss(logits: Array, target: Array, *, sizes: tuple[int, ...]) -> Array:
    """[B] float32: the cross-entropy of each cell's classes, the mean over the maps of its mean over cells.

    In a picture the background and each class that is there count the same, however few cells they cover: a cell's
    weight is the sum of its shares of each of them. It depends on the target alone, so that the least loss is where the
    softmax of the logits is the target.
    logits: [B, h, w, K]. target: [B, h', w', K], of multiples of h and w cells. sizes: of the maps, K together.
    """
    b, h, w, k = logits.shape
    target = target.reshape(b, h, target.shape[1] // h, w, target.shape[2] // w, k).mean(axis=(2, 4))
    ends = np.cumsum(sizes)[:-1]
    errors = []
    for part, given in zip(jnp.split(target, ends, -1), jnp.split(logits, ends, -1), strict=True):
        covered = part.sum(axis=(1, 2), keepdims=True)
        share = part / jnp.where(covered > 0, covered, 1)  # of each class, 1 over all cells
        cell = share.sum(axis=-1) / (covered > 0).sum(axis=-1)
        errors.append((cell * -(part * jax.nn.log_softmax(given)).sum(axis=-1)).sum(axis=(1, 2)))
    return jnp.stack(errors).mean(axis=0)


# ------------------------------------------------------------------------------------------------ features of others


def with_features(name: str, image_shape: tuple[int, int]) -> Comparison:
    """With what the function 'package.module:function' makes of the batch's images, by `cosine_loss`.

    Raises: ValueError if there is no such function, or it returns another shape than [B, h, w, D].
    """
    module, _, function = name.partition(":")
    try:
        extract = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"loss.alignment.features: {name!r} is no package.module:function: {error}"
        ) from None
    found = jax.eval_shape(extract, jax.ShapeDtypeStruct((1, *image_shape, 3), jnp.float32))
    if len(found.shape) != 4:
        raise ValueError(
            f"loss.alignment.features: {name!r} returns the shape {found.shape}, expected [B, h, w, D]"
        )
    return Comparison(found.shape[-1], 2, lambda batch: extract(batch["image"]), cosine_loss)


def cosine_loss(projected: Array, target: Array) -> Array:
    """[B] float32: 1 - the cosine between the projection and the target at each cell, the mean over cells.

    projected: [B, h, w, D], brought to the target's size, bilinearly. target: [B, h', w', D].
    """
    target = target.astype(jnp.float32)
    projected = jax.image.resize(projected, target.shape, "linear")
    norms = jnp.linalg.norm(projected, axis=-1) * jnp.linalg.norm(target, axis=-1)
    return 1 - ((projected * target).sum(axis=-1) / jnp.maximum(norms, 1e-6)).mean(axis=(1, 2))
