"""Eye-for-an-eye: which cell corresponds to which, by hand."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control.base import Site
from ldm_jax.editing import appearance as shared
from ldm_jax.editing.eye_for_an_eye import Rearrange, nearest

B, ROWS, C = 2, 4, 8
N = ROWS**2
SITE = Site("up_0.attn_0", "up", "self", ROWS, 0)
RNG = np.random.default_rng(0)


def masks():
    """[B, 2, 4, 4]: the upper half of the source, the left half of the appearance."""
    found = np.zeros((B, 2, ROWS, ROWS), np.float32)
    found[:, 0, :2] = found[:, 1, :, :2] = 1
    return found


def control(whose, given=None):
    now = jnp.int32(whose)
    return Rearrange(16, now, now, ROWS, B, 3, jnp.asarray(masks() if given is None else given))


def hidden():
    """[2, 3, B, N, C]; the edited picture's cells are the appearance's in another order, and of another length."""
    apart = RNG.normal(size=(2, 3, B, N, C)).astype(np.float32)
    order = RNG.permutation(N)
    apart[:, 2] = 2.5 * apart[:, 1][:, :, order]
    return apart, order


def act(control, apart):
    return np.asarray(control.hidden(SITE, jnp.asarray(apart.reshape(-1, N, C)))).reshape(apart.shape)


def test_each_cell_takes_over_the_most_similar_one():
    apart, order = hidden()
    everywhere = np.ones_like(masks())
    out = act(control(shared.APPEARANCE, everywhere), apart)
    np.testing.assert_array_equal(out[:, :2], apart[:, :2])
    np.testing.assert_array_equal(out[:, 2], apart[:, 1][:, :, order])


def test_inside_of_the_masks_alone():
    apart, _ = hidden()
    out = act(control(shared.APPEARANCE), apart)
    mine, theirs = (one.ravel() > 0 for one in masks()[0])
    np.testing.assert_array_equal(out[:, 2][:, :, ~mine], apart[:, 2][:, :, ~mine])
    allowed = apart[0, 1, 0][theirs]
    for cell in out[0, 2, 0][mine]:
        assert (allowed == cell).all(1).any()


def test_steps_of_the_source_and_of_nobody():
    apart, _ = hidden()
    np.testing.assert_array_equal(act(control(shared.SOURCE), apart)[:, 2], apart[:, 0])
    np.testing.assert_array_equal(act(control(shared.NONE), apart), apart)


def test_what_is_the_same_corresponds_to_itself():
    h = jnp.asarray(RNG.normal(size=(1, B, N, C)), jnp.float32)
    np.testing.assert_array_equal(nearest(h, h, jnp.ones((B, N))), h)
    np.testing.assert_array_equal(nearest(h, h, jnp.zeros((B, N))), h)  # no mask is none
    assert control(0).touches(SITE) and not control(0).needs_probs(SITE)
