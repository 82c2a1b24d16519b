"""A sampler in a file: it draws what the model draws, with no network at hand; and what it refuses."""

import json
import zipfile

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.inference import exported, pipeline
from ldm_jax.models import unet
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG as OTHER
from tests.tiny_models import random_params

# attention in the middle alone: little to trace
CONFIG = dict(OTHER, model=dict(OTHER["model"], attention_levels=[]))
PROMPTS = ["a red circle", "blue", "a circle"]


@pytest.fixture(scope="module")
def opened():
    system = make_system(CONFIG)
    return bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


@pytest.fixture(scope="module")
def written(opened, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "sampler.ldm"
    exported.write(
        pipeline.from_bundle(opened), path, batch_size=2, num_steps=3, eta=0.5, platforms=["cpu", "cuda"]
    )
    return path


def changed(path, to, **entries):
    """A copy of the file, the header's entries changed, and programs whose bytes are given replaced."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = entries.get(name, old.read(name))
            if name == "header.json" and name not in entries:
                header = json.loads(content)
                content = json.dumps(header | {k: v for k, v in entries.items() if k in header})
            if content is not None:
                new.writestr(name, content)
    return to


def test_it_draws_the_model_s_pictures_without_its_networks(opened, written, monkeypatch):
    asked = dict(negative_prompts=["red"], guidance_scale=2.5)
    model = pipeline.from_bundle(opened)
    expected = model.sample(PROMPTS, [5, 1, 8], num_steps=3, eta=1.0, batch_size=2, **asked)

    def refuse(*args, **kwargs):
        raise AssertionError("a network was traced")

    monkeypatch.setattr(unet.UNet, "apply", refuse)
    monkeypatch.setattr(type(model.system.first_stage.module), "apply", refuse)
    sampler = exported.load(written, opened)
    progress = []
    drawn = sampler.sample(
        PROMPTS, [5, 1, 8], eta=1.0, progress=lambda done, of: progress.append((done, of)), **asked
    )
    assert np.abs(drawn.astype(int) - expected).max() <= 1  # compiled anew from the file: rounding
    assert progress == [(2, 3), (3, 3)]
    again = sampler.sample(PROMPTS[:1], [5])  # the file's eta, and the makers' guidance scale
    assert again.shape == (1, 16, 16, 3) and (again[0] != drawn[0]).any()
    with pytest.raises(ValueError, match="guidance_scale is 1, .* expects another one: it is guided"):
        sampler.sample(PROMPTS[:1], [5], guidance_scale=1)
    with pytest.raises(ValueError, match="prompts: got 2 for 3 seeds"):
        sampler.sample(PROMPTS[:2], [5, 1, 8])


def test_the_kernel_for_a_tpu_is_exported_beside_the_plain_attention(tmp_path):
    config = dict(CONFIG, image_size=64, dtype="bfloat16")  # 256 queries
    model = pipeline.LatentDiffusion(make_system(config), random_params(make_system(config)), 1.5, config)
    path = tmp_path / "sampler.ldm"
    header = exported.write(model, path, batch_size=1, num_steps=2, guidance_scale=1)
    assert header["platforms"] == ["cpu", "cuda", "tpu"] and not header["guided"]
    with zipfile.ZipFile(path) as file:
        found = [name for name in file.namelist() if b"tpu_custom_call" in file.read(name)]
    assert found == ["tpu/sampler", "tpu/decoder"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (dict(format="ldm_jax sampler 0"), "no exported sampler that this version reads"),
        (
            {"cpu/sampler": None, "platforms": ["cuda", "tpu"]},
            "is for cuda, tpu, and this process runs on cpu",
        ),
        (
            dict(calling_convention=3),
            "written by jax .* calling convention 3, jax .* reads .*: write it anew",
        ),
        (dict(calling_convention=99), "calling convention 99"),
        ({"cpu/sampler": b"nothing"}, "does not read its program"),
        ({"header.json": b"{"}, "no exported sampler, or damaged"),
    ],
)
def test_files_that_do_not_fit(opened, written, tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        exported.load(changed(written, tmp_path / "x", **entries), opened)


def test_the_jax_that_wrote_a_file_is_said_where_another_one_cannot_run_it(
    opened, written, tmp_path, monkeypatch
):
    other = changed(written, tmp_path / "newer", jax="99.1.0")
    monkeypatch.setattr(jax, "jit", lambda fn, **_: failing)
    for path, said in (
        (other, "written by jax 99.1.0, and jax .* does not run its program.*: no such op"),
        (written, "^no such op$"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=said):
            exported.load(path, opened).sample(PROMPTS[:1], [5])


def failing(*args):
    raise RuntimeError("no such op")


def test_what_is_no_exported_sampler(opened, tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        exported.load(tmp_path / "none", opened)
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="no exported sampler, or damaged"):
        exported.load(tmp_path / "text", opened)


def test_another_model(opened, written):
    schedule = dict(CONFIG["schedule"], beta_end=0.02)
    with pytest.raises(
        ValueError, match="of another model than the checkpoint: schedule of its config differ"
    ):
        exported.load(written, opened._replace(config=dict(CONFIG, schedule=schedule)))
    params = dict(opened.params, unet=dict(opened.params["unet"], conv_in={"bias": np.zeros(3)}))
    with pytest.raises(
        ValueError, match="2 parameters of the checkpoint do not fit .*sampler.ldm: .*conv_in"
    ):
        exported.load(written, opened._replace(params=params))


def test_what_cannot_be_written(opened, tmp_path):
    model = pipeline.from_bundle(opened)
    with pytest.raises(ValueError, match="platform 'gpu' not found; there are: cpu, cuda, tpu, rocm"):
        exported.write(model, tmp_path / "x", platforms=["gpu"], num_steps=2)
    with pytest.raises(ValueError, match="num_steps: got 0"):
        exported.write(model, tmp_path / "x", num_steps=0)
    with pytest.raises(ValueError, match="has no config"):
        exported.write(pipeline.LatentDiffusion(model.system, model.params, 1.0), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_writes_and_draws(opened, written, tmp_path, capsys):
    bundle.save(tmp_path / "model", opened)
    file, out = tmp_path / "sampler.ldm", tmp_path / "out"
    common = ["--checkpoint", str(tmp_path / "model")]
    exported.main([*common, "--out", str(file), "--steps", "3", "--eta", "0.5", "--platforms", "cpu"])
    assert f"{file}, " in capsys.readouterr().out
    drawing = ["--draw", str(file), "--prompt", "blue", "--seeds", "3,7"]
    exported.main([*common, *drawing, "--out", str(out)])
    assert sorted(p.name for p in out.iterdir()) == ["3.png", "7.png", "grid.png"]
