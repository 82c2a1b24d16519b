"""One picture of several things: every subset of them, what is said of it, and which files it takes."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import pipeline, prior, scene
from ldm_jax.shapes_world import new_things

WORDS = ("<a>", "<b>", "<c>")


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "img.png")
    for i in range(3):
        mask = np.zeros((8, 12), np.uint8)
        mask[:, 2 + i : 4 + i] = 255
        Image.fromarray(mask).save(tmp_path / f"mask{i}.png")
    return tmp_path


def test_every_subset_and_its_masks(folder):
    source = pipeline.open_source(
        "scene", "train", root=folder, words=WORDS, template="a photo of {} here", side=8
    )
    assert len(source) == 7 and source[0]["image"].shape == (8, 8, 3)
    assert (
        source[0]["caption"] == "a photo of <a> here"
        and source[6]["caption"] == "a photo of <a> and <b> and <c> here"
    )
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        caption, phrases = source.described(4, rng)
        seen.add(caption)
        assert sorted(caption[a:b] for a, b, _ in phrases) == ["", "<a>", "<c>"]
        for a, b, mask in phrases:
            # of the middle eight of twelve; '' is what the caption does not name
            columns = {"<a>": [0, 1], "<c>": [2, 3], "": [1, 2]}[caption[a:b]]
            np.testing.assert_array_equal(mask, np.isin(np.arange(8), columns)[None].repeat(8, 0))
    assert seen == {"a photo of <a> and <c> here", "a photo of <c> and <a> here"}
    beside = prior.WithPrior(source, [{"image": source[0]["image"]}], "a photo", 0.5)
    assert beside.described(1, rng) == ("a photo", []) and len(beside.described(2 * 6, rng)[1]) == 3


def test_what_is_no_scene(folder):
    def opened(**changes):
        return scene.source("train", **(dict(root=folder, words=WORDS, side=8) | changes))

    with pytest.raises(ValueError, match="mask2.png has no word; there are 2: <a>, <b>"):
        opened(words=WORDS[:2])
    with pytest.raises(FileNotFoundError, match=r"no picture mask3.\* in"):
        opened(words=(*WORDS, "<d>"))
    with pytest.raises(ValueError, match="expected different words and one {}"):
        opened(words=("<a>", "<a>", "<c>"))
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(folder / "mask1.png")
    with pytest.raises(ValueError, match="mask1 of .* covers nothing, expected the place of '<b>'"):
        opened()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "mask1.png")
    with pytest.raises(ValueError, match=r"mask1 of .* is \(4, 4\), expected \(8, 12\)"):
        opened()


def test_new_things_stand_apart_in_one_picture():
    asked = [new_things.asked(thing, 0) for thing in ("ring", "two_color")]
    image, masks = new_things.scene(asked, np.random.default_rng(0))
    assert not ((masks[0] > 0) & (masks[1] > 0)).any()
    for what, other in zip(asked, masks[::-1], strict=True):
        alone = np.where(other[..., None] > 0, image[0, 0], image)
        assert new_things.shows(alone, what)
    with pytest.raises(ValueError, match="shapes_scene: got 1 words for the things ring, two_color"):
        pipeline.open_source("shapes_scene", "train", words=["<a>"])


def test_a_margin_widens_the_masks():
    """Outside of them config.loss.masked asks for nothing, so that a thing's edge is learned by the margin alone."""

    def masks(margin):
        scene = pipeline.open_source("shapes_scene", "train", words=["<a>", "<b>"], margin=margin)
        return [mask for _, _, mask in scene.described(2, np.random.default_rng(0))[1]]

    for tight, wide in zip(masks(0), masks(3), strict=True):
        tight, wide = (np.argwhere(mask > 0.5) for mask in (tight, wide))
        assert abs((wide.min(0) - tight.min(0)) + 3).max() <= 1  # an edge may be cut off by the picture's
        assert abs((wide.max(0) - tight.max(0)) - 3).max() <= 1
