"""Who says how large the pictures are, which sizes there are, and how tiles overlap."""

import numpy as np
import pytest

from ldm_jax.inference import sizes
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG

TWO_LEVELS = dict(
    CONFIG, model=CONFIG["model"] | dict(channel_mult=[1, 2])
)  # 4 of the first stage, 2 of the UNet
SEMANTIC = dict(TWO_LEVELS, conditioning=dict(name="semantic", num_classes=3))
SUPERRES = dict(TWO_LEVELS, conditioning=dict(name="superres"))


def test_the_caller_then_the_conditions_then_the_picture_then_the_training():
    text, semantic, superres = (make_system(config) for config in (TWO_LEVELS, SEMANTIC, SUPERRES))
    picture, labels = [np.zeros((8, 32, 3))], {"segmentations": [np.zeros((24, 40), int)]}
    assert sizes.choose_shape(text, {"prompts": ["a"]}, None, None) == (16, 16)
    assert sizes.choose_shape(text, {"prompts": ["a"]}, None, picture) == (8, 32)
    assert sizes.choose_shape(text, {"prompts": ["a"]}, (48, 8), picture) == (48, 8)
    assert sizes.choose_shape(semantic, labels, None, picture) == (24, 40)
    low_res = {"low_res_images": [np.zeros((6, 10, 3))]}
    assert sizes.choose_shape(superres, low_res, None, None) == (24, 40)
    assert text.latent_shape_of((24, 40)) == (6, 10, 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((20, 16), "got 20 x 16 .*expected multiples of 8, at least 8 x 8: the nearest is 24 x 16"),
        ((16, 19), "the nearest is 16 x 16"),
        ((0, 4), "the nearest is 8 x 8"),
        ((-8, 16), "the nearest is 8 x 16"),
        (16, r"got 16, expected \(height, width\)"),
        ((16.0, 16.0), r"expected \(height, width\)"),
    ],
)
def test_sizes_that_a_model_cannot_make(asked, message):
    with pytest.raises(ValueError, match="image_shape: .*" + message):
        sizes.choose_shape(make_system(TWO_LEVELS), {}, asked, None)


def test_sizes_that_are_asked_for_by_a_condition_or_a_picture():
    with pytest.raises(ValueError, match="the size that low_res_images ask for: got 20 x 40 .*24 x 40"):
        sizes.choose_shape(make_system(SUPERRES), {"low_res_images": [np.zeros((5, 10, 3))]}, None, None)
    with pytest.raises(ValueError, match="the size of init_images: got 15 x 16 .*16 x 16"):
        sizes.choose_shape(make_system(TWO_LEVELS), {}, None, [np.zeros((15, 16, 3))])


def test_tiles():
    system = make_system(TWO_LEVELS)
    assert sizes.tiling(system, None, (64, 64)) is None
    assert sizes.tiling(system, 64, (64, 64)) is None and sizes.tiling(system, 64, (32, 72)) == (16, 4)
    assert sizes.tiling(system, 16, (64, 64)) == (4, 2)  # of two units one
    assert sizes.tiling(system, 8, (64, 64)) == (2, 0)  # a tile of one unit has nothing to spare
    for tile, near in ((20, 16), (3, 8), (-16, 8)):
        with pytest.raises(ValueError, match=f"tile: got {tile} pixels, .*multiple of 8, such as {near}"):
            sizes.tiling(system, tile, (64, 64))
