"""Opening by content, folders and shards, writing that leaves nothing half done, and the memory it takes."""

import json
import os
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldm_jax.convert import state_dict
from ldm_jax.convert.files import find_weights, open_tensors, replacing, write_ckpt, write_safetensors
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten

ROOT = pathlib.Path(__file__).resolve().parents[2]
ONE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (bytes(4096), "nothing but zeros"),
        (b"\n <!DOCTYPE html><html>", "is a web page"),
        (b"<html><body>404", "is a web page"),
        (b"\xef\xbb\xbf<HTML>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b'{"error":"Invalid credentials"}', "error message of a server"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"hello", "is no checkpoint: it begins with b'hello'"),
        (b"\x89PNG\r\n\x1a\n", "is no checkpoint"),
        (bytes(257) + b"ustar", "tar archive"),
        (b"PK\x03\x04" + bytes(50), "truncated or damaged"),
    ],
)
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_what_is_mistaken_for_a_checkpoint_is_called_by_its_name(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    if name.endswith("s") and message.startswith("is no checkpoint") and len(content) < 9:
        message = "is truncated, or no .safetensors file"
    with pytest.raises(ValueError, match=message) as error:
        open_tensors(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1 and name in str(error.value)


def test_content_decides_and_not_the_suffix(tmp_path):
    write_ckpt(tmp_path / "a.safetensors", ONE)
    write_safetensors(tmp_path / "b.ckpt", ONE)
    for name in ("a.safetensors", "b.ckpt"):
        np.testing.assert_array_equal(open_tensors(tmp_path / name)["w"].read(), ONE["w"])


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="nowhere.ckpt is not there"):
        open_tensors(tmp_path / "nowhere.ckpt")
    with pytest.raises(ValueError, match="is not there"):
        find_weights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "names, variant, found",
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], None, "model.safetensors"),
        (["pytorch_model.bin"], None, "pytorch_model.bin"),
        (
            ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
            None,
            "diffusion_pytorch_model.safetensors",
        ),
        (
            ["model.safetensors", "model.fp16.safetensors", "pytorch_model.fp16.bin"],
            "fp16",
            "model.fp16.safetensors",
        ),
        (["pytorch_model.bin", "model.fp16.safetensors"], None, "pytorch_model.bin"),
        (["model.fp16.safetensors", "pytorch_model.fp16.bin"], None, "model.fp16.safetensors"),
        (
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors"],
            None,
            "model.safetensors.index.json",
        ),
        (["pytorch_model.bin", "model.safetensors.index.json"], None, "model.safetensors.index.json"),
        (
            ["model.safetensors.index.fp16.json", "pytorch_model.bin"],
            "fp16",
            "model.safetensors.index.fp16.json",
        ),
        (
            ["model.fp16.safetensors.index.json", "pytorch_model.bin"],
            "fp16",
            "model.fp16.safetensors.index.json",
        ),
        (["model.fp16-00001-of-00002.safetensors", "model.safetensors"], None, "model.safetensors"),
        (["v1-5-pruned.ckpt", "v1-inference.yaml"], None, "v1-5-pruned.ckpt"),
    ],
)
def test_the_weights_of_a_folder(tmp_path, names, variant, found):
    for name in names:
        (tmp_path / name).touch()
    assert find_weights(tmp_path, variant) == tmp_path / found


@pytest.mark.parametrize(
    "names, variant, message",
    [
        ([], None, "has no weights in it.*it has nothing"),
        (["readme.md"], None, "has no weights in it.*readme.md"),
        (["a.ckpt", "b.ckpt"], None, "several files of weights.*a.ckpt, b.ckpt"),
        (["model.fp16.safetensors", "model.ema.safetensors"], None, "several files.*model.ema.safetensors"),
        (["model.safetensors"], "fp16", "no weights of variant 'fp16'; it has model.safetensors"),
        (["model-00001-of-00002.safetensors"], None, "shards of weights, but not their index"),
        (["model_index.json", "unet/"], None, "diffusers pipeline, expected one of its parts: unet"),
    ],
)
def test_a_folder_without_clear_weights(tmp_path, names, variant, message):
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        open_tensors(tmp_path, variant)


def sharded(folder, suffix="safetensors"):
    parts = [{"a": np.zeros(2, np.float32), "b": np.ones((2, 2), np.float16)}, {"c": np.arange(3)}]
    names = [f"model-0000{i + 1}-of-00002.{suffix}" for i in range(2)]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name) if suffix == "safetensors" else write_ckpt(
            folder / name, part, wrapped=False
        )
    placed = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = folder / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": placed}))
    return index, parts[0] | parts[1]


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_one_state_dict(tmp_path, suffix):
    index, wanted = sharded(tmp_path, suffix)
    for path in (index, tmp_path):
        read = open_tensors(path)
        assert list(read) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(read[name].read(), array)


def test_what_transformers_shards_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.CLIPTextModel(config)
    model.save_pretrained(tmp_path, max_shard_size="2KB", variant="fp16")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    read = open_tensors(tmp_path)
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(read[name].read(), tensor.numpy())


def test_names_are_those_of_the_bare_module(tmp_path):
    one = np.ones(1, np.float32)
    write_safetensors(
        tmp_path / "m.safetensors", {"_orig_mod.a": one, "b._orig_mod.c": one, "d_orig_mod": one}
    )
    assert set(open_tensors(tmp_path / "m.safetensors")) == {"a", "b.c", "d_orig_mod"}
    placed = {"weight_map": {"_orig_mod.a": "m.safetensors"}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(placed))
    assert "a" in open_tensors(tmp_path / "m.safetensors.index.json")
    write_safetensors(tmp_path / "m.safetensors", {"_orig_mod.a": one, "a": one})
    with pytest.raises(ValueError, match="both bare and wrapped by torch.compile"):
        open_tensors(tmp_path / "m.safetensors")


def test_shards_that_are_not_whole(tmp_path):
    index, _ = sharded(tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(ValueError, match="lacks 1 of 2 shards: model-00002-of-00002.safetensors"):
        open_tensors(tmp_path)
    second.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors is truncated"):
        open_tensors(tmp_path)
    save_file({"d": np.zeros(1)}, second)
    with pytest.raises(ValueError, match="names tensors that its shards do not have: c"):
        open_tensors(tmp_path)
    save_file({"a": np.zeros(1), "c": np.zeros(1)}, second)
    with pytest.raises(ValueError, match="has tensors that another shard has: a"):
        open_tensors(tmp_path)
    for text in ("{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'):
        index.write_text(text)
        with pytest.raises(ValueError, match="is no index of shards"):
            open_tensors(index)
    index.write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(ValueError, match="names '../model.safetensors', expected files of its own folder"):
        open_tensors(index)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "m.safetensors"
    with replacing(path) as partial:
        partial.write_text("one")
        assert not path.exists() and partial.parent == path.parent
    assert path.read_text() == "one"
    with pytest.raises(ValueError, match="exists.*--overwrite"), replacing(path):
        raise AssertionError("the block must not run")
    with replacing(path, overwrite=True) as partial:
        partial.write_text("two")
        assert path.read_text() == "one"
    with pytest.raises(KeyboardInterrupt), replacing(path, overwrite=True) as partial:
        partial.write_text("three")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="nothing was written"), replacing(path, overwrite=True):
        pass
    assert path.read_text() == "two" and os.listdir(path.parent) == [path.name]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    for text in ("one", "two"):
        with replacing(path, overwrite=text == "two") as partial:
            partial.mkdir()
            (partial / "config.json").write_text(text)
            (partial / ("tokenizer.json" if text == "two" else "model.safetensors")).touch()
    assert sorted(os.listdir(path)) == ["config.json", "tokenizer.json"] and os.listdir(tmp_path) == ["model"]
    with pytest.raises(OSError), replacing(path, overwrite=True) as partial:
        partial.mkdir()
        (partial / "config.json").write_text("three")
        raise OSError("disk full")
    assert (path / "config.json").read_text() == "two" and os.listdir(tmp_path) == ["model"]
    with replacing(path, overwrite=True) as partial:  # a file for a folder
        partial.write_text("file")
    assert path.read_text() == "file"
    with replacing(path, overwrite=True) as partial:  # and a folder for a file
        partial.mkdir()
    assert path.is_dir() and os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "inside", [["letters"], ["a.safetensors", "b.ckpt"], ["config.json", "notes.txt"], ["unet"]]
)
def test_a_folder_of_anything_beside_one_model_is_never_overwritten(tmp_path, inside):
    for name in inside:
        (tmp_path / "home" / name).mkdir(parents=True)
    with (
        pytest.raises(
            ValueError, match="holds anything beside one model written here, so it is not overwritten"
        ),
        replacing(tmp_path / "home", overwrite=True),
    ):
        raise AssertionError("the block must not run")
    assert sorted(os.listdir(tmp_path / "home")) == sorted(inside)


@pytest.mark.parametrize("write", [write_safetensors, write_ckpt])
def test_the_old_file_outlives_a_writing_that_fails(tmp_path, write):
    def fails():
        raise OSError("the source is gone")

    write(tmp_path / "m", ONE)
    old = (tmp_path / "m").read_bytes()
    with pytest.raises(OSError):
        write(tmp_path / "m", ONE | {"z": Tensor((2,), np.dtype("float32"), fails)})
    assert (tmp_path / "m").read_bytes() == old and os.listdir(tmp_path) == ["m"]


def test_a_file_may_be_written_over_itself(tmp_path):
    write_safetensors(tmp_path / "m", {"w": np.arange(10.0)})
    write_safetensors(tmp_path / "m", open_tensors(tmp_path / "m"), dtype="float16")
    np.testing.assert_array_equal(open_tensors(tmp_path / "m")["w"].read(), np.arange(10, dtype=np.float16))


COUNT, SIDE = 8, 1448  # eight tensors of 8 MB


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.ckpt"
    row = np.arange(SIDE, dtype=np.float32)
    tensor = Tensor((SIDE, SIDE), row.dtype, lambda: np.add.outer(row, row))
    write_ckpt(path, {f"{i}.weight": tensor for i in range(COUNT)})
    assert path.stat().st_size > 64e6
    return path


@pytest.mark.parametrize(
    "dtype, turned, most", [(None, False, 0.1), ("float16", False, 0.6), (None, True, 1.1)]
)
@pytest.mark.parametrize("write", [write_safetensors, write_ckpt])
def test_one_tensor_at_a_time_is_in_memory(large, tmp_path, write, dtype, turned, most):
    tracemalloc.start()
    tensors = open_tensors(large)
    if turned:  # written in our layout, as in a bundle
        entries = [((str(i), "kernel"), f"{i}.weight", "linear") for i in range(COUNT)]
        template = {str(i): {"kernel": np.broadcast_to(np.float32(0), (SIDE, SIDE))} for i in range(COUNT)}
        tree = state_dict.lazy_from_torch(tensors, template, entries)
        tensors = {"/".join(path): tensor for path, tensor in flatten(tree).items()}
    write(tmp_path / "out", tensors, dtype=dtype)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * SIDE * SIDE * 4 + 1e6
    assert (tmp_path / "out").stat().st_size > COUNT * SIDE * SIDE * (4 if dtype is None else 2)


def test_mapped_pages_do_not_pile_up(large, tmp_path):
    code = (
        "import resource, sys; from ldm_jax.convert.files import open_tensors, write_safetensors\n"
        "write_safetensors(sys.argv[2] + '.small', {'a': open_tensors(sys.argv[1])['0.weight']}, dtype='bfloat16')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_safetensors(sys.argv[2], open_tensors(sys.argv[1]), dtype='bfloat16')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(large), str(tmp_path / "out")]
    grown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(grown) * 1024 < 1.5 * SIDE * SIDE * 4
