"""Pictures of a thing beside pictures of its class: in turns, each with its caption and its weight."""

import numpy as np

from ldm_jax.data import prior, templates
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
