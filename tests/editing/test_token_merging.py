"""Token merging: which cells are merged, against a loop written out; what comes back; where nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.editing import token_merging
from ldm_jax.models.attention import attend_plainly
from ldm_jax.types import KEY_IMPL

KEY = jax.random.key(3, impl=KEY_IMPL)
SITE = Site("down_0.attn_0", "down", "self", 4, 0)


def by_hand(h, targets, ratio):
    """The groups of cells of one picture [N, C]: the sources that stay alone, then the destinations with what is merged
    into them."""
    unit = h / np.linalg.norm(h, axis=-1, keepdims=True)
    sources = [cell for cell in range(len(h)) if cell not in targets]
    best = {cell: max((unit[cell] @ unit[j], -n) for n, j in enumerate(targets)) for cell in sources}
    merged = sorted(sources, key=lambda cell: -best[cell][0])[: int(ratio * len(h))]
    into = {j: [j] for j in targets}
    for cell in merged:
        into[targets[-best[cell][1]]].append(cell)
    return {frozenset(group) for group in into.values()} | {
        frozenset([c]) for c in sources if c not in merged
    }


@pytest.mark.parametrize("height, width, ratio", [(4, 4, 0.5), (5, 7, 0.6), (4, 6, 0.75)])
def test_the_most_alike_are_merged(height, width, ratio):
    h = np.random.default_rng(0).normal(size=(2, height * width, 3)).astype(np.float32)
    targets = token_merging.destinations(KEY, height, height * width)
    place, number = token_merging.places(jnp.asarray(h), targets, ratio)
    expected = [by_hand(one, np.asarray(targets).tolist(), ratio) for one in h]
    for picture, groups in zip(np.asarray(place), expected, strict=True):
        assert {frozenset(np.flatnonzero(picture == row)) for row in range(number)} == groups
    assert number == height * width - int(ratio * height * width)
    rows = token_merging.merge(jnp.asarray(h), place, number)
    out = np.asarray(token_merging.unmerge(rows[:, :, None], place))[:, :, 0]
    for picture, drawn, groups in zip(h, out, expected, strict=True):
        for group in map(list, groups):
            np.testing.assert_allclose(
                drawn[group], np.tile(picture[group].mean(0), (len(group), 1)), atol=1e-6
            )


def test_a_destination_in_each_square():
    targets = np.asarray(token_merging.destinations(KEY, 4, 24))  # 4 x 6
    squares = {(cell // 6 // 2, cell % 6 // 2) for cell in targets}
    assert len(targets) == len(squares) == 6
    other = np.asarray(token_merging.destinations(jax.random.fold_in(KEY, 1), 4, 24))
    assert (targets != other).any()


def merged_attention(h, ratio, heads=2):
    """Attention of h [B, 16, C] with itself through Merged, and without."""

    def attend(h):
        q = h.reshape(*h.shape[:2], heads, -1)
        return attend_plainly(q, q, q)

    control = token_merging.Merged(KEY, ratio, 4)
    return control.attention(SITE, h, attend), attend(h)


def test_of_squares_of_one_color_nothing_is_lost():
    """Each 2 x 2 cells are alike and unlike the others: merged, every one is a row, and counts as often as before."""
    squares = np.random.default_rng(1).normal(size=(2, 2, 2, 6)).astype(np.float32)
    h = jnp.asarray(squares.repeat(2, 1).repeat(2, 2).reshape(2, 16, 6))
    merged, plain = merged_attention(h, 0.75)
    np.testing.assert_allclose(merged, plain, rtol=1e-5, atol=1e-6)
    unlike = jnp.asarray(np.random.default_rng(2).normal(size=(2, 16, 6)).astype(np.float32))
    merged, plain = merged_attention(unlike, 0.75)
    assert merged.shape == plain.shape and np.abs(merged - plain).max() > 1e-2


def test_a_picture_does_not_depend_on_those_beside_it():
    h = jnp.asarray(np.random.default_rng(3).normal(size=(3, 16, 6)).astype(np.float32))
    np.testing.assert_allclose(merged_attention(h, 0.5)[0][1:2], merged_attention(h[1:2], 0.5)[0], atol=1e-6)


def test_where_it_acts():
    control = token_merging.Merged(KEY, 0.5, 4)
    assert control.touches(SITE) and not control.needs_probs(SITE)
    assert not control.touches(SITE._replace(resolution=2)) and not control.touches(
        SITE._replace(kind="cross")
    )
