"""Phrases of prompts, and how they are joined."""

import pytest

from ldm_jax.conditioning.phrases import clauses
from ldm_jax.shapes_world import scenes as world


@pytest.mark.parametrize(
    "prompt, said",
    [
        ("a red circle", [("a red circle", "")]),
        ("a red circle left of a blue square", [("a red circle", ""), ("a blue square", "left of")]),
        ("two cats, a dog, and a bird", [("two cats", ""), ("a dog", ","), ("a bird", "and")]),
        ("A photo of a cat to the left of the dog on a mat.",
         [("A photo of a cat", ""), ("the dog", "to the left of"), ("a mat", "on")]),
        ("an island", [("an island", "")]),
        ("", []),
        (" , and", []),
    ],
)  # fmt: skip
def test_phrases(prompt, said):
    found = clauses(prompt)
    assert [(clause.text, clause.join) for clause in found] == said
    assert all(prompt[clause.start : clause.end] == clause.text for clause in found)


def test_captions_of_the_shapes_world_are_read_back():
    """Every phrase of a caption that speaks of one object is found, with its words."""
    for index in range(60):
        caption, phrases = world.described(world.scene(index, "test"))
        found = clauses(caption)
        if len(phrases[0].objects) == 1:
            assert [" ".join(c.words) for c in found] == [caption[p.start : p.end] for p in phrases]
