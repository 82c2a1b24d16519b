"""The text transformer under the original's deterministic weights gives the original's output."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning import class_label, text
from ldm_jax.convert import compvis_conditioner
from ldm_jax.models.text_encoder import TextTransformer
from tests.golden.rule import GOLDEN, check_stats, fill_params

ENTRY = GOLDEN["x_transformer"]
FIELDS = dict(
    vocab_size=ENTRY["num_tokens"],
    width=ENTRY["dim"],
    num_layers=ENTRY["depth"],
    max_length=ENTRY["max_seq_len"],
)
TOKENS = jnp.array(ENTRY["tokens"])
NO_CLASS = {"class_labels": np.array([1000], np.int32)}


def test_output():
    model = TextTransformer(**FIELDS)
    template = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    entries = compvis_conditioner.transformer_entries(template)
    to_logits = FIELDS["width"] * FIELDS["vocab_size"] + FIELDS["vocab_size"]  # unused there, absent here
    assert sum(a.size for a in jax.tree.leaves(template)) == ENTRY["n_params"] - to_logits
    assert len(entries) == ENTRY["n_keys"] - 2
    params = fill_params(template, entries)
    out = jax.jit(model.apply)({"params": params}, TOKENS)
    check_stats(out, ENTRY["out"], rel=1e-4)


def test_conversion_brings_back_the_unused_projection():
    conditioner = text.Conditioner(**FIELDS)
    template = jax.eval_shape(conditioner.init, jax.random.key(0), {"tokens": TOKENS})["params"]
    params = fill_params(template, compvis_conditioner.entries(template))
    state = compvis_conditioner.to_torch(params)
    assert len(state) == ENTRY["n_keys"]
    assert sum(a.size for a in state.values()) == ENTRY["n_params"]
    jax.tree.map(np.testing.assert_array_equal, compvis_conditioner.from_torch(state, template), params)


def test_conversion_of_the_class_table():
    """cin256-v2: 1001 rows of 512, the last for no class."""
    conditioner = class_label.Conditioner(1000, 512)
    template = jax.eval_shape(conditioner.init, jax.random.key(0), NO_CLASS)["params"]
    table = np.arange(1001 * 512, dtype=np.float32).reshape(1001, 512)
    params = compvis_conditioner.from_torch({"embedding.weight": table}, template)
    context = conditioner.apply({"params": params}, NO_CLASS).context
    np.testing.assert_array_equal(context, table[None, 1000:])
    np.testing.assert_array_equal(compvis_conditioner.to_torch(params)["embedding.weight"], table)
