"""What an example must have for a model to be trained on it, and what becomes of it."""

import numpy as np
import pytest

from ldm_jax.system import make_system
from ldm_jax.training.examples import check_example, conditions_of, needed_beside_moments
from ldm_jax.training.latents import MomentsSource
from tests.inference.test_pipeline import CONFIG
from tests.test_system import HYBRID

IMAGE = np.zeros((16, 16, 3), np.uint8)
MASK = dict(mask=dict(name="mask"))


def crop(image, rng):
    return image.astype(np.float32) / 127.5 - 1


class Captioned(list):
    """A source with random captions."""

    def caption(self, index, rng=None):
        return "a" if rng is None else f"a {int(rng.integers(100))}"


def of(conditioning, **data):
    config = dict(CONFIG, data=data, conditioning=conditioning)
    model = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}
    return config, make_system(dict(config, model=model))


def test_what_is_derived_and_what_is_random_reaches_the_conditioning():
    config = dict(HYBRID, data=dict(derive=MASK))
    source = Captioned([dict(image=IMAGE)])
    check_example(config, make_system(config), source)
    conditions = conditions_of(config, make_system(config), source, crop)
    drawn = [conditions({"index": 0, **source[0]}, np.random.default_rng(i)) for i in range(3)]
    shown, given = drawn[0]
    assert set(given) == {"prompts", "images", "masks"} and given["images"] is shown["image"]
    assert len({g["prompts"] for _, g in drawn}) > 1 and given["masks"].shape == (16, 16)

    config, system = of(dict(name="upscale"), derive=dict(low_res=dict(name="low_res")))
    conditions = conditions_of(config, system, source, crop)
    seeds = {conditions(source[0], np.random.default_rng(i))[1]["seeds"] for i in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("conditioning", "data", "example", "said"),
    [
        (dict(name="class_label", num_classes=3, width=8), {}, {}, "needs a class_label for each image"),
        (dict(name="superres"), {}, {}, "'superres' needs a low_res"),
        (
            dict(name="superres"),
            dict(precompute_latents=True, flip=0.5, derive=dict(low_res=dict(name="low_res"))),
            {},
            "'superres' needs low_res of the image that the latents are of, and the recipe or flip cuts it anew",
        ),
        (
            dict(name="semantic", num_classes=3),
            dict(recipe="imagenet"),
            dict(semantic_mask=np.zeros((16, 16), int)),
            "data.recipe cuts images and not their semantic_mask",
        ),
        (
            dict(name="semantic", num_classes=3),
            dict(flip=0.5),
            dict(semantic_mask=np.zeros((16, 16), int)),
            "take recipe 'none' and no flip",
        ),
    ],
)
def test_what_data_lack(conditioning, data, example, said):
    config, system = of(conditioning, **data)
    with pytest.raises(ValueError, match=said):
        check_example(config, system, [dict(image=IMAGE) | example])


class Read(list):
    """A source that counts how often it is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("conditioning", "derive", "fields", "given"),
    [
        (dict(name="class_label", num_classes=3, width=8), {}, {"class_label"}, {"class_labels"}),
        (dict(name="superres"), dict(low_res=dict(name="low_res")), {"image"}, {"low_res_images"}),
        (dict(name="inpaint"), MASK, {"image"}, {"images", "masks"}),
    ],
)
def test_stored_latents_come_with_what_the_conditioning_needs(conditioning, derive, fields, given):
    config, system = of(conditioning, precompute_latents=True, derive=derive)
    source = Read([dict(image=IMAGE, class_label=1)])
    assert needed_beside_moments(config, system) >= fields
    stored = MomentsSource(source, np.ones((1, 4, 4, 2), np.float32), needed_beside_moments(config, system))
    assert set(stored[0]) == {"moments"} | fields
    shown, told = conditions_of(config, system, stored, crop)(
        {"index": 0, **stored[0]}, np.random.default_rng(0)
    )
    assert set(shown) == {"moments"} and set(told) == given


def test_a_source_of_captions_alone_is_not_read_where_latents_are_stored():
    class Said(Read):
        def caption(self, index, rng=None):
            return "a"

    source = Said([dict(image=IMAGE, caption="a")])
    stored = MomentsSource(source, np.ones((1, 4, 4, 2), np.float32), {"caption"})
    assert set(stored[0]) == {"moments"} and source.reads == 0
