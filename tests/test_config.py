"""Both spellings of a config's conditioning section mean the same, and a single kind's parameters are bare in both."""

import jax
import pytest

from ldm_jax.config import by_kind, conditioning_kinds, conditioning_section
from ldm_jax.system import make_system

MODEL = dict(
    image_size=16,
    first_stage=dict(name="identity"),
    model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, num_groups=4),
    schedule=dict(name="linear", num_timesteps=4),
)
CLASSES, MAP = dict(num_classes=3, width=8), dict(num_classes=4, num_stages=0, out_channels=2)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (None, {}),
        ({}, {}),
        (dict(name="depth"), {"depth": {}}),
        (dict(name="class_label", **CLASSES), {"class_label": CLASSES}),
        (dict(class_label=CLASSES), {"class_label": CLASSES}),
        (dict(clip=dict(width=8), depth=None), {"clip": dict(width=8), "depth": {}}),
    ],
)
def test_kinds_of_either_spelling(section, expected):
    assert conditioning_kinds(section) == expected
    assert list(conditioning_kinds(section)) == list(expected)  # the order is that of the channels they add
    assert conditioning_kinds(conditioning_section(expected)) == expected


def test_one_kind_is_named_and_several_are_listed():
    assert conditioning_section({}) is None
    assert conditioning_section({"depth": {}}) == dict(name="depth")
    assert conditioning_section({"clip": {}, "depth": {}}) == {"clip": {}, "depth": {}}


@pytest.mark.parametrize(
    "section",
    [
        dict(name="class_label", **CLASSES),
        dict(class_label=CLASSES),
        dict(class_label=CLASSES, semantic=MAP),
        dict(class_label=CLASSES, inpaint={}),
    ],
    ids=["named", "listed", "two", "two of which one has parameters"],
)
def test_each_kinds_parameters_are_where_the_model_has_them(section):
    context = dict(attention_levels=[0], num_heads=2, transformer_depth=1, context_dim=8)
    channels = 3 + 2 * ("semantic" in section) + 4 * ("inpaint" in section)
    config = MODEL | dict(conditioning=section, model=MODEL["model"] | context | dict(in_channels=channels))
    tree = jax.eval_shape(make_system(config).init, jax.random.key(0))["conditioner"]
    found = {kind: inner for kind, _, inner in by_kind(section, tree)}
    assert set(found) == set(conditioning_kinds(section))
    assert found["class_label"]["embedding"]["embedding"].shape == (
        4,
        8,
    )  # a row for no class beside the three
    for kind, path, inner in by_kind(section, tree):
        at = tree
        for name in path:
            at = at[name]
        assert at is inner, kind


def test_a_kind_that_a_file_keeps_nothing_of_has_no_parameters():
    assert by_kind(dict(clip={}, depth={}), {"clip": {"w": 1}}) == [
        ("clip", ("clip",), {"w": 1}),
        ("depth", ("depth",), {}),
    ]
