"""ReVersion: which words draw a relation and which keep it off, against torch, and where its gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import words
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.conditioning import text
from ldm_jax.personalization import base, reversion
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

RNG = np.random.default_rng(0)


def test_the_loss_is_info_nce_of_several_positives():
    torch = pytest.importorskip("torch")
    relation, near, others = (RNG.normal(size=shape).astype(np.float32) for shape in ((8,), (4, 8), (5, 8)))
    counts = np.array([True, False, True, True, False])
    found, gradient = jax.value_and_grad(reversion.steering)(relation, near, others, counts, 0.07)
    leaf = torch.tensor(relation, requires_grad=True)
    unit = torch.nn.functional.normalize
    logits = unit(leaf, dim=0) @ unit(torch.tensor(np.concatenate([near, others[counts]])), dim=1).T / 0.07
    expected = -torch.log(torch.softmax(logits, 0)[:4].sum())
    expected.backward()
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-3, atol=1e-5)
    alone = reversion.steering(relation, near, others, np.zeros(5, bool), 0.07)
    np.testing.assert_allclose(alone, 0, atol=1e-6)


def test_the_vocabulary_is_parted():
    tokenizer = text.word_level_tokenizer(["a", "left", "of", "above", "red", "circle"], 8)
    tokenizer = words.with_tokens(tokenizer, ("<R>",))
    prepared = reversion.prepare(tokenizer)
    name = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    assert [name[i] for i in prepared["basis"]] == ["left", "of", "above"]
    kept = [word for word, out in zip(name, prepared["ignored"], strict=True) if not out]
    assert kept == ["red", "circle"]
    with pytest.raises(ValueError, match="vocabulary has none of the prepositions amid, … as one token"):
        reversion.prepare(tokenizer, prepositions=("amid",))


def test_the_penalty_is_the_mean_over_captions():
    section = dict(name="reversion", token="<R>", begins="a", prepositions=["blue"], positives=3, steer=0.5)
    system = make_system(CONFIG)
    model = words.add(Bundle(CONFIG, random_params(system), system.tokenizer), base.new_words(section))
    prepared = base.prepare(section, model.tokenizer)
    said = ["red <R> circle", "circle <R> a"]
    tokens = make_system(model.config, model.tokenizer).inputs({"prompts": said})["tokens"]
    delta = base.init_delta(section, jax.random.key(0), model.params)
    delta = jax.tree.map(lambda rows: rows + RNG.normal(size=rows.shape).astype(np.float32), delta)
    seen = base.Seen({"tokens": jnp.asarray(tokens)}, jax.random.split(jax.random.key(1), 2), prepared)

    def loss(delta):
        return base.penalty(section, model.params, delta, seen)

    found, gradient = jax.jit(jax.value_and_grad(loss))(delta)
    table = model.params["conditioner"]["text"]["transformer"]["token_embed"]["embedding"]
    (row,) = jax.tree.leaves(delta)
    near = np.stack([table[model.tokenizer.token_to_id("blue")]] * 3)  # the only one, three times
    each = [
        reversion.steering(
            row[0],
            near,
            np.stack([table[model.tokenizer.token_to_id(w)] for w in kept]),
            np.ones(len(kept), bool),
            0.07,
        )
        for kept in (["red", "circle"], ["circle"])
    ]
    np.testing.assert_allclose(found, 0.5 * np.mean(each), rtol=1e-4)
    assert np.abs(jax.tree.leaves(gradient)[0]).max() > 0
