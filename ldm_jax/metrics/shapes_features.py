"""The shapes world's own measuring network: what it is taught, how pictures reach it, and what samples are compared
with.

'shapes-FID' is the Frechet distance in its pooled features between samples and rendered held-out scenes. The samples'
prompts and the scenes are drawn from one distribution: equal shares of the kinds of prompt (shapes_world/prompts.py).
It
knows no file: the weights that are shipped are read by ldm_jax/evaluation/networks.py.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.metrics.features import Extractor, params_hash
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.models.shapes_classifier import SIZE, ShapesClassifier
from ldm_jax.shapes_world import prompts
from ldm_jax.shapes_world import scenes as world
from ldm_jax.types import Array, PyTree

NAME = "classifier of the shapes world"
LABELS = (*world.SHAPES, *world.COLORS, *world.SIZES, *world.CLASS_NAMES, "one", "two", "three")


def labels(scene: world.Scene) -> np.ndarray:
    """[39] float32, 1 where it holds: a shape, color, size or pair of color and shape that is there; the number."""
    names = {part for o in scene.objects for part in (o.shape, o.color, o.size, f"{o.color} {o.shape}")}
    names.add(world.NUMBER_WORDS[len(scene.objects)])
    return np.asarray([name in names for name in LABELS], np.float32)


def shapes_extractor(params: PyTree) -> Extractor:
    """The classifier with the layers `pool` [B, 64] and `logits` [B, 39]; it takes pictures of 64 x 64 and resizes
    none."""

    def prepare(image: np.ndarray) -> np.ndarray:
        if image.shape != (SIZE, SIZE, 3):
            height, width = image.shape[:2]
            raise ValueError(f"the {NAME} measures pictures of {SIZE} x {SIZE}, got {height} x {width}")
        return image

    def apply(params: PyTree, batch: Array) -> dict[str, Array]:
        x = batch.astype(jnp.float32) / 127.5 - 1.0
        return ShapesClassifier(len(LABELS)).apply({"params": params}, x)._asdict()

    return Extractor(NAME, params_hash(params), "none", params, prepare, apply)


def reference_images(each: int) -> ArrayImages:
    """Rendered held-out scenes, `each` of every kind of prompt: what shapes-FID compares with."""
    scenes = [scene for kind in prompts.KINDS for scene, _ in prompts.scenes_and_prompts(kind, each)]
    return ArrayImages(np.stack([world.render(scene) for scene in scenes]))
