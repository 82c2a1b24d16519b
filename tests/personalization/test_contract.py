"""What every file of personalization/ must do. A new one is tested by being there, with a row of OPTIONS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import conditions, words
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.find import names
from ldm_jax.params import named_leaves
from ldm_jax.personalization import base
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

OPTIONS = {
    "ip_adapter": dict(width=6, tokens=2),
    "loha": dict(rank=2, token="<it>", begins="red"),
    "lokr": dict(rank=2, token="<it>", begins="red"),
    "controlnet": dict(widths=[4, 8, 8]),
    "instances": dict(number=2, dim=8, width=6, hidden=6),
    "t2i_adapter": dict(widths=[4, 8], factor=4),
    "concept_decomposition": dict(token="<it>", hidden=5),
    "custom_diffusion": dict(token="<it>", begins="red"),
    "break_a_scene": dict(tokens=["<a>", "<b>"], begins="red"),
    "dreambooth": dict(),
    "e4t": dict(token="<it>", begins="red", rank=2, side=8, widths=[4, 4]),
    "reversion": dict(token="<R>", begins="a", prepositions=["red"]),
    "extended_textual_inversion": dict(token="<it>", sites=4, begins="red"),
    "textual_inversion": dict(token="<it>", vectors=2, begins="red"),
    "lora": dict(rank=2, conv_rank=2, text_rank=2, dora=True),
}
every_way = pytest.mark.parametrize("name", names("personalization"))


@pytest.fixture
def params(request):
    """Those of a tiny model, with the words that the way adds."""
    system = make_system(CONFIG)
    model = Bundle(CONFIG, random_params(system), system.tokenizer)
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    new = base.new_words(dict(name=name, **OPTIONS[name])) if name else None
    kinds = base.new_conditions(dict(name=name, **OPTIONS[name])) if name else None
    model = words.add(model, new) if new else model
    whole = (conditions.add(model, kinds) if kinds else model).params
    return {name: whole[name] for name in ("unet", "conditioner")}


def test_every_way_has_a_row():
    assert sorted(OPTIONS) == names("personalization")


@every_way
def test_a_fresh_delta_changes_nothing_to_the_bit_and_one_that_was_trained_does(name, params):
    section = dict(name=name, **OPTIONS[name])
    delta = base.init_delta(section, jax.random.key(0), params)
    merged = jax.jit(lambda params, delta, weight: base.merge_delta(section, params, delta, weight))
    before, after = named_leaves(params), named_leaves(merged(params, delta, 1.0))
    assert before.keys() == after.keys()
    own = {
        path
        for path in before
        if path.startswith(
            (
                "conditioner/word_encoder",
                "unet/controlnet_",
                "unet/instances",
                "unet/ip_adapter",
                "unet/t2i_adapter_",
            )
        )
    }  # beside the base
    for path, leaf in before.items():
        assert path in own or np.array_equal(after[path], leaf), path
    moved = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1), delta)
    after = named_leaves(merged(params, moved, 1.0))
    assert any((np.asarray(leaf) != before[path]).any() for path, leaf in after.items())
    none = named_leaves(merged(params, moved, 0.0))
    assert all(np.array_equal(none[path], leaf) for path, leaf in before.items() if path not in own)


@every_way
def test_the_delta_is_small_and_has_a_gradient(name, params):
    section = dict(name=name, **OPTIONS[name])
    delta = base.init_delta(section, jax.random.key(0), params)

    def loss(delta, params):
        merged = base.merge_delta(section, params, delta)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(merged))

    gradient = jax.jit(jax.grad(loss))(delta, params)  # operation by operation it takes longer to compile
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    size = sum(leaf.size for leaf in jax.tree.leaves(delta))
    assert 0 < size < sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "section, said",
    [
        (dict(name="lorra"), "personalization method 'lorra' not found"),
        (dict(), "personalization method 'None' not found"),
    ],
)
def test_what_there_is_not(section, said, params):
    with pytest.raises(ValueError, match=said):
        base.init_delta(section, jax.random.key(0), params)
