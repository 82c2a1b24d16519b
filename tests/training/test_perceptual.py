"""LPIPS is on where its weights are at hand, and a run that goes on keeps what it began with."""

import json

import pytest

from ldm_jax.training import perceptual
from ldm_jax.training.program import has_perceptual
from tests.convert.test_lpips_weights import files  # noqa: F401  (a fixture: vgg.safetensors and heads.npz)

CONFIG = dict(task="first_stage", lpips=dict(vgg_path="", heads_path="", dropout=False))


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The folder where they are looked for, empty."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("LDM_JAX_WEIGHTS", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


def test_weights_at_hand_are_taken(weights, tmp_path, files):  # noqa: F811
    run = tmp_path / "run"
    assert not has_perceptual(perceptual.with_weights(CONFIG, run))
    (weights / "vgg16.safetensors").write_bytes((files / "vgg.safetensors").read_bytes())
    assert not has_perceptual(perceptual.with_weights(CONFIG, run))  # without the heads there is no distance
    (weights / "lpips_vgg.safetensors").write_bytes(b"")
    found = perceptual.with_weights(CONFIG, run)
    assert has_perceptual(found) and found["lpips"]["dropout"] is False
    assert found["lpips"]["vgg_path"] == str(weights / "vgg16.safetensors")
    assert found["lpips"]["heads_path"] == str(weights / "lpips_vgg.safetensors")
    for vgg_path in ("off", "mine.safetensors"):
        named = dict(CONFIG, lpips=dict(vgg_path=vgg_path))
        assert perceptual.with_weights(named, run) == named and has_perceptual(named) == (vgg_path != "off")
    assert perceptual.with_weights(dict(task="diffusion"), run) == dict(task="diffusion")

    (run / "checkpoints" / "5").mkdir(parents=True)  # of a run that began before the weights came
    (run / "config.json").write_text(json.dumps(CONFIG))
    assert not has_perceptual(perceptual.with_weights(CONFIG, run))
    (run / "config.json").write_text(json.dumps(found))
    (weights / "vgg16.safetensors").unlink()
    assert perceptual.with_weights(CONFIG, run) == found
