"""Layouts as tokens: by hand, there and back, what no layout is, and what is refused."""

import logging

import jax
import numpy as np
import pytest

from ldm_jax.conditioning import layout, text
from tests.conditioning.examples import setting

PUBLISHED = layout.Conditioner(width=512, num_layers=16)
NONE = 8191
SMALL = {"vocab_size": 1024, "max_length": 11, "num_classes": 24}


def test_no_layout_is_no_object_in_the_whole_image():
    """Thirty times (none, none, none), then the first and the last point of the 90 x 90 grid."""
    tokens = layout.null_inputs(2, setting(PUBLISHED))["layouts"]
    np.testing.assert_array_equal(tokens, [[8191] * 90 + [0, 8099]] * 2)


def test_tokens_by_hand():
    """89 steps a side: 0.25 -> 22.25 -> 22, 0.5 -> 44.5 -> 44 (even), 0.75 -> 66.75 -> 67; a point is row * 90 +
    column."""
    given = {
        "boxes": [[0, 0, 1, 1], [0.25, 0.5, 0.25, 0.25]],
        "labels": [5, 351],
        "group": [False, True],
        "inside": [False, True],
        "crop": [0.5, 0, 0.5, 0.5],
    }
    tokens = layout.tokens(given)
    assert tokens.dtype == np.int32 and tokens.shape == (92,)
    objects = [5, 0, 89 * 90 + 89, 351 + 352 * 9, 44 * 90 + 22, 67 * 90 + 44]
    assert tokens.tolist() == [*objects, *[NONE] * 84, 44, 44 * 90 + 89]


def test_halves_go_to_the_even_point():
    """Four steps a side: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4."""
    given = {"boxes": [[0.125, 0.375, 0.5, 0.5]], "labels": [0]}
    tokens = layout.tokens(given, vocab_size=27, max_length=5, num_classes=1)
    assert tokens.tolist() == [0, 2 * 5 + 0, 4 * 5 + 2, 0, 24]


@pytest.mark.parametrize(("flag", "bit"), [("group", 1), ("occluded", 2), ("depiction", 4), ("inside", 8)])
def test_each_flag_is_a_bit(flag, bit):
    given = {"boxes": [[0, 0, 1, 1]] * 2, "labels": [7, 7], flag: [True, False]}
    assert layout.tokens(given)[[0, 3]].tolist() == [7 + 352 * bit, 7]


def test_a_small_vocabulary():
    """1024 is 32 squared: 31 x 31 points, so that the last, 960, is not the token for none."""
    tokens = layout.tokens({"boxes": [[0, 0, 0.5, 1]], "labels": [23]}, **SMALL)
    assert tokens.tolist() == [23, 0, 30 * 31 + 15, *[1023] * 6, 0, 960]
    assert layout.tokens({"boxes": [[0, 0, 1, 1]], "labels": [0]}).max() == NONE


def test_a_hair_over_the_edge_is_cut_off():
    given = {"boxes": [[-1e-6, 0, 1 + 2e-6, np.float32(0.9) + np.float32(0.1)]], "labels": [0]}
    assert layout.tokens(given)[:3].tolist() == [0, 0, 8099]


@pytest.mark.parametrize("sizes", [{}, SMALL])
def test_there_and_back_within_half_a_cell(sizes):
    rng = np.random.default_rng(0)
    for count in (1, 2, 3):
        corners = np.sort(rng.uniform(size=(count + 1, 2, 2)), axis=1)
        boxes = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], 1)
        given = {"boxes": boxes[1:].tolist(), "labels": rng.integers(24, size=count).tolist()}
        given |= {flag: (rng.random(count) < 0.5).tolist() for flag in layout.FLAGS}
        given["crop"] = boxes[0].tolist()
        back = layout.objects(layout.tokens(given, **sizes), **sizes)
        assert {k: back[k] for k in ("labels", *layout.FLAGS)} == {
            k: given[k] for k in ("labels", *layout.FLAGS)
        }
        cell = 1 / (layout.grid(sizes.get("vocab_size", 8192)) - 1)
        for seen, said in ((back["boxes"], given["boxes"]), ([back["crop"]], [given["crop"]])):
            seen, said = np.asarray(seen), np.asarray(said)
            np.testing.assert_allclose(seen[:, :2], said[:, :2], rtol=0, atol=cell / 2 + 1e-9)
            np.testing.assert_allclose(
                (seen[:, :2] + seen[:, 2:]), (said[:, :2] + said[:, 2:]), rtol=0, atol=cell / 2 + 1e-9
            )


def test_objects_on_points_come_back_exactly():
    tokens = layout.tokens(
        {"boxes": [[0.25, 0.5, 0.5, 0.25]], "labels": [0]}, vocab_size=27, max_length=5, num_classes=1
    )
    back = layout.objects(tokens, vocab_size=27, max_length=5, num_classes=1)
    assert back["boxes"] == [[0.25, 0.5, 0.5, 0.25]] and back["crop"] == [0, 0, 1, 1]


def test_the_first_thirty_stay_and_the_others_are_named(caplog):
    boxes = [[i / 40, 0.1, 0.1, 0.2] for i in range(32)]
    given = {"boxes": boxes, "labels": list(range(100, 132))}
    with caplog.at_level(logging.WARNING):
        tokens = layout.tokens(given)
    assert tokens.tolist() == layout.tokens({"boxes": boxes[:30], "labels": given["labels"][:30]}).tolist()
    assert caplog.messages == ["layout: 32 objects, room for 30; left out: 30 (label 130), 31 (label 131)"]
    assert NONE not in tokens


ONE = {"boxes": [[0, 0, 1, 1]], "labels": [0]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ONE | {"boxes": [[0.5, 0, 0.6, 1]]},
            r"box 0 is \[0.5, 0, 0.6, 1\], expected \[x0, y0, w, h\] inside",
        ),
        (ONE | {"boxes": [[0, 0, 0, 1]]}, "box 0"),
        (ONE | {"boxes": [[0, float("nan"), 1, 1]]}, "box 0"),
        (ONE | {"boxes": [[0, 0, 1]]}, "box 0"),
        (ONE | {"labels": [352]}, "label of object 0 is 352, expected an integer from 0 to 351"),
        (ONE | {"labels": [-1]}, "label of object 0 is -1"),
        (ONE | {"labels": ["cat"]}, "label of object 0 is 'cat'"),
        (ONE | {"labels": [0, 1]}, "1 boxes and 2 labels"),
        (ONE | {"labels": 3}, "labels is 3, expected a list"),
        (ONE | {"labels": None}, "labels is None, expected a list"),
        (ONE | {"boxes": None}, "boxes is None, expected a list"),
        (ONE | {"boxes": [[10**400, 0, 1, 1]]}, "box 0"),
        (
            {"boxes": [[0, 0, 1, 1]] * 2, "labels": [0, 0], "group": [[True], [True, False]]},
            "layout: group is",
        ),
        ({"boxes": [], "labels": []}, "0 boxes and 0 labels, expected .* at least one"),
        (ONE | {"group": [True, False]}, r"group is \[True, False\], expected 1 times"),
        (ONE | {"crop": [0, 0, 2, 1]}, r"crop is \[0, 0, 2, 1\]"),
        (ONE | {"bboxes": []}, "got 'boxes', 'labels', 'bboxes', expected"),
        ({"boxes": [[0, 0, 1, 1]]}, "got 'boxes', expected boxes and labels"),
    ],
)
def test_what_is_no_layout(given, message):
    with pytest.raises(ValueError, match=message):
        layout.inputs({"layouts": [given]}, setting(PUBLISHED))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0] * 91, r"shape \(1, 91\)"),
        ([8192] + [0] * 91, "token 8192"),
        ([0.5] + [0] * 91, "token 0.5, expected int"),
    ],
)
def test_what_are_no_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        layout.inputs({"layouts": [tokens]}, setting(PUBLISHED))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([5632, 0, 8099], "token 5632 in the place of a class, expected 0 to 5631"),
        ([0, 0, 8100], "token 8100 in the place of a point, expected 0 to 8099"),
    ],
)
def test_tokens_that_no_layout_has(tokens, message):
    with pytest.raises(ValueError, match=message):
        layout.objects([*tokens, *[NONE] * 87, 0, 8099])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"max_length": 91}, "max_length is 91, expected three tokens for each object and two"),
        ({"max_length": 2}, "max_length is 2"),
        ({"num_classes": 512}, "num_classes is 512, expected .* vocab_size, which is 8192"),
        ({"num_classes": 0}, "num_classes is 0"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    """512 classes need 8192 tokens, which leaves none for none; 511 fit."""
    layout.tokens(ONE, num_classes=511)
    with pytest.raises(ValueError, match=message):
        layout.tokens(ONE, **sizes)
    with pytest.raises(ValueError, match=message):
        layout.null_inputs(1, setting(PUBLISHED.clone(**sizes)))


def test_layouts_and_tokens_may_stand_side_by_side():
    tokens = layout.tokens(ONE)
    both = layout.inputs({"layouts": [ONE, tokens]}, setting(PUBLISHED))["layouts"]
    assert both.dtype == np.int32 and both.tolist() == [tokens.tolist()] * 2
    with pytest.raises(ValueError, match="single layout"):
        layout.inputs({"layouts": ONE}, setting(PUBLISHED))


def test_it_is_the_transformer_of_text():
    sizes = {"vocab_size": 40, "width": 8, "num_layers": 1, "max_length": 5, "num_heads": 2, "head_dim": 4}
    ours, other = layout.Conditioner(num_classes=2, **sizes), text.Conditioner(**sizes)
    tokens = np.int32([[1, 2, 39, 0, 35]])
    params = other.init(jax.random.key(0), {"tokens": tokens})
    expected = other.apply(params, {"tokens": tokens}).context
    np.testing.assert_array_equal(ours.apply(params, {"layouts": tokens}).context, expected)
    assert jax.tree.structure(ours.init(jax.random.key(0), {"layouts": tokens})) == jax.tree.structure(params)
