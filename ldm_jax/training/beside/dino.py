"""DINO: a network that learns, without labels, to say the same of different views of a picture as its own average does.

Decides the views, the head and the loss; the network is models/vit.py. The parameters are {'student', 'teacher',
'center'}: the teacher, an average of the student, is what is used.
Source: Caron et al. 2021 (arXiv:2104.14294), algorithm 1, section 3.1 and appendix; facebookresearch/dino. There are
eight small views besides two large ones, at a smaller size; here the small ones are drawn at the same size, so that
there is one program, and their number is an option.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.data import transforms
from ldm_jax.models.layers import Linear
from ldm_jax.models.vit import ViT
from ldm_jax.training.beside.base import Learner, picture, pixels
from ldm_jax.types import Array, PyTree

LARGE, SMALL = (0.4, 1.0), (0.1, 0.4)  # parts of the picture's area that views show


class Head(nn.Module):
    """[B, D] float -> [B, prototypes] float32: two hidden layers with GELU, a narrow one of unit length, and cosines
    with the prototypes."""

    hidden: int
    narrow: int
    prototypes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(2):
            x = jax.nn.gelu(Linear(self.hidden, name=f"hidden_{i}")(x), approximate=False)
        x = unit(Linear(self.narrow, name="narrow")(x))
        start = nn.initializers.normal(1.0)
        kernel = self.param("prototypes", start, (self.narrow, self.prototypes), jnp.float32)
        return x @ unit(kernel, axis=0)


def unit(x: Array, axis: int = -1) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


class Dino(nn.Module):
    """x [B, H, W, 3] float in [-1, 1] -> [B, prototypes]; `features`: -> [B, width], the class token."""

    vit: ViT
    head: Head

    def __call__(self, x: Array) -> Array:
        return self.head(self.vit(x)[:, 0])

    def features(self, x: Array) -> Array:
        return self.vit(x)[:, 0]


def learner(
    *,
    image_size: int = 64,
    patch_size: int = 8,
    width: int = 96,
    num_layers: int = 4,
    num_heads: int = 4,
    hidden: int = 128,
    narrow: int = 64,
    prototypes: int = 256,
    small_views: int = 2,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    momentum: float = 0.99,
    center_momentum: float = 0.9,
    jitter: float = 0.2,
    learning_rate: float = 5e-4,
) -> Learner:
    """momentum: of the teacher at first, from where it rises to 1. jitter: how far views' brightness and contrast are
    off at most, in parts."""
    network = Dino(
        ViT(image_size, patch_size, width, num_layers, num_heads), Head(hidden, narrow, prototypes)
    )

    def init(key: Array) -> PyTree:
        student = network.init(key, jnp.zeros((1, image_size, image_size, 3)))["params"]
        center = jnp.zeros((prototypes,))
        return {"student": student, "teacher": jax.tree.map(jnp.copy, student), "center": {"mean": center}}

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        views = pixels(jnp.moveaxis(batch["views"], 1, 0))  # [V, B, H, W, 3]
        teacher, center = (jax.lax.stop_gradient(params[name]) for name in ("teacher", "center"))

        def said(weights: PyTree, views: Array) -> Array:
            flat = network.apply({"params": weights}, views.reshape(-1, *views.shape[2:]))
            return flat.reshape(*views.shape[:2], -1)

        targets = said(teacher, views[:2])
        value, entropy = distillation(
            said(params["student"], views), targets, center["mean"], student_temperature, teacher_temperature
        )
        return value, {"entropy": entropy, "state": targets.mean((0, 1))}

    def after(before: PyTree, params: PyTree, state: Array, part: Array) -> PyTree:
        m = 1 - (1 - momentum) * (jnp.cos(jnp.pi * part) + 1) / 2
        teacher = jax.tree.map(lambda a, b: m * a + (1 - m) * b, before["teacher"], params["student"])
        mean = center_momentum * before["center"]["mean"] + (1 - center_momentum) * state
        return {"student": params["student"], "teacher": teacher, "center": {"mean": mean}}

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = picture(fields, image_size)
        ranges = [LARGE, LARGE, *[SMALL] * small_views]
        return {"views": np.stack([view(image, part, jitter, rng) for part in ranges])}

    return Learner(network, init, loss, example, after, learning_rate=learning_rate)


def view(
    image: np.ndarray, parts: tuple[float, float], jitter: float, rng: np.random.Generator
) -> np.ndarray:
    """A square of image [S, S, 3] uint8 whose area is a part of its in the range `parts`, at the size of all of it,
    maybe mirrored, and a little brighter or darker, flatter or steeper."""
    size = image.shape[0]
    side = size * rng.uniform(*parts) ** 0.5
    left, top = rng.uniform(0, size - side, 2)
    cut = transforms.resize(image, size, size, "bilinear", (left, top, left + side, top + side))
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    brighter, steeper = 1 + rng.uniform(-jitter, jitter, 2)
    changed = (cut.astype(np.float32) - 128) * steeper * brighter + 128 * brighter
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def distillation(
    student: Array, teacher: Array, center: Array, student_temperature: float, teacher_temperature: float
) -> tuple[Array, Array]:
    """The cross-entropy of the teacher's and the student's distributions, the mean over the pairs of different views.

    student: [V, B, K], of all views; teacher: [T, B, K], of the first T. Returns it and the teacher's mean entropy.
    """
    p = jax.nn.softmax((teacher - center) / teacher_temperature)
    log_q = jax.nn.log_softmax(student / student_temperature)
    crossed = -jnp.einsum("tbk,vbk->tvb", p, log_q).mean(-1)
    different = ~jnp.eye(len(teacher), len(student), dtype=bool)
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-30))).sum(-1).mean()
    return (crossed * different).sum() / different.sum(), entropy


def features(network: Dino, params: PyTree, images: Array) -> Array:
    """images [B, H, W, 3] uint8 -> [B, width] of the teacher."""
    said = network.apply({"params": params["teacher"]}, pixels(images), method=network.features)
    return unit(said)
