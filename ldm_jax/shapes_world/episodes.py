"""Questions by example on the shapes world: a shape marked in some scenes, to be found in another.

Decides which scenes belong together. Source of the protocol, classes held out of training: Shaban et al. 2017
(arXiv:1709.03410), section 3.
"""

from collections.abc import Sequence

import numpy as np

from ldm_jax.shapes_world import scenes as world


def pick(rng: np.random.Generator, shape: str, without: Sequence[str], split: str = "train") -> world.Scene:
    """A scene that shows `shape`, and none of `without`. Raises: ValueError for a shape that no scene can show."""
    if shape not in world.SHAPES or shape in without:
        can = ", ".join(name for name in world.SHAPES if name not in without)
        raise ValueError(f"shape {shape!r} is in no scene to draw from, expected one of {can}")
    while True:
        scene = world.scene(int(rng.integers(1 << 30)), split)
        shapes = {obj.shape for obj in scene.objects}
        if shape in shapes and not shapes & set(without):
            return scene


def mask_of(scene: world.Scene, shape: str) -> np.ndarray:
    """[64, 64] float32 in [0, 1]: the objects of a shape."""
    return world.objects_mask(scene, [i for i, obj in enumerate(scene.objects) if obj.shape == shape])


def draw(
    rng: np.random.Generator, number: int, shots: int, without: Sequence[str] = ()
) -> tuple[np.ndarray, ...]:
    """`number` episodes of scenes of the training split, all of one shape in each: pictures [number, shots, 64, 64, 3]
    uint8 and masks [number, shots, 64, 64] float32 of the examples, and picture and mask of the query."""
    shapes = [shape for shape in world.SHAPES if shape not in without]
    rows = []
    for _ in range(number):
        shape = world.one_of(rng, shapes)
        scenes = [pick(rng, shape, without) for _ in range(shots + 1)]
        images = np.stack([world.render(scene) for scene in scenes])
        masks = np.stack([mask_of(scene, shape) for scene in scenes])
        rows.append((images[:-1], masks[:-1], images[-1], masks[-1]))
    return tuple(np.stack(part) for part in zip(*rows, strict=True))
