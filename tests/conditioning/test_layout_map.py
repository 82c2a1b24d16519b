"""Layouts as maps: what a box covers, to fractions of a cell, and what is refused."""

import logging

import jax
import numpy as np
import pytest

from ldm_jax.conditioning import layout_map
from tests.conditioning.examples import FACTOR, setting

SETTING = setting(
    layout_map.Conditioner(num_classes=3, number=2, out_channels=4), image_shape=(4 * FACTOR, 8 * FACTOR)
)


def told(*boxes, labels=None, **more) -> dict:
    labels = [0] * len(boxes) if labels is None else labels
    return layout_map.inputs({"layouts": [dict(boxes=boxes, labels=labels, **more)]}, SETTING)


def test_cells_hold_the_share_of_them_that_the_box_covers():
    found = told([0.0625, 0.25, 0.25, 0.5], labels=[2])
    cover = found["layout_cover"][0, 0]
    np.testing.assert_allclose(cover[1:3, :3], [[0.5, 1, 0.5]] * 2)
    assert cover.sum() * (1 / 32) == pytest.approx(0.25 * 0.5)  # the area, in the picture's
    assert not found["layout_cover"][0, 1].any() and found["layout_labels"].tolist() == [[2, 0]]


def test_of_a_crop_what_lies_in_it_is_seen():
    cropped = told([0.25, 0.25, 0.5, 0.5], crop=[0.5, 0.0, 0.5, 1.0])
    whole = told([0.0, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(cropped["layout_cover"], whole["layout_cover"], atol=1e-7)


def test_the_map_is_the_sum_of_what_lies_in_the_boxes():
    found = told([0, 0, 1, 1], [0.5, 0, 0.5, 1], labels=[0, 2])
    params = SETTING.conditioner.init(jax.random.key(0), found)["params"]
    looks = np.asarray(params["looks"]["embedding"])
    concat = np.asarray(SETTING.conditioner.apply({"params": params}, found).concat)[0]
    np.testing.assert_allclose(concat[:, :4], np.broadcast_to(looks[0], (4, 4, 4)), rtol=1e-5)
    np.testing.assert_allclose(concat[:, 4:], np.broadcast_to(looks[0] + looks[2], (4, 4, 4)), rtol=1e-5)
    nothing = layout_map.null_inputs(1, SETTING)
    assert not np.asarray(SETTING.conditioner.apply({"params": params}, nothing).concat).any()


def test_objects_without_room_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        found = told(*[[0, 0, 1, 1]] * 3, labels=[0, 1, 2])
    assert found["layout_labels"].tolist() == [[0, 1]] and "room for 2; left out: 2 (label 2)" in caplog.text


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ({"boxes": [[0, 0, 1, 1]], "labels": [0]}, "layouts is a single layout, expected a list"),
        ([[1, 2, 3]], "layout: got .* expected a dict of boxes and labels"),
        (
            [{"boxes": [[0, 0, 1, 1]], "labels": [3]}],
            "label of object 0 is 3, expected an integer from 0 to 2",
        ),
        ([{"boxes": [[0.5, 0, 1, 1]], "labels": [0]}], "box 0 is .*, expected .* inside the picture"),
    ],
)
def test_what_is_no_layout_is_refused(layouts, message):
    with pytest.raises(ValueError, match=message):
        layout_map.inputs({"layouts": layouts}, SETTING)
