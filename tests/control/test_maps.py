"""Cross-attention maps as they are read, and as one."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Control, Site, chain
from ldm_jax.control.maps import CrossMaps, finest, most_rows, resize, word_mask

SHAPE = (1, 8, 4, 2)  # latents of 8 x 4 cells


def taps():
    rng = np.random.default_rng(0)
    return {
        "down_0.attn_0/cross": rng.random((2, 32, 3)),
        "up_1.attn_0/cross": rng.random((2, 32, 3)),
        "mid.attn/cross": rng.random((2, 8, 3)),
        "mid.attn/self": rng.random((2, 8, 8)),
        "guidance/cond": rng.random((1, 8, 4, 2)),
    }


def test_the_sites_with_the_most_cells_count():
    read = taps()
    found = finest(read, SHAPE)
    mean = (read["down_0.attn_0/cross"] + read["up_1.attn_0/cross"]) / 2
    np.testing.assert_allclose(found, mean.reshape(2, 8, 4, 3))
    assert resize(jnp.asarray(found), (1, 16, 8, 2)).shape == (2, 16, 8, 3)


def test_a_network_without_cross_attention_is_said():
    with pytest.raises(ValueError, match="no cross-attention of at most 16 rows"):
        finest({}, SHAPE)


def test_which_sites_are_read():
    """At most 16 rows, or a quarter of those of large latents: 16 of 64, 24 of 96, 32 of 128."""
    assert [most_rows(height) for height in (16, 64, 96, 128)] == [16, 16, 24, 32]
    site = Site("mid.attn", "mid", "cross", 16, 0)
    control = CrossMaps(16)
    assert control.touches(site) and not control.touches(site._replace(resolution=32))
    assert not control.touches(site._replace(kind="self"))
    np.testing.assert_allclose(control.record(site, jnp.ones((1, 2, 4, 3))), np.ones((1, 4, 3)))


def test_only_controls_that_see_probabilities_need_them():
    class Swap(Control):
        def qkv(self, site, q, k, v):
            return q, k[::-1], v[::-1]

    site = Site("mid.attn", "mid", "cross", 16, 0)
    swap, read = Swap(), CrossMaps(16)
    assert not swap.needs_probs(site) and not Control().needs_probs(site) and read.needs_probs(site)
    assert chain([swap, read]).needs_probs(site) and not chain([swap, Control()]).needs_probs(site)
    elsewhere = site._replace(kind="self")  # which the second does not touch
    assert not chain([swap, read]).needs_probs(elsewhere)


def test_a_mask_is_where_its_words_are_looked_at():
    read = np.zeros((1, 4, 4, 3), np.float32)
    read[0, 1, 2, 1], read[0, 3, 3, 1] = 1.0, 0.05
    words = np.float32([[[0, 1, 0], [0, 0, 0]]])
    found = np.asarray(word_mask(jnp.asarray(read), jnp.asarray(words), (1, 8, 8, 4), 0.1))
    assert found.shape == (1, 8, 8) and found[0, 2:4, 4:6].all() and found.sum() == 4
