"""Files of the safetensors format against the safetensors package, and headers that lie."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ldm_jax.convert import safetensors_file
from ldm_jax.convert.files import open_tensors, write_safetensors

DTYPES = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
)


def arrays():
    rng = np.random.default_rng(0)
    found = {name: rng.normal(0, 50, (3, 5)).astype("int8").astype(name) for name in DTYPES}
    return found | {
        "bool": np.array([True, False, True]),
        "bfloat16": np.arange(7).astype(ml_dtypes.bfloat16),
        "scalar": np.float32(2.5),
        "none": np.zeros((0, 4), np.float16),
        "naïve name": np.arange(3, dtype=np.uint8),
    }


def same(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def test_what_the_package_writes_is_read(tmp_path):
    wanted = {name: np.asarray(array) for name, array in arrays().items()}
    save_file(wanted, tmp_path / "m.safetensors", metadata={"a": "b"})
    read = open_tensors(tmp_path / "m.safetensors")
    assert set(read) == set(wanted)
    for name, array in wanted.items():
        assert (read[name].shape, read[name].dtype) == (array.shape, array.dtype)
        same(read[name].read(), array)
    assert safetensors_file.read_metadata(tmp_path / "m.safetensors") == {"a": "b"}


def test_the_package_reads_what_is_written(tmp_path):
    write_safetensors(tmp_path / "m.safetensors", arrays())
    with safe_open(tmp_path / "m.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(arrays())
        for name, array in arrays().items():
            same(file.get_tensor(name), np.asarray(array))
    for tensor in open_tensors(tmp_path / "m.safetensors").values():
        assert tensor.read().flags.aligned
    write_safetensors(
        tmp_path / "again.safetensors", open_tensors(tmp_path / "m.safetensors"), metadata={"k": "v"}
    )
    with safe_open(tmp_path / "again.safetensors", "numpy") as file:
        assert file.metadata() == {"k": "v"}
        for name, array in arrays().items():
            same(file.get_tensor(name), np.asarray(array))


def test_torch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    write_safetensors(tmp_path / "m.safetensors", arrays(), dtype="bfloat16")
    read = load_file(tmp_path / "m.safetensors")
    assert read["float32"].dtype == read["float64"].dtype == torch.bfloat16
    assert read["int64"].dtype == torch.int64 and read["bool"].dtype == torch.bool
    assert torch.equal(read["float32"], torch.from_numpy(arrays()["float32"]).bfloat16())


def test_a_transposed_array_is_written_in_its_own_order(tmp_path):
    for shape in ((3, 5), (300, 1000), (3, 3, 170, 200)):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        turned = array.transpose(range(array.ndim)[::-1])
        write_safetensors(
            tmp_path / "m.safetensors", {"a": turned, "strided": array.reshape(-1)[::2]}, dtype="float64"
        )
        read = open_tensors(tmp_path / "m.safetensors")
        same(read["a"].read(), turned.astype(np.float64))
        same(read["strided"].read(), array.reshape(-1)[::2].astype(np.float64))


def test_numbers_that_a_dtype_cannot_hold_are_named(tmp_path):
    for array in (np.full((2, 2), 1e6, np.float32), np.full((700, 600), 1e6, np.float32).T):
        with pytest.raises(ValueError, match="big cannot be stored as float16.*beyond the range"):
            write_safetensors(tmp_path / "m.safetensors", {"big": array}, dtype="float16")
    write_safetensors(
        tmp_path / "m.safetensors", {"inf": np.float32([np.inf, 1e-9])}, dtype="float16"
    )  # as they were


def test_progress_says_bytes_of_all(tmp_path):
    said = []
    tensors = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.int64)}
    write_safetensors(tmp_path / "m", tensors, dtype="float16", progress=lambda *step: said.append(step))
    assert said == [("b", 16, 22), ("a", 22, 22)]


def damaged(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin, end, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header, size, message",
    [
        ({"a": entry(0, 8), "b": entry(8, 16)}, 12, r"truncated: got \d+ bytes"),
        ({"a": entry(0, 8)}, 12, "has more in it"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "b begins at byte 12 of the data, expected 8"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "b begins at byte 4 of the data, expected 8"),
        ({"a": entry(0, 12)}, 12, r"a \(2,\) float32 needs 8 bytes, got 12"),
        ({"a": entry(8, 0)}, 8, "needs 8 bytes, got -8"),
        ({"a": entry(0, 8, shape=(2**40, 2**40))}, 8, "needs"),
        ({"a": entry(0, 8, "F6")}, 8, "a has dtype 'F6', expected one of F64"),
        ({"a": entry(0, 8, ["F32"])}, 8, "has dtype"),
        ({"a": entry(0, 8, shape=(-2,))}, 8, "expected dtype, shape and two data_offsets"),
        ({"a": entry(0, 8, shape=(2.0,))}, 8, "expected dtype, shape and two data_offsets"),
        ({"a": entry(True, 8)}, 8, "expected dtype, shape and two data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, "expected dtype, shape and two data_offsets"),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, 8, "expected dtype, shape"),
        ({"a": 3}, 8, "expected dtype, shape and two data_offsets"),
        (b'{"a": {}, "a": {}}', 0, "damaged safetensors header: a name stands in it twice"),
        (b'{"a": ', 0, "damaged safetensors header"),
        (b'{"\xff": 1}', 0, "damaged safetensors header"),
        (b'{"a":' * 100000, 0, "damaged safetensors header"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, size, message):
    with pytest.raises(ValueError, match=message) as error:
        open_tensors(damaged(tmp_path / "m.safetensors", header, bytes(size)))
    assert len(str(error.value).splitlines()) == 1


def test_lengths_beyond_the_file_and_beyond_reason(tmp_path):
    with pytest.raises(ValueError, match="truncated.*its header alone says 1008"):
        open_tensors(damaged(tmp_path / "m.safetensors", b"{}", length=1000))
    with pytest.raises(ValueError, match="expected an object"):
        safetensors_file.read(damaged(tmp_path / "m.safetensors", b"[]"))
    with open(damaged(tmp_path / "m.safetensors", b"{}", length=200_000_000), "ab") as file:
        file.truncate(200_000_100)
    with pytest.raises(ValueError, match="200000000 bytes long, expected at most"):
        open_tensors(tmp_path / "m.safetensors")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    save_file({"a": np.zeros(5, np.float32)}, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for length in range(1, len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            open_tensors(tmp_path / "cut.safetensors")


def test_what_the_format_does_not_have_is_not_written(tmp_path):
    for name, array in (
        ("c", np.zeros(2, np.complex128)),
        ("__metadata__", np.zeros(2)),
        ("t", np.array(["a"])),
    ):
        with pytest.raises(ValueError, match=f"tensor {name} is"):
            write_safetensors(tmp_path / "m.safetensors", {name: array})
    assert not list(tmp_path.iterdir())
