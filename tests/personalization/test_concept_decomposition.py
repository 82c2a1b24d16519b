"""A word that is a sum of words: its coefficients, what the penalty compares, and what is read of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.checkpoints import words as vocabulary
from ldm_jax.checkpoints.adapters import Adapter
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.commands import decompose
from ldm_jax.params import flatten
from ldm_jax.personalization import base, concept_decomposition
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SECTION = dict(name="concept_decomposition", token="<it>", hidden=16)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return Bundle(CONFIG, random_params(system), system.tokenizer)


@pytest.fixture(scope="module")
def told(model):
    return vocabulary.add(model, base.new_words(SECTION))


def fitted(told, target):
    """A delta whose word comes near to a sum of words."""
    params = {k: told.params[k] for k in ("unet", "conditioner")}
    delta = base.init_delta(SECTION, jax.random.key(0, impl=KEY_IMPL), params)

    def loss(delta):
        return jnp.square(last_table(base.merge_delta(SECTION, params, delta))[-1] - target).sum()

    optimizer = optax.adam(0.02)

    @jax.jit
    def step(delta, state):
        value, gradient = jax.value_and_grad(loss)(delta)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(delta, updates), state, value

    state, values = optimizer.init(delta), []
    for _ in range(200):
        delta, state, value = step(delta, state)
        values.append(float(value))
    return delta, values


def last_table(params):
    (table,) = [t for path, t in flatten(params).items() if path[-2:] == ("token_embed", "embedding")]
    return table


def test_the_word_is_the_sum_that_its_coefficients_say(model, told):
    table = np.asarray(last_table(told.params))
    ids = [told.tokenizer.token_to_id(word) for word in ("red", "circle")]
    delta, values = fitted(told, table[ids].sum(0))
    assert values[-1] < 0.1 * values[0]
    (found,) = concept_decomposition.coefficients(told.params, delta).values()
    row = last_table(base.merge_delta(SECTION, told.params, delta))[-1]
    np.testing.assert_allclose(np.asarray(found) @ table[:-1], row, rtol=1e-4, atol=1e-5)
    said = decompose.decomposed(model, Adapter(SECTION, delta, ""), 3)
    ((name, one),) = said.items()
    values = np.asarray(found)
    largest = np.argsort(-np.abs(values))[:3]
    few, whole = values[largest] @ table[largest], values @ table[:-1]
    assert name.startswith("text")
    assert set(one["words"]) == {told.tokenizer.id_to_token(int(i)) for i in largest}
    cosine = few @ whole / np.linalg.norm(few) / np.linalg.norm(whole)
    assert one["cosine"] == pytest.approx(cosine, abs=1e-3)


def test_a_penalty_of_few_words_is_none_where_all_are_few(told):
    params = {k: told.params[k] for k in ("unet", "conditioner")}
    delta = base.init_delta(SECTION, jax.random.key(0, impl=KEY_IMPL), params)
    moved = jax.tree.map(lambda v: v + 0.1, delta)
    every = concept_decomposition.penalty(params, moved, None, sparse=1.0, top=1000)
    one = concept_decomposition.penalty(params, moved, None, sparse=1.0, top=1)
    np.testing.assert_allclose(every, 0, atol=1e-3)
    assert one > 0.01
    gradient = jax.grad(lambda d: concept_decomposition.penalty(params, d, None, sparse=1.0))(delta)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_adapter_of_another_way(model):
    with pytest.raises(ValueError, match="the adapter is of lora, expected one of concept_decomposition"):
        decompose.decomposed(model, Adapter(dict(name="lora"), {}, ""), 3)
