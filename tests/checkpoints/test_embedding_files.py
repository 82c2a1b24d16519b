"""Files of textual inversion: what other programs write is read, what is written they read, and both draw the same."""

import numpy as np
import pytest

from ldm_jax.checkpoints import adapters
from ldm_jax.convert import files
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from tests.checkpoints.test_lora_files import Model, drawn_by_ours, drawn_by_theirs
from tests.inference.test_pipeline_parity import our_latents

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)
ONE, TWO, WIDE = (RNG.normal(size=size).astype(np.float32) for size in ((64,), (2, 64), (3, 768)))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return Model("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return Model("sdxl", tmp_path_factory.mktemp("sdxl"))


def tensors(value):
    return {k: tensors(v) if isinstance(v, dict) else torch.tensor(v) if isinstance(v, np.ndarray) else v
            for k, v in value.items()}  # fmt: skip


A1111 = dict(string_to_token={"*": 265}, string_to_param={"*": TWO}, name="x", step=10, sd_checkpoint=None)
FILES = {
    "learned_embeds.safetensors": ({"<it>": ONE}, "<it>", ONE[None]),
    "learned_embeds.bin": ({"<it>": TWO}, "<it>", TWO),
    "my word.pt": (A1111, "my word", TWO),
    "zork.safetensors": ({"emb_params": TWO}, "zork", TWO),
}


def write(path, content):
    if path.suffix == ".safetensors":
        files.write_safetensors(path, content)
    else:
        torch.save(tensors(content), path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_files_are_read_and_go_out_as_they_came(name, sd1, tmp_path):
    content, token, rows = FILES[name]
    adapter = adapters.read(write(tmp_path / name, content), model=sd1.bundle)
    assert adapter.section == dict(name="textual_inversion", token=token, vectors=len(rows))
    (found,) = flatten(adapter.delta).values()
    np.testing.assert_array_equal(found, rows)
    for out, layout in (
        ("a.safetensors", "diffusers"),
        ("b.pt", "diffusers"),
        (f"{token}.safetensors", "kohya"),
    ):
        adapters.write_file(tmp_path / out, adapter, layout, sd1.bundle)
        again = adapters.read(tmp_path / out, model=sd1.bundle)
        assert again.section == adapter.section
        np.testing.assert_array_equal(next(iter(flatten(again.delta).values())), rows)


def test_pairs_of_two_text_encoders(sdxl, tmp_path):
    pair = {"clip_l": TWO, "clip_g": TWO + 1}
    adapter = adapters.read(write(tmp_path / "zork.safetensors", pair), model=sdxl.bundle)
    assert adapter.section["token"] == "zork"
    adapters.write_file(tmp_path / "learned_embeds.safetensors", adapter, "diffusers", sdxl.bundle)
    assert (tmp_path / "learned_embeds_2.safetensors").is_file()
    for name in ("learned_embeds.safetensors", "zork.safetensors"):
        again = adapters.read(tmp_path / name, model=sdxl.bundle)
        for tower, rows in pair.items():
            table = again.delta["conditioner"]["sdxl"][tower]["token_embed"]["embedding"]
            np.testing.assert_array_equal(table, rows)


@pytest.mark.parametrize(
    "layout, rows", [("diffusers", ONE), pytest.param("kohya", TWO, marks=pytest.mark.slow)]
)
def test_the_same_picture_as_diffusers_with_the_same_file(layout, rows, sd1, tmp_path):
    """python -m pytest -n 0 -m "slow or not slow" tests/checkpoints/test_embedding_files.py"""
    write(tmp_path / "in.safetensors", {"zork": rows * 3})
    adapter = adapters.read(tmp_path / "in.safetensors", model=sd1.bundle)
    file = tmp_path / "zork.safetensors"
    adapters.write_file(file, adapter, layout, sd1.bundle)
    ours, theirs = pipeline.load(sd1.folder / "bundle", adapters=[str(file)]), sd1.theirs()
    theirs.load_textual_inversion(str(file), **({} if layout == "diffusers" else {"token": "zork"}))
    prompt, latents = "a zork circle", our_latents(ours)
    expected = drawn_by_theirs(theirs, latents, prompt)
    assert np.abs(expected - drawn_by_theirs(theirs, latents, "a circle")).max() > 0.02
    assert np.abs(drawn_by_ours(ours, prompt) - expected).max() * 255 <= 2


def test_bad_files(sd1, sdxl, tmp_path):
    for content, model, said in (
        ({"zork": WIDE}, sd1, "768 numbers, as those of Stable Diffusion 1, and this model's have 64"),
        ({"zork": ONE * np.nan}, sd1, "zork has NaN or infinity in it"),
        (
            {"clip_l": ONE, "clip_g": ONE},
            sd1,
            "has vectors for clip_l, clip_g, and this model has one text encoder",
        ),
        ({"zork": ONE}, sdxl, "has no vectors for clip_g"),
        ({"clip_l": ONE, "clip_g": TWO}, sdxl, "expected as many of each"),
    ):
        with pytest.raises(ValueError, match=said):
            adapters.read(write(tmp_path / "bad.safetensors", content), model=model.bundle)
    adapter = adapters.read(write(tmp_path / "x.safetensors", {"zork": ONE}), model=sd1.bundle)
    with pytest.raises(ValueError, match="textual_inversion cannot be written as comfy"):
        adapters.write_file(tmp_path / "y.safetensors", adapter, "comfy", sd1.bundle)
