"""Pictures of a thing beside pictures of its class: in turns, each with its caption and its weight."""

import numpy as np

from ldm_jax import grid
from ldm_jax.data import pipeline, prior, templates
from ldm_jax.data.shapes import source as shapes


def test_every_second_example_is_of_the_class():
    thing, kind = shapes("train", num_scenes=2), shapes("test", num_scenes=5)
    both = prior.WithPrior(templates.Captioned(thing, ["a zork circle"]), kind, "a circle", 0.5)
    assert len(both) == 10
    for i in range(10):
        example, caption = both[i], both.caption(i, np.random.default_rng(0))
        whole, at, said, weight = [(thing, i // 2 % 2, "a zork circle", 1), (kind, i // 2, "a circle", 0.5)][
            i % 2
        ]
        np.testing.assert_array_equal(example["image"], whole[at]["image"])
        assert caption == said and example[prior.WEIGHT] == weight
    other = prior.WithPrior(thing, kind, "a circle", 0.25)
    assert both.fingerprint() != other.fingerprint()


def test_a_picture_of_the_class_is_called_what_its_own_caption_says(tmp_path):
    pictures = shapes("test", num_scenes=3)
    for i, caption in enumerate(("a red circle", None, "a blue square")):
        grid.write_png(tmp_path / f"{i}.png", pictures[i]["image"])
        if caption:
            (tmp_path / f"{i}.txt").write_text(caption)
    kind = pipeline.open_source("folder", "train", root=str(tmp_path), split_folders=False)
    both = prior.WithPrior(shapes("train", num_scenes=1), kind, "a circle", 1.0)
    called = ["a red circle", "a circle", "a blue square"]
    assert [both.caption(2 * i + 1, np.random.default_rng(0)) for i in range(3)] == called
    assert [both[2 * i + 1]["caption"] for i in range(3)] == called
