"""Retrieval-augmented drawing from a folder of pictures: the data base, the prompt's neighbors, the picture."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import embedded, neighbours, sample
from ldm_jax.data import folder
from ldm_jax.data.neighbours import Neighbors
from ldm_jax.evaluation import networks
from ldm_jax.inference import embedding_prior
from ldm_jax.metrics.clip_score import prepare
from ldm_jax.system import make_system
from ldm_jax.tasks.jobs import Job
from tests.conditioning import tiny_clip
from tests.tiny_models import random_params

MODEL = dict(
    task="diffusion", image_size=8, first_stage=dict(name="identity"), prediction_type="eps", scale_factor=1.0,
    model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, attention_levels=[0],
               num_heads=2, transformer_depth=1, context_dim=16, num_groups=4),
    conditioning=dict(name="retrieval", width=16), schedule=dict(name="linear"),
    sampling=dict(num_steps=2, guidance_scale=2.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip")
    tiny_clip.write(path)
    size = len(tiny_clip.vocabulary())
    text = dict(vocab_size=size, bos_token_id=size - 2, eos_token_id=size - 1, intermediate_size=64)
    small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    vision = dict(small, intermediate_size=128, image_size=16, patch_size=8)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=small | text, vision_config=vision, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (16, 20 + i, 3), np.uint8)).save(path / f"{i}.png")
    return path


def test_a_prompt_becomes_a_picture_by_its_neighbors(clip_folder, photos, tmp_path, monkeypatch):
    database = tmp_path / "database"
    neighbours.main(["build", str(photos), "--clip", str(clip_folder), "--out", str(database)])
    clip, found = networks.clip(clip_folder), Neighbors(database)
    pictures = [np.asarray(Image.open(photos / f"{i}.png")) for i in range(5)]
    alone = clip.extractor.apply(clip.extractor.params, np.stack([prepare(p, 16) for p in pictures]))[
        "embedding"
    ]
    unit = np.asarray(alone) / np.linalg.norm(alone, axis=1, keepdims=True)
    np.testing.assert_allclose(found.embeddings, unit, atol=1e-5)

    tokens = embedded.Retrieval(clip, found, k=3).tokens(["a red", "circle"])
    query = clip.embed(["a red"])[0]
    best = np.argsort(-unit @ query)[:3]
    np.testing.assert_allclose(tokens[0][0], query / np.linalg.norm(query), atol=1e-6)
    np.testing.assert_allclose(tokens[0][1:], unit[best], atol=1e-5)

    system = make_system(MODEL)
    bundle.save(tmp_path / "rdm", bundle.Bundle(MODEL, random_params(system, gain=1.5)))
    flags = ["--checkpoint", str(tmp_path / "rdm"), "--seeds", "3", "--clip", str(clip_folder)]
    look_up = ["--neighbours", str(database), "--num_neighbours", "3"]
    sample.main([*flags, *look_up, "--prompt", "a red", "--out", str(tmp_path / "drawn")])
    drawn = Image.open(tmp_path / "drawn" / "3.png")
    assert "a red" in json.dumps(drawn.text) and "embeddings" not in json.dumps(drawn.text)
    np.save(tmp_path / "a.npy", tokens[0])
    given = ["--embeddings", str(tmp_path / "a.npy"), "--out", str(tmp_path / "given")]
    sample.main([*flags[:4], *given])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "given" / "a.png")), np.asarray(drawn))
    with pytest.raises(ValueError, match="--prompt: .* is not a text model"):
        sample.main([*flags[:4], "--prompt", "a red"])


def test_building_goes_on_where_it_stopped_and_refuses_another_folders(
    clip_folder, photos, tmp_path, monkeypatch
):
    images, clip = neighbours.FolderImages(folder.source("train", root=photos)), networks.clip(clip_folder)
    one = len(neighbours.features.jax.devices())
    neighbours.build(images, clip, tmp_path, 1, 2 * one)
    files = sorted(tmp_path.glob("*.npz"))
    whole = Neighbors(tmp_path).embeddings
    files[-1].unlink()
    read = []
    get = neighbours.FolderImages.__getitem__
    monkeypatch.setattr(
        neighbours.FolderImages, "__getitem__", lambda self, i: read.append(i) or get(self, i)
    )
    assert neighbours.build(images, clip, tmp_path, 1, 2 * one) == 5
    assert np.array_equal(Neighbors(tmp_path).embeddings, whole) and len(whole) == 5
    if len(files) > 1:
        assert min(read) > 0
    with pytest.raises(ValueError, match="holds embeddings of other pictures"):
        neighbours.build(images, clip, tmp_path, 2, 2)


def test_a_reference_picture_and_a_prior_give_jobs_their_embedding(clip_folder, photos):
    clip = networks.clip(clip_folder)
    picture = np.asarray(Image.open(photos / "0.png"))
    jobs = [Job("0", 5, {"prompt": "a red"}, "here"), Job("1", 6, {"image_embedding": np.ones(16)}, "there")]
    told = embedded.Reference(clip, picture).told(jobs)
    apply, params = clip.extractor.apply, clip.extractor.params
    expected = apply(params, prepare(picture, 16)[None])["embedding"][0]
    np.testing.assert_allclose(told[0].given["image_embedding"], expected, atol=1e-5)
    assert told[0].given["prompt"] == "a red" and (told[1].given["image_embedding"] == 1).all()

    prior = embedding_prior.Prior(dict(width=16, hidden=8, num_layers=1), {})
    prior.params = embedding_prior.fresh(prior.network) | {"image_mean": np.arange(16.0)}
    told = embedded.Prompted(clip, prior).told(jobs)
    found = prior.embeddings(clip.embed(["a red"]), [5])[0]
    np.testing.assert_array_equal(told[0].given["image_embedding"], found)
    assert told[0].given["prompt"] == "a red" and (told[1].given["image_embedding"] == 1).all()
    np.testing.assert_allclose(found, np.arange(16), atol=1e-4)  # a fresh network predicts the mean
