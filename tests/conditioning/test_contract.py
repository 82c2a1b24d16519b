"""What every file of ldm_jax/conditioning promises, tested for each by listing the room."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning.base import drop, random_keep_mask
from ldm_jax.find import find, names
from ldm_jax.types import Cond
from tests.conditioning.examples import EXAMPLES


def test_every_kind_of_conditioning_has_an_example():
    assert set(EXAMPLES) == set(names("conditioning"))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_contract(name):
    module, example = find("conditioning", name), EXAMPLES[name]()
    given, null = module.inputs(*example.given), module.null_inputs(*example.null)
    assert given.keys() == null.keys()
    for key in given:
        assert isinstance(given[key], np.ndarray) and isinstance(null[key], np.ndarray)
        assert (given[key].shape, given[key].dtype) == (null[key].shape, null[key].dtype)
        assert len(given[key]) == 2

    conditioner = module.Conditioner(**example.fields)
    variables = jax.eval_shape(conditioner.init, jax.random.key(0), given)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), variables)
    encode = jax.jit(lambda inputs: conditioner.apply(variables, inputs))
    cond, cond_null = encode(given), encode(null)
    assert isinstance(cond, Cond) and jax.tree.leaves(cond)
    assert jax.tree.structure(cond) == jax.tree.structure(cond_null)
    for a, b in zip(jax.tree.leaves(cond), jax.tree.leaves(cond_null), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and len(a) == 2

    # dropping the second example's condition: the first is as given, the second as without
    dropped = encode(drop(given, null, jnp.array([True, False])))
    for got, a, b in zip(*map(jax.tree.leaves, (dropped, cond, cond_null)), strict=True):
        np.testing.assert_allclose(got[0], a[0], rtol=1e-6)
        np.testing.assert_allclose(got[1], b[1], rtol=1e-6)
        assert not np.allclose(a[1], b[1])


def test_drop_wants_the_same_structure():
    with pytest.raises(ValueError, match="expected the inputs'"):
        drop({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)}, jnp.array([True, False]))
    with pytest.raises(ValueError, match="has shape"):
        drop({"a": jnp.zeros((2, 3))}, {"a": jnp.zeros((2, 4))}, jnp.array([True, False]))


def test_random_keep_mask_drops_at_its_rate():
    mask = random_keep_mask(jax.random.key(0), 4000, 0.1)
    assert abs(1 - float(mask.mean()) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)
    assert bool(random_keep_mask(jax.random.key(0), 100, 0.0).all())
