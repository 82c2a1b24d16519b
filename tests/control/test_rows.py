"""The layout of the rows of a network call."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control import rows
from ldm_jax.types import Cond


def test_halves_and_branches():
    """[uncond | cond, branch, picture]: the number of row (h, b, i) is (h n + b) B + i."""
    n, b = 3, 2
    x = jnp.arange(n * b)
    doubled = rows.join_halves(x, 10 + x)
    for half, expected in zip(rows.split_halves(doubled), (x, 10 + x), strict=True):
        np.testing.assert_array_equal(half, expected)
    calls = rows.split_calls(doubled, True, n)
    assert calls.shape == (2, n, b) and calls[1, 2, 1] == 10 + 2 * b + 1
    assert rows.split_calls(x, False, n).shape == (1, n, b)
    np.testing.assert_array_equal(rows.join_branches(rows.split_branches(x, n)), x)
    assert rows.split_branches(x, n)[1, 0] == b


def test_conds_of_other_fields_cannot_be_joined():
    with pytest.raises(ValueError, match="expected the fields of cond"):
        rows.join_conds(Cond(context=jnp.ones((1, 2, 3))), Cond())
