"""What every file of personalization/ must do. A new one is tested by being there, with a row of OPTIONS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.find import names
from ldm_jax.params import named_leaves
from ldm_jax.personalization import base
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

OPTIONS = {
    "loha": dict(rank=2),
    "lokr": dict(rank=2),
    "lora": dict(rank=2, conv_rank=2, text_rank=2, dora=True),
}
every_way = pytest.mark.parametrize("name", names("personalization"))


@pytest.fixture(scope="module")
def params():
    whole = random_params(make_system(CONFIG))
    return {name: whole[name] for name in ("unet", "conditioner")}


def test_every_way_has_a_row():
    assert sorted(OPTIONS) == names("personalization")


@every_way
def test_a_fresh_delta_changes_nothing_to_the_bit_and_one_that_was_trained_does(name, params):
    section = dict(name=name, **OPTIONS[name])
    delta = base.init_delta(section, jax.random.key(0), params)
    merged = jax.jit(lambda delta: base.merge_delta(section, params, delta))
    before, after = named_leaves(params), named_leaves(merged(delta))
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf)
    moved = jax.tree.map(lambda x: x + 0.1, delta)
    assert any((np.asarray(leaf) != before[path]).any() for path, leaf in named_leaves(merged(moved)).items())
    none = named_leaves(base.merge_delta(section, params, moved, weight=0.0))
    assert all((none[path] == leaf).all() for path, leaf in before.items())


@every_way
def test_the_delta_is_small_and_has_a_gradient(name, params):
    section = dict(name=name, **OPTIONS[name])
    delta = base.init_delta(section, jax.random.key(0), params)

    def loss(delta):
        merged = base.merge_delta(section, params, delta)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(merged))

    gradient = jax.grad(loss)(delta)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    size = sum(leaf.size for leaf in jax.tree.leaves(delta))
    assert 0 < size < sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "section, said",
    [
        (dict(name="lorra"), "personalization method 'lorra' not found"),
        (dict(), "personalization method None not found"),
    ],
)
def test_what_there_is_not(section, said, params):
    with pytest.raises(ValueError, match=said):
        base.init_delta(section, jax.random.key(0), params)
