"""Textual inversion: which rows are learned, their gradient against torch, and a run that leaves all others alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle, words, write
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import train
from ldm_jax.config import load_config
from ldm_jax.data import templates
from ldm_jax.inference import pipeline
from ldm_jax.models.unet import apply_unet
from ldm_jax.params import flatten, named_leaves
from ldm_jax.personalization import base
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import ONE_LEVEL, random_params, stable_diffusion_1

SECTION = dict(name="textual_inversion", token="<it>", vectors=2, begins="red circle", regularize=0.1)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


def test_the_words_begin_as_others_and_their_rows_are_the_last(model):
    more = words.add(model, base.new_words(SECTION))
    assert [more.tokenizer.token_to_id(w) for w in ("<it>", "<it>_1")] == [8, 9]
    table = more.params["conditioner"]["text"]["transformer"]["token_embed"]["embedding"]
    before = model.params["conditioner"]["text"]["transformer"]["token_embed"]["embedding"]
    ids = [model.tokenizer.token_to_id(w) for w in ("red", "circle")]
    np.testing.assert_array_equal(table, np.concatenate([before, before[ids]]))
    assert model.tokenizer.token_to_id("<it>") is None and more.config["conditioning"]["vocab_size"] == 10
    system = make_system(more.config, more.tokenizer)
    said = system.inputs({"prompts": ["a <it>"]})["tokens"][0]
    assert list(said[:5]) == [2, more.tokenizer.token_to_id("a"), 8, 9, 3]  # one word, both its rows


def test_the_penalty_is_the_squared_way_from_where_they_began(model):
    params = words.add(model, base.new_words(SECTION)).params
    delta = base.init_delta(SECTION, jax.random.key(0), params)
    seen = base.Seen({}, jax.random.split(jax.random.key(0), 1), {})
    assert base.penalty(SECTION, params, delta, seen) == 0
    moved = jax.tree.map(lambda rows: rows + 0.5, delta)
    np.testing.assert_allclose(base.penalty(SECTION, params, moved, seen), 0.1 * 2 * 8 * 0.25, rtol=1e-6)


def test_one_vector_after_the_other(model):
    section = dict(name="textual_inversion", token="<it>", vectors=3, progressive=10)
    more = words.add(model, base.new_words(section))
    prepared = base.prepare(section, more.tokenizer)
    tokens = make_system(more.config, more.tokenizer).inputs({"prompts": ["a <it>", "red"]})["tokens"]
    np.testing.assert_array_equal(tokens[0], [2, 4, 8, 9, 10, 3])  # [BOS] a <it> <it>_1 <it>_2 [EOS]
    shown = jax.jit(
        lambda step: base.shown(section, {"tokens": jnp.asarray(tokens)}, step, prepared)["tokens"]
    )
    for step, expected in ((0, [2, 4, 8, 3, 0, 0]), (9, [2, 4, 8, 3, 0, 0]), (10, [2, 4, 8, 9, 3, 0])):
        np.testing.assert_array_equal(shown(step), [expected, tokens[1]])
    np.testing.assert_array_equal(shown(20), tokens)
    assert base.shown(dict(section, progressive=None), {}, 0, prepared) == {}


def test_words_of_single_pictures_stand_beside_the_shared_one(model, tmp_path):
    section = dict(name="textual_inversion", token="<it>", vectors=2, pictures=3, begins="red")
    new = base.new_words(section)
    assert new.tokens == ("<it>", "<it>_1", "<it>#0", "<it>#1", "<it>#2")
    more = words.add(model, new)
    delta = base.init_delta(section, jax.random.key(0), more.params)
    source = templates.captioned([{"image": 0}] * 3, dict(texts=["a {}"], word="<it>", of_picture=" {}#{}"))
    said = source.caption(2, np.random.default_rng(0))
    assert said == "a <it> <it>#2"
    tokens = make_system(more.config, more.tokenizer).inputs({"prompts": [said]})["tokens"][0]
    np.testing.assert_array_equal(tokens, [2, 4, 8, 9, 12, 3])
    adapters.write_file(tmp_path / "it.safetensors", adapters.Adapter(section, delta, ""), "diffusers", model)
    read = adapters.read(tmp_path / "it.safetensors", model=model)
    assert read.section["vectors"] == 2  # the shared word alone is passed on
    with pytest.raises(ValueError, match="of_picture is ' {}', expected a text such as ' with {}#{}'"):
        templates.captioned([], dict(texts=["a {}"], word="<it>", of_picture=" {}"))


def test_the_gradient_is_torchs(tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    section = dict(name="textual_inversion", token="<it>", begins="red")
    model = stable_diffusion_1(tmp_path / "vocabulary", model=ONE_LEVEL)
    bundle.save(tmp_path / "bundle", model)
    write.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "diffusers", "diffusers")
    more = words.add(model, base.new_words(section))
    system = make_system(more.config, more.tokenizer)
    tokens = system.inputs({"prompts": ["a <it> and a circle"]})["tokens"]
    rng = np.random.default_rng(0)
    x, target = (rng.normal(size=(1, 8, 8, 4)).astype(np.float32) for _ in range(2))
    t = np.array([300])

    def loss(delta):
        params = base.merge_delta(section, more.params, delta)
        cond = system.condition(params, {"tokens": jnp.asarray(tokens)})
        return jnp.mean((apply_unet(system.unet, params["unet"], x, t, cond)[0] - target) ** 2)

    delta = base.init_delta(section, jax.random.key(0), more.params)
    (gradient,) = jax.tree.leaves(jax.jit(jax.grad(loss))(delta))

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "diffusers", safety_checker=None)
    pipe.tokenizer.add_tokens("<it>")
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = pipe.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[-1] = table[pipe.tokenizer.encode("red")[1]]
    said = pipe.tokenizer(
        "a <it> and a circle", padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    np.testing.assert_array_equal(said, tokens)
    turned = [torch.tensor(a.transpose(0, 3, 1, 2)) for a in (x, target)]
    found = pipe.unet(turned[0], torch.tensor(t), pipe.text_encoder(said)[0]).sample
    torch.nn.functional.mse_loss(found, turned[1]).backward()
    expected = table.grad[-1].numpy()
    assert np.abs(gradient[0] - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("word")
    bundle.save(folder / "model", model)
    config = load_config("configs/textual_inversion.py:runlocal") | dict(
        base=str(folder / "model"), total_steps=3, preview_every=100
    )
    config["personalization"] = SECTION
    config["data"] = dict(config["data"], recipe="plain")
    train.train(config, folder / "run")
    return folder


def test_a_run_learns_the_rows_alone_and_they_draw(run, model):
    adapter = adapters.read(run / "run")
    assert adapter.section == SECTION
    ((path, rows),) = flatten(adapter.delta).items()
    assert path == ("conditioner", "text", "transformer", "token_embed", "embedding") and rows.shape == (2, 8)
    merged = adapters.applied(model, [(adapter, 1.0)]).params
    before, after = named_leaves(model.params), named_leaves(merged)
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name][: len(leaf)] if leaf.ndim else after[name], leaf)
    learned = after["/".join(path)]
    assert len(learned) == len(before["/".join(path)]) + 2
    np.testing.assert_array_equal(learned[-2:], rows)
    assert (np.asarray(rows) != before["/".join(path)][[5, 7]]).any()
    given = dict(seeds=[3], num_steps=2)
    plain = pipeline.load(run / "model")
    taught = pipeline.load(run / "model", adapters=[str(run / "run")])
    np.testing.assert_array_equal(
        taught.sample("a red circle", **given), plain.sample("a red circle", **given)
    )
    assert (taught.sample("a <it>", **given) != plain.sample("a circle", **given)).any()


def test_what_cannot_be_learned_is_said(run, model, tmp_path):
    adapter = adapters.read(run / "run")
    with pytest.raises(
        ValueError, match="the word '<it>' is in the vocabulary already, by the model itself or another"
    ):
        adapters.applied(model, [(adapter, 1.0), (adapter, 1.0)])
    config = load_config("configs/textual_inversion.py:runlocal") | dict(base=str(run / "model"))
    config["data"] = dict(config["data"], recipe="plain")
    for changes, said in (
        (dict(personalization=dict(name="textual_inversion")), "token is missing, expected a new word"),
        (
            dict(personalization=dict(SECTION, begins="zork")),
            "begin as 'zork', which the model's vocabulary does not",
        ),
        (dict(personalization=dict(SECTION, token="red")), "the word 'red' is in the vocabulary already"),
        (
            dict(personalization=dict(SECTION, vectors=0)),
            "expected a word, at least 1 vector and at least 0 pictures",
        ),
        (
            dict(data={k: v for k, v in config["data"].items() if k != "templates"}),
            "the word '<it>' is to be learned and not in the captions of",
        ),
        (dict(base=None), "config.base names no model"),
    ):
        with pytest.raises(ValueError, match=said):
            train.train(config | changes, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    folder = dict(
        name="folder", root=str(tmp_path / "empty"), recipe="plain", templates=config["data"]["templates"]
    )
    with pytest.raises(ValueError, match="empty"):
        train.train(config | dict(data=folder), tmp_path / "run")
