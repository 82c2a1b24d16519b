"""The source `shapes_scene`: one picture of things that the shapes world does not have, each with a mask and a word."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ldm_jax.data.scene import SceneSource, check_split
from ldm_jax.shapes_world import new_things


def source(
    split: str,
    *,
    words: Sequence[str],
    things: Sequence[str] = ("ring", "two_color"),
    template: str = "{}",
    margin: int = 0,
    seed: int = 0,
) -> SceneSource:
    """things: of new_things.THINGS, one for each word. template: as of data/scene.py. seed: of where they stand.
    margin: by how many pixels a mask is wider than its thing. With config.loss.masked nothing says what lies outside of
    all masks, so that a thing ends where it does only by what a margin shows.

    split: 'train'; the picture is the same in each. Raises: ValueError for an unknown thing, or as many words as not.
    """
    check_split(split)
    if len(words) != len(things):
        raise ValueError(
            f"shapes_scene: got {len(words)} words for the things {', '.join(things)}, expected as many"
        )
    asked = [new_things.asked(thing, 0) for thing in things]
    image, masks = new_things.scene(asked, np.random.default_rng(seed))
    if margin:
        masks = np.stack([ndimage.binary_dilation(mask > 0.5, np.ones((3, 3)), margin) for mask in masks])
        masks = masks.astype(np.float32)
    return SceneSource(image, masks, words, template, f"shapes, seed {seed}")
