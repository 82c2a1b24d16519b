"""Layouts as tokens: what no layout is, and what is refused."""

import numpy as np
import pytest

from ldm_jax.conditioning import layout
from tests.conditioning.examples import setting

PUBLISHED = layout.Conditioner(width=512, num_layers=16)


def test_no_layout_is_no_object_in_the_whole_image():
    """Thirty times (none, none, none), then the first and the last point of the 90 x 90 grid."""
    tokens = layout.null_inputs(2, setting(PUBLISHED))["layouts"]
    np.testing.assert_array_equal(tokens, [[8191] * 90 + [0, 8099]] * 2)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0] * 91, r"shape \(1, 91\)"),
        ([8192] + [0] * 91, "token 8192"),
        ([0.5] + [0] * 91, "token 0.5, expected int"),
    ],
)
def test_what_is_no_layout(tokens, message):
    with pytest.raises(ValueError, match=message):
        layout.inputs({"layouts": [tokens]}, setting(PUBLISHED))
