"""What every file of ldm_jax/conditioning promises, tested for each by listing the room."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning.base import drop, numbers
from ldm_jax.find import find, names
from ldm_jax.types import Cond
from tests.conditioning.examples import EXAMPLES, FACTOR


def test_every_kind_of_conditioning_has_an_example():
    assert set(EXAMPLES) == set(names("conditioning"))


def encoded(module, inputs, setting):
    """The inputs with the images that the system would encode replaced by something of a latent's shape."""
    return {
        k: np.resize(v[:, ::FACTOR, ::FACTOR], (len(v), *setting.latent_shape)) if k in module.ENCODES else v
        for k, v in inputs.items()
    }


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_contract(name):
    module, example = find("conditioning", name), EXAMPLES[name]()
    optional = getattr(module, "OPTIONAL", ())
    assert set(example.given) == set(module.TAKES) and set(optional) <= set(module.TAKES)
    assert set(module.EXAMPLE) == set(module.TAKES)
    given, null = module.inputs(example.given, example.setting), module.null_inputs(2, example.setting)
    required = {k: v for k, v in example.given.items() if k not in optional}
    assert module.inputs(required, example.setting).keys() == given.keys() == null.keys()
    assert set(module.DROPS) | set(module.ENCODES) <= set(given)
    for key in given:
        assert isinstance(given[key], np.ndarray) and isinstance(null[key], np.ndarray)
        null[key] = np.broadcast_to(
            null[key], given[key].shape
        )  # where any length is allowed it has length 1
        assert (given[key].shape, given[key].dtype) == (null[key].shape, null[key].dtype)
        assert len(given[key]) == 2
    for key in module.ENCODES:
        assert given[key].shape == (2, *example.setting.image_shape, 3)

    for name, unit in getattr(module, "SPATIAL", {}).items():
        sides = {"image": example.setting.image_shape, "latent": example.setting.latent_shape[:2]}
        assert np.shape(example.given[name])[1:3] == sides[unit]

    given, null = (encoded(module, values, example.setting) for values in (given, null))
    conditioner = example.setting.conditioner
    variables = jax.eval_shape(conditioner.init, jax.random.key(0), given)
    # or a model's only kind would be mistaken for one that an earlier version wrote (checkpoints/earlier.py)
    assert module.__name__.rpartition(".")[2] not in variables.get("params", {})
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), variables)
    encode = jax.jit(lambda inputs: conditioner.apply(variables, inputs))
    cond, cond_null = encode(given), encode(null)
    prepares = getattr(module, "PREPARES", False)
    assert isinstance(cond, dict if prepares else Cond) and jax.tree.leaves(cond)
    assert jax.tree.structure(cond) == jax.tree.structure(cond_null)
    for a, b in zip(jax.tree.leaves(cond), jax.tree.leaves(cond_null), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert len(a) == 2 and np.isfinite(a).all() and np.isfinite(b).all()
    if not prepares and cond.concat is not None:
        assert cond.concat.shape[:3] == (2, *example.setting.latent_shape[:2])
    assert any(not np.allclose(a[0], a[1]) for a in jax.tree.leaves(cond)), "the condition counts for nothing"

    # Dropping the second example's condition: the first is as given, the second as without.
    dropped = encode(drop(given, null, jnp.array([True, False])))
    for got, a, b in zip(*map(jax.tree.leaves, (dropped, cond, cond_null)), strict=True):
        np.testing.assert_allclose(got[0], a[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], b[1], rtol=1e-5, atol=1e-6)
    assert any(
        not np.allclose(a[1], b[1]) for a, b in zip(*map(jax.tree.leaves, (cond, cond_null)), strict=True)
    )


def test_kinds_that_say_how_large_the_picture_is():
    said = {name for name in names("conditioning") if getattr(find("conditioning", name), "SPATIAL", {})}
    assert said == {"semantic", "superres", "upscale", "inpaint", "colorize", "concat", "instruct"}


def test_drop_wants_the_same_structure():
    with pytest.raises(ValueError, match="expected the inputs'"):
        drop({"a": jnp.zeros(2)}, {"b": jnp.zeros(2)}, jnp.array([True, False]))
    with pytest.raises(ValueError, match="has shape"):
        drop({"a": jnp.zeros((2, 3))}, {"a": jnp.zeros((2, 4))}, jnp.array([True, False]))


def test_numbers_say_what_they_are_not():
    assert numbers([[1, 2]], (None,), "x").dtype == np.float32
    with pytest.raises(ValueError, match=r"x: got shape \(1, 2\), expected \(batch, 3\)"):
        numbers([[1, 2]], (3,), "x")
    with pytest.raises(ValueError, match="x: got NaN"):
        numbers([[1, np.nan]], (2,), "x")
    with pytest.raises(ValueError, match="x: expected arrays"):
        numbers([[1, 2], [3]], (2,), "x")
