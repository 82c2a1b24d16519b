"""Measuring networks out of files: CLIP's score is transformers', and what is not there is said."""

import numpy as np
import pytest

from ldm_jax.evaluation import networks
from ldm_jax.metrics import features
from ldm_jax.metrics.clip_score import clip_scores
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.models.clip_vision import MEAN, STD
from tests.conditioning import tiny_clip


def test_clip_score_is_that_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tiny_clip.write(tmp_path)
    size = len(tiny_clip.vocabulary())
    text = dict(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        bos_token_id=size - 2, eos_token_id=size - 1,
    )  # fmt: skip
    vision = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    theirs = transformers.CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    captions = ["a", "a b", "b a b"]
    clip = networks.clip(tmp_path, batch_size=2)
    ours = np.concatenate(
        [
            v["embedding"]
            for _, v in features.extract(ArrayImages(images), clip.extractor, layers=("embedding",))
        ]
    )
    embedded = clip.embed(captions)

    tokenizer = networks.clip_conditioning.clip_tokenizer(tmp_path)
    ids = torch.tensor([e.ids for e in tokenizer.encode_batch(captions)])
    pixels = torch.tensor(((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2))
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=pixels.float())
    cosine = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    np.testing.assert_allclose(clip_scores(ours, embedded), 100 * np.maximum(cosine, 0), atol=2e-4)
    assert np.abs(cosine).max() > 0.01


def test_lpips_heads_may_lie_with_the_network_or_beside_it(tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks.lpips_names, "load_lpips", lambda *paths: [p.name for p in paths if p])
    with pytest.raises(
        ValueError, match="VGG16 of LPIPS: found no weights; name the file, or put vgg16-397923af.pth"
    ):
        networks.lpips()
    save_file({"features.0.bias": np.zeros(2, np.float32)}, tmp_path / "vgg16.safetensors")
    with pytest.raises(ValueError, match="heads of LPIPS: found no weights"):
        networks.lpips()
    save_file({"lin0.model.1.weight": np.zeros(2, np.float32)}, tmp_path / "lpips_vgg.safetensors")
    assert networks.lpips() == ["vgg16.safetensors", "lpips_vgg.safetensors"]
    both = {"features.0.bias": np.zeros(2, np.float32), "lin0.model.1.weight": np.zeros(2, np.float32)}
    save_file(both, tmp_path / "both.safetensors")
    assert networks.lpips(tmp_path / "both.safetensors") == ["both.safetensors"]


def test_files_that_are_named_and_not_there(tmp_path):
    for open_it in (networks.inception, networks.lpips, networks.clip):
        with pytest.raises(ValueError, match="are not there, expected a file"):
            open_it(tmp_path / "nothing")
