"""Image-to-image, filling in, other sizes and tiles, as a user asks for them."""

import numpy as np
import pytest

from ldm_jax import grid
from ldm_jax.inference import pipeline
from ldm_jax.models import unet
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

WIDE = (16, 24)
PICTURES = np.random.default_rng(5).integers(0, 256, (2, *WIDE, 3)).astype(np.uint8)
HOLE = np.zeros(WIDE)
HOLE[2:14, 10:20] = 1
QUICK = dict(num_steps=4, guidance_scale=1.0)


def small_model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5)


@pytest.fixture(scope="module")
def model():
    return small_model()


def reconstruction(model, picture):
    return grid.to_uint8(model.decode(model.encode(picture[None].astype(np.float32) / 127.5 - 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_pictures_of_whole_numbers_are_no_images_to_encode(model, dtype):
    with pytest.raises(ValueError, match=rf"images are {np.dtype(dtype)}, expected floats in \[-1, 1\]"):
        model.encode(PICTURES[:1].astype(dtype))


def test_strength_leads_from_the_reconstruction_to_plain_sampling(model):
    """At a size of the picture's own, not square and larger than what the model was trained at."""
    plain = model.sample(["a red circle"], [3], image_shape=WIDE, **QUICK)
    drawn = {
        s: model.sample(["a red circle"], [3], init_images=PICTURES[:1], strength=s, **QUICK)
        for s in (0, 0.1, 0.26, 0.5, 0.75, 1.0)
    }
    np.testing.assert_array_equal(drawn[1.0], plain)  # the same program
    np.testing.assert_array_equal(drawn[0], reconstruction(model, PICTURES[0]))
    np.testing.assert_array_equal(drawn[0.1], drawn[0])  # none of four steps
    assert all((drawn[a] != drawn[b]).any() for a, b in [(0, 0.26), (0.26, 0.5), (0.5, 0.75), (0.75, 1.0)])
    before = model.num_compiled
    model.sample(["a red circle"], [3], init_images=PICTURES[:1], strength=0.4, **QUICK)
    assert model.num_compiled == before  # one program for every strength


def test_image_i_depends_on_its_seed_and_picture_alone_when_it_starts_from_one(model):
    options = dict(strength=0.5, eta=1.0, **QUICK)
    together = model.sample(["a red circle"], [3, 4], init_images=PICTURES, **options)
    swapped = model.sample(["a red circle"], [4, 3], init_images=PICTURES[::-1], **options)
    assert np.abs(together.astype(int) - swapped[::-1]).max() <= 1  # places in a batch may round differently
    alone = model.sample(["a red circle"], [4], init_images=[PICTURES[1]], **options)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    one_for_both = model.sample(["a red circle"], [3, 4], init_images=PICTURES[:1], **options)
    np.testing.assert_array_equal(one_for_both[0], together[0])
    assert (one_for_both[1] != together[1]).any()


def test_what_is_known_stays_byte_for_byte_and_the_hole_is_drawn(model):
    def fill(pictures, seed=3, strength=1.0):
        return model.sample(
            ["a red circle"], [seed], init_images=pictures, fill_masks=[HOLE], strength=strength, **QUICK
        )[0]

    drawn, known = fill(PICTURES[:1]), HOLE == 0
    np.testing.assert_array_equal(drawn[known], PICTURES[0][known])
    assert (fill(PICTURES[:1], seed=4)[~known] != drawn[~known]).any()
    plain = model.sample(["a red circle"], [3], image_shape=WIDE, **QUICK)[0]
    assert (plain[~known] != drawn[~known]).any()  # the known part is seen while the hole is filled
    other = np.where(HOLE[..., None] > 0, PICTURES[1], PICTURES[0])[None]
    np.testing.assert_array_equal(fill(other), drawn)  # what lay in the hole does not count
    part = fill(PICTURES[:1], strength=0.5)
    np.testing.assert_array_equal(part[known], PICTURES[0][known])
    np.testing.assert_array_equal(
        fill(PICTURES[:1], strength=0)[~known], reconstruction(model, PICTURES[0])[0][~known]
    )


@pytest.mark.slow
def test_large_pictures_in_tiles(monkeypatch):
    """The network, the encoder and the decoder see tiles alone; a tile that holds the picture is no tile."""
    model, seen, plain = small_model(), set(), unet.apply_unet

    def noted(module, params, x, *args, **kwargs):
        seen.add(x.shape[1:3])
        return plain(module, params, x, *args, **kwargs)

    model.apply = noted
    options = dict(init_images=PICTURES[:1], strength=0.5, **QUICK)
    whole = model.sample(["a circle"], [0], **options)
    assert seen == {(4, 6)}
    number = model.num_compiled
    np.testing.assert_array_equal(model.sample(["a circle"], [0], tile=24, **options), whole)
    assert model.num_compiled == number
    seen.clear()
    for name in ("_encode", "_decode"):
        monkeypatch.setattr(model, name, None)  # what encodes and decodes whole pictures
    tiled = model.sample(["a circle"], [0], tile=16, **options)
    assert seen == {(4, 4)}
    assert tiled.shape == whole.shape and (tiled != whole).any()
    assert np.abs(tiled.astype(float) - whole).mean() < np.abs(whole[:, ::-1].astype(float) - whole).mean()


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(image_shape=(16, 18)), "image_shape: got 16 x 18 .*multiples of 4.*nearest is 16 x 20"),
        (dict(image_shape=(2, 16)), "at least 4 x 4: the nearest is 4 x 16"),
        (dict(strength=0.5), "strength: got 0.5 without init_images"),
        (dict(fill_masks=[HOLE]), "fill_masks: got masks without init_images"),
        (dict(init_images=PICTURES[:1], strength=-0.1), "strength: got -0.1"),
        (dict(init_images=PICTURES[:1], image_shape=(16, 16)), r"init_images: got shape \(16, 24, 3\), "
            r"expected \(16, 16, 3\)"),
        (dict(init_images=PICTURES, seeds=[0, 1, 2]), "init_images: got 2 for 3 seeds"),
        (dict(init_images=PICTURES[:1], fill_masks=[HOLE] * 3), "fill_masks: got 3 for 1 seeds"),
        (dict(init_images=PICTURES[:1], fill_masks=[HOLE.T]), r"mask of shape \(24, 16\), expected \(16, 24\)"),
        (dict(init_images=PICTURES[:1], fill_masks=[HOLE * 0]), "all known"),
        (dict(tile=10), "tile: got 10 pixels, expected a multiple of 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_from_or_kept_is_said(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.sample(**dict(prompts=["a circle"], seeds=[0]) | options)
