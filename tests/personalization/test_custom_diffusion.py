"""Custom Diffusion: keys and values of cross-attention and a word's row, and nothing else."""

import jax
import numpy as np
import pytest

from ldm_jax.params import flatten
from ldm_jax.personalization import custom_diffusion
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params


def test_keys_and_values_of_cross_attention_and_a_row():
    params = random_params(make_system(CONFIG))
    delta = custom_diffusion.init(jax.random.key(0), params, token="<it>")
    paths = [path for path in flatten(delta) if path[0] == "unet"]
    assert {path[-3:] for path in paths} == {("attn2", "to_k", "kernel"), ("attn2", "to_v", "kernel")}
    assert len(paths) == 2 * 4 and {"conditioner", "unet"} == set(delta)
    assert set(custom_diffusion.init(jax.random.key(0), params)) == {"unet"}
    moved = jax.tree.map(lambda x: x + 1, delta)
    merged, before = flatten(custom_diffusion.merge(params, moved)), flatten(params)
    for path, leaf in before.items():
        changed = path in paths or path[-2:] == ("token_embed", "embedding")
        assert np.array_equal(merged[path], leaf) != changed, path
    assert custom_diffusion.words() is None
    assert custom_diffusion.words(token="<it>", begins="red").tokens == ("<it>",)


def test_a_model_without_cross_attention_is_refused():
    with pytest.raises(ValueError, match="custom_diffusion: the model has no cross-attention"):
        custom_diffusion.init(jax.random.key(0), {"unet": {"a": {"kernel": np.ones((2, 2), np.float32)}}})
