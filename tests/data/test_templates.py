"""Captions from templates: one place for the word, drawn evenly; the rest of the source is its own."""

import collections

import numpy as np
import pytest

from ldm_jax.data import pipeline, templates
from ldm_jax.data.shapes import source as shapes


@pytest.mark.parametrize("name, number", [("subject", 27), ("style", 17)])
def test_each_has_one_place_and_all_are_drawn(name, number):
    said = templates.captions(dict(name=name, word="<it>"))
    assert len(set(said)) == number and all(caption.count("<it>") == 1 for caption in said)
    source = templates.Captioned(shapes("train", num_scenes=4), said)
    drawn = collections.Counter(source.caption(0, np.random.default_rng(i)) for i in range(2000))
    assert len(drawn) == number and min(drawn.values()) > 2000 / number / 2


def test_the_rest_is_the_sources_own():
    bare = shapes("train", num_scenes=4)
    source = templates.Captioned(bare, templates.captions(dict(texts=["see {}"], word="a b")))
    can = pipeline.abilities(source)
    assert can.caption(2, np.random.default_rng(0)) == "see a b" and can.class_names == bare.class_names
    np.testing.assert_array_equal(source[3]["image"], bare[3]["image"])
    other = templates.Captioned(bare, ["see c"])
    assert len({source.fingerprint(), other.fingerprint(), bare.fingerprint()}) == 3 and len(source) == 4


@pytest.mark.parametrize(
    "section, said",
    [
        (
            dict(name="subject"),
            "data.templates is .*, expected a word and either a name of subject, style or texts",
        ),
        (dict(name="objects", word="x"), "expected a word and either a name"),
        (dict(texts=["no place"], word="x"), r"\['no place'\], expected texts with one {} for the word"),
    ],
)
def test_errors(section, said):
    with pytest.raises(ValueError, match=said):
        templates.captions(section)
