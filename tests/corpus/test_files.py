"""Small files that other tools wrote (tests/corpus/files), opened by every reader, are what the tools say of them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import clip, text
from ldm_jax.convert import clip as clip_names
from ldm_jax.convert import files
from ldm_jax.models.clip_text import CLIPTextTransformer

CORPUS = Path(__file__).parent / "files"
EXPECTED = json.loads((CORPUS / "expected.json").read_text(encoding="utf-8"))
READ = [name for name, tensors in EXPECTED.items() if isinstance(tensors, dict)]


def check(tensors, expected):
    """tensors {name: Tensor} are expected {name: [dtype, shape, numbers]}."""
    assert set(tensors) == set(expected)
    for name, (dtype, shape, numbers) in expected.items():
        array = tensors[name].read()
        assert array.dtype.name == dtype and list(array.shape) == shape, name
        if array.dtype.kind == "c":
            array = np.stack([array.real, array.imag], -1)
        array = array.astype(np.float64) if array.dtype.kind not in "iub" else array
        np.testing.assert_array_equal(array, np.reshape(numbers, array.shape), err_msg=name)


def test_every_file_is_expected_to_be_something():
    there = {
        str(p.relative_to(CORPUS)) for folder in ("torch", "safetensors") for p in (CORPUS / folder).iterdir()
    }
    assert there == set(EXPECTED)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("ignore_objects", [False, True])
def test_tensors_are_those_that_the_tool_reads(name, ignore_objects):
    check(files.open_tensors(CORPUS / name, ignore_objects=ignore_objects), EXPECTED[name])


@pytest.mark.parametrize("name", READ)
def test_tensors_are_the_same_after_they_were_written(tmp_path, name):
    tensors = files.open_tensors(CORPUS / name)
    files.write_safetensors(tmp_path / "m.safetensors", tensors)
    check(files.open_tensors(tmp_path / "m.safetensors"), EXPECTED[name])
    if "float8" in name or "numpy" in name:
        with pytest.raises(
            ValueError, match="expected one of float32"
        ):  # torch has no typed storage for them
            files.write_ckpt(tmp_path / "m.ckpt", tensors)
    else:
        files.write_ckpt(tmp_path / "m.ckpt", tensors)
        check(files.open_tensors(tmp_path / "m.ckpt"), EXPECTED[name])


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - set(READ)))
def test_a_dtype_that_is_not_read_is_named(name):
    with pytest.raises(ValueError, match=f"weight has dtype {EXPECTED[name]}, expected"):
        files.open_tensors(CORPUS / name)


@pytest.mark.parametrize("folder, states", [(".", "whole"), ("shards", "whole"), ("variant", "half")])
def test_a_text_encoder_of_transformers_gives_its_hidden_states(folder, states):
    said = json.loads((CORPUS / "text_encoder" / "hidden.json").read_text(encoding="utf-8"))
    tower = CLIPTextTransformer(12, 8, 2, 1, 6, "quick_gelu", 16)
    tokens = jnp.asarray(said["tokens"])
    template = jax.eval_shape(tower.init, jax.random.key(0), tokens)["params"]
    found = files.open_tensors(CORPUS / "text_encoder" / folder)
    params = clip_names.from_torch(found, template)
    hidden = tower.apply({"params": params}, tokens, 0, True).hidden
    np.testing.assert_allclose(hidden, said[states], atol=2e-5)


@pytest.mark.parametrize("folder", ["transformers_4", "transformers_4_fast", "transformers_5"])
def test_prompts_have_the_ids_of_training_whichever_file_they_come_from(folder):
    expected = json.loads((CORPUS / "tokenizers" / "expected.json").read_text(encoding="utf-8"))
    folder = CORPUS / "tokenizers" / folder
    readers = [clip.clip_tokenizer(folder, 40), clip.find_tokenizer(folder, 40)]
    if (folder / "vocab.json").is_file():
        readers.append(clip.clip_tokenizer(folder / "vocab.json", 40))
    for tokenizer in readers:
        tokens = text.tokenize(list(expected), tokenizer)["tokens"]
        for row, (prompt, ids) in zip(tokens, expected.items(), strict=True):
            assert row.tolist() == ids + [0] * (40 - len(ids)), prompt
