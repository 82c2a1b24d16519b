"""Files of torch.save against torch itself, and pickles that want more than tensors."""

import builtins
import collections
import datetime
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from ldm_jax.convert import torch_file, torch_pickle
from ldm_jax.convert.files import open_tensors, write_ckpt

torch = pytest.importorskip("torch")


def state():
    """Tensors of every dtype and layout that a checkpoint may have."""
    f = torch.arange(24.0).reshape(4, 6) - 7.5
    return {
        **{
            str(dtype): f.to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        },
        **{
            str(dtype): f.to(dtype)
            for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.bool)
        },
        "uint8": torch.tensor([0, 200, 255], dtype=torch.uint8),
        "complex": torch.tensor([1 + 2j, 3 - 1j]),
        "transposed": f.T,
        "offset": f[1:, 2:5],
        "step": f[:, ::2],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(f),
        "shared": f,
    }


def same(array, tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        assert array.dtype == ml_dtypes.bfloat16
        array, tensor = array.astype(np.float32), tensor.float()
    assert array.dtype == tensor.numpy().dtype
    np.testing.assert_array_equal(array, tensor.numpy())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_what_torch_saved_is_read(tmp_path, new):
    path = tmp_path / "model.ckpt"
    tensors = state()
    extra = {
        "epoch": 3,
        "size": torch.Size([1, 2]),
        "rate": 1e-4,
        "seen": {1, 2},
        "note": None,
        "opt": [torch.ones(2)],
    }
    lightning = {"state_dict": OrderedDict(tensors), **extra}
    torch.save(lightning, path, _use_new_zipfile_serialization=new)
    read = open_tensors(path)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].shape == tuple(tensor.shape)
        assert read[name].dtype == read[name].read().dtype
        same(read[name].read(), tensor)


def test_a_module_is_read_with_what_torch_hangs_on_its_state(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    torch.save(module.state_dict(), tmp_path / "m.pt")  # an OrderedDict with _metadata
    read = open_tensors(tmp_path / "m.pt")
    for name, tensor in module.state_dict().items():
        same(read[name].read(), tensor)


def test_dtypes_without_a_typed_storage(tmp_path):
    numbers = torch.tensor([[1.5, -2.0], [0.25, 0.0]])
    eights = {"e4": numbers.to(torch.float8_e4m3fn), "e5": numbers.to(torch.float8_e5m2)}
    tensors = {"u": torch.arange(5).to(torch.uint16), **eights, "turned": eights["e5"].T}
    for new in (True, False):
        torch.save(tensors, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
        read = open_tensors(tmp_path / "m.pt")
        np.testing.assert_array_equal(read["u"].read(), np.arange(5, dtype=np.uint16))
        for name in ("e4", "e5", "turned"):
            expected = tensors[name].float().numpy()
            np.testing.assert_array_equal(read[name].read().astype(np.float32), expected)


def quantized():
    axis = dict(scales=torch.ones(4), zero_points=torch.zeros(4), axis=0)
    return torch.quantize_per_channel(torch.ones(4, 2), dtype=torch.qint8, **axis)


@pytest.mark.filterwarnings("ignore")  # torch would have us leave quantized tensors
@pytest.mark.parametrize("ignore_objects", [False, True])
@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: torch.ones(2).to(torch.float8_e8m0fnu), "dtype float8_e8m0fnu"),
        (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "dtype float4_e2m1fn_x2"),
        (lambda: torch.ones(2, dtype=torch.complex32), "dtype complex32"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "dtype quint8"),
        (quantized, "dtype qint8"),
    ],
)
def test_a_dtype_that_is_not_read_is_named_and_matters_in_the_state_dict_alone(
    tmp_path, make, said, ignore_objects
):
    torch.save({"state_dict": {"w": torch.ones(1), "x": make()}}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=f"m.pt: tensor x has {said}, expected .*float8_e5m2"):
        open_tensors(tmp_path / "m.pt", ignore_objects=ignore_objects)
    torch.save({"state_dict": {"w": torch.ones(1)}, "optimizer": make()}, tmp_path / "m.pt")
    assert list(open_tensors(tmp_path / "m.pt", ignore_objects=ignore_objects)) == ["w"]


def test_a_tensor_of_another_form_is_not_passed_over_with_the_objects(tmp_path):
    torch.save({"w": torch.ones(1), "x": torch.eye(2).to_sparse()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"names torch\._utils\._rebuild_sparse_tensor"):
        open_tensors(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="tensor x is one of .*_rebuild_sparse_tensor"):
        open_tensors(tmp_path / "m.pt", ignore_objects=True)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_attributes_and_subclasses_of_tensors_are_let_go(tmp_path, new):
    tensors = {
        "parameter": torch.nn.Parameter(torch.arange(3.0)),
        "buffer": torch.nn.Buffer(torch.arange(4.0)),
        "tensor": torch.arange(5.0),
        "eight": torch.arange(6.0).to(torch.float8_e5m2),
    }
    for tensor in tensors.values():
        tensor.tag = "mine"
    torch.save(tensors, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    if new:  # torch itself has no way back for a float8 of the old layout
        assert list(torch.load(tmp_path / "m.pt", weights_only=True)) == list(tensors)
    for ignore_objects in (False, True):
        read = open_tensors(tmp_path / "m.pt", ignore_objects=ignore_objects)
        for name, tensor in tensors.items():
            same(read[name].read().astype(np.float32), tensor.float())


def test_what_torch_put_off_doing_to_numbers_is_done(tmp_path):
    z = torch.tensor([1 + 2j, 3 - 1j])
    for tensor in (z.conj(), z.conj().imag, torch._neg_view(torch.arange(3.0)), torch._neg_view(z.conj())):
        assert tensor.is_conj() or tensor.is_neg()
        for new in (True, False):
            torch.save({"x": tensor}, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
            same(open_tensors(tmp_path / "m.pt")["x"].read(), tensor.resolve_conj().resolve_neg())


def test_a_file_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "m.pt") as archive, pytest.raises(zipfile.BadZipFile):
        archive.read("m/data.pkl")
    for name, tensor in open_tensors(tmp_path / "m.pt").items():
        same(tensor.read(), state()[name])
    whole = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(whole.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_vX", 1))
    with pytest.raises(ValueError, match="names torch._utils._rebuild_tensor_vX"):
        open_tensors(tmp_path / "m.pt")


def test_names_of_nested_dicts_are_joined_and_a_state_dict_is_taken_out(tmp_path):
    one = torch.ones(1)
    torch.save({"model": {"a": one, "b": {0: one}}, "step": 3}, tmp_path / "nested.pt")
    assert list(open_tensors(tmp_path / "nested.pt")) == ["model.a", "model.b.0"]
    torch.save({"state_dict": {"a": one}, "ema": {"a": one}}, tmp_path / "wrapped.pt")
    assert list(open_tensors(tmp_path / "wrapped.pt")) == ["a"]
    for thing in (one, {"step": 3}, [one]):
        torch.save(thing, tmp_path / "none.pt")
        with pytest.raises(ValueError, match="no tensors under names"):
            open_tensors(tmp_path / "none.pt")


def test_a_packed_zip_is_read(tmp_path):
    torch.save(state(), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(tmp_path / "packed.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    for name, tensor in open_tensors(tmp_path / "packed.pt").items():
        same(tensor.read(), state()[name])


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    torch.save({"a": torch.arange(64.0)}, tmp_path / "m.pt")
    tensor = open_tensors(tmp_path / "m.pt")["a"]
    content = (tmp_path / "m.pt").read_bytes()
    numbers = torch.arange(64.0).numpy().tobytes()
    assert content.count(numbers) == 1
    (tmp_path / "m.pt").write_bytes(content.replace(numbers, np.ones(64, np.float32).tobytes()))
    np.testing.assert_array_equal(tensor.read(), np.ones(64))


@pytest.mark.parametrize("wrapped", [True, False])
def test_torch_reads_what_is_written(tmp_path, wrapped):
    torch.save(state(), tmp_path / "m.pt")
    write_ckpt(tmp_path / "out.ckpt", open_tensors(tmp_path / "m.pt"), wrapped=wrapped)
    for mmap in (False, True):
        read = torch.load(tmp_path / "out.ckpt", weights_only=True, mmap=mmap)
        read = read["state_dict"] if wrapped else read
        assert list(read) == list(state())
        for name, tensor in state().items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor.detach()), name
            assert read[name].is_contiguous()


def test_large_shapes_and_many_tensors_are_written(tmp_path):
    arrays = {
        f"layer.{i}.weight": np.full((1, 70000 if i == 3 else 300, 2), i, np.float32) for i in range(400)
    }
    write_ckpt(tmp_path / "m.ckpt", arrays)
    read = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    assert all(np.array_equal(read[name].numpy(), array) for name, array in arrays.items())


def test_a_cast_touches_floating_point_alone(tmp_path):
    arrays = {"f": np.float32([1, 2]), "h": np.float16([3]), "i": np.int64([5]), "b": np.array([True])}
    write_ckpt(tmp_path / "m.ckpt", arrays, dtype="bfloat16")
    read = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    assert [t.dtype for t in read.values()] == [torch.bfloat16, torch.bfloat16, torch.int64, torch.bool]
    assert read["f"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="got 'int8'"):
        write_ckpt(tmp_path / "m.ckpt", arrays, dtype="int8")
    with pytest.raises(ValueError, match="x is uint32"):
        write_ckpt(tmp_path / "m.ckpt", {"x": np.zeros(1, np.uint32)})


class Runs:
    """A pickle of it runs a command when pickle reads it."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
def test_a_pickle_that_names_anything_else_is_refused_and_nothing_runs(tmp_path, protocol, how):
    path, mark = tmp_path / "model.ckpt", tmp_path / "ran"
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), f"{os.system.__module__}.system"),
        (builtins.open, (str(mark), "w"), "io.open"),
        (builtins.exec, (f"open({str(mark)!r}, 'w')",), "(builtins|__builtin__).exec"),
    ):
        thing = {
            "state_dict": {"w": torch.ones(1) if how == "zip" else 1},
            "more": Runs(function, *arguments),
        }
        if how == "zip":
            torch.save(thing, path, pickle_protocol=max(2, protocol))
        elif how == "legacy":
            pickles = (torch_file.LEGACY_MAGIC, 1001, {"little_endian": True}, thing, [])
            path.write_bytes(b"".join(pickle.dumps(p, protocol=max(2, protocol)) for p in pickles))
        else:
            path.write_bytes(pickle.dumps(thing, protocol=protocol))
        with pytest.raises(
            ValueError, match=f"model.ckpt.*names {name},.*nothing of it was run.*--ignore_objects"
        ):
            open_tensors(path)
        assert not mark.exists()
        if how == "zip":  # asked to, the tensors are read, and still nothing runs
            assert list(open_tensors(path, ignore_objects=True)) == ["w"]
            assert not mark.exists()
        with io.BytesIO(pickle.dumps(thing["more"])) as file:  # the pickle is a live one
            pickle.load(file)
        assert mark.exists()
        mark.unlink()


def test_lightning_callbacks_and_numpy_scalars_are_named(tmp_path):
    for thing, name in (
        (np.float64(3), r"numpy\._?core\.multiarray\.scalar"),
        (torch.nn.Linear, r"torch\.nn\.modules\.linear\.Linear"),
        (np.ones(2), r"numpy\._?core\.multiarray\._reconstruct"),
    ):
        torch.save({"state_dict": {"w": torch.ones(1)}, "callbacks": thing}, tmp_path / "m.ckpt")
        with pytest.raises(ValueError, match=f"names {name}"):
            open_tensors(tmp_path / "m.ckpt")
        assert open_tensors(tmp_path / "m.ckpt", ignore_objects=True)["w"].read().tolist() == [1.0]


def test_objects_of_every_kind_are_passed_over_when_asked(tmp_path):
    class_as_key = {
        torch.nn.Linear: {"best": torch.ones(2)}
    }  # as the callbacks of old Lightning files are kept
    things = [
        torch.nn.Linear(2, 2),
        collections.Counter("aab"),
        collections.deque([1, 2]),
        datetime.date(2022, 8, 22),
    ]
    torch.save(
        {"state_dict": {"w": torch.ones(3)}, "callbacks": class_as_key, "hparams": things},
        tmp_path / "m.ckpt",
    )
    assert list(open_tensors(tmp_path / "m.ckpt", ignore_objects=True)) == ["w"]
    (tmp_path / "m.index.json").write_text('{"weight_map": {"w": "m.ckpt"}}')  # and where it is a shard
    assert list(open_tensors(tmp_path / "m.index.json", ignore_objects=True)) == ["w"]


def in_zip(path, code, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)


def tensor_code(numel=4, offset=0, shape=(4,), strides=(1,), storage=b"ctorch\nFloatStorage\n"):
    """The pickle {'w': a tensor}, by hand, so that it can lie."""
    numbers = [b"(" + b"".join(b"J" + struct.pack("<i", n) for n in part) + b"t" for part in (shape, strides)]
    code = (
        b"(X\x07\0\0\0storage"
        + storage
        + b"X\x01\0\0\0"
        + b"0X\x03\0\0\0cpuJ"
        + struct.pack("<i", numel)
        + b"tQ"
    )
    code = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + code + b"J" + struct.pack("<i", offset) + b"".join(numbers)
    )
    return b"\x80\x02}X\x01\0\0\0w" + code + b"\x89}tRs."


def test_a_pickle_cannot_change_what_stands_in_for_torch(tmp_path):
    before = dict(torch_pickle._GLOBALS)
    for target in (b"ctorch\nSize\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        for assigned in (
            b"}X\x04\0\0\0makeK\x01s",
            b"N}X\x04\0\0\0makeK\x01s\x86",
        ):  # __dict__, and attributes
            in_zip(tmp_path / "m.pt", b"\x80\x02" + target + assigned + b"b.")
            with pytest.raises(ValueError, match="damaged"):
                open_tensors(tmp_path / "m.pt")
    assert before == torch_pickle._GLOBALS
    torch.save(state(), tmp_path / "m.pt")
    same(open_tensors(tmp_path / "m.pt")["shared"].read(), state()["shared"])


@pytest.mark.parametrize("make", [b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"ctorch\nTensor\n"])
def test_a_tensor_of_a_type_is_made_by_what_makes_tensors_alone(tmp_path, make):
    code = (
        b"\x80\x02}X\x01\0\0\0wctorch._tensor\n_rebuild_from_type_v2\n(" + make + b"ctorch\nTensor\n(t}tRs."
    )
    in_zip(tmp_path / "m.pt", code)
    with pytest.raises(ValueError, match="damaged.*a tensor is made by"):
        open_tensors(tmp_path / "m.pt")


def test_a_tensor_by_hand_is_one(tmp_path):
    in_zip(tmp_path / "m.pt", tensor_code(), [("0", np.arange(4, dtype=np.float32).tobytes())])
    np.testing.assert_array_equal(open_tensors(tmp_path / "m.pt")["w"].read(), np.arange(4))


@pytest.mark.parametrize(
    "lie, message",
    [
        ({"shape": (5,)}, r"w \(5,\) reaches beyond"),
        ({"offset": 1}, "reaches beyond"),
        ({"strides": (2,)}, "reaches beyond"),
        ({"numel": 400, "shape": (400,)}, "reaches beyond"),
        ({"offset": -1}, "offset -1"),
        ({"strides": (-1,)}, r"strides \(-1,\)"),
        ({"shape": (2, 2)}, r"shape \(2, 2\), strides \(1,\)"),
        ({"numel": -4}, "storage 0 has -4 numbers"),
        ({"storage": b"ctorch\nSize\n"}, "damaged"),
    ],
)
def test_a_tensor_that_lies_about_its_numbers_is_refused(tmp_path, lie, message):
    in_zip(tmp_path / "m.pt", tensor_code(**lie), [("0", bytes(16))])
    with pytest.raises(ValueError, match=message):
        open_tensors(tmp_path / "m.pt")


def test_a_storage_that_is_not_there_and_dicts_without_end(tmp_path):
    in_zip(tmp_path / "m.pt", tensor_code())
    with pytest.raises(ValueError, match="storage 0 of tensor w is not in it"):
        open_tensors(tmp_path / "m.pt")
    endless = {}
    endless["again"] = endless
    in_zip(tmp_path / "m.pt", pickle.dumps(endless))
    with pytest.raises(ValueError, match="without end"):
        open_tensors(tmp_path / "m.pt")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_refused(tmp_path, new):
    torch.save(
        {"a": torch.ones(100), "b": torch.ones(7)}, tmp_path / "m.pt", _use_new_zipfile_serialization=new
    )
    whole = (tmp_path / "m.pt").read_bytes()
    for length in [*range(4, len(whole), 23), len(whole) - 1]:
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated"):
            open_tensors(tmp_path / "cut.pt")


def test_other_zips_and_pickles_are_no_checkpoints(tmp_path):
    np.savez(tmp_path / "m.pt.npz", a=np.ones(1))
    with pytest.raises(ValueError, match="without the one data.pkl"):
        open_tensors(tmp_path / "m.pt.npz")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="none that torch.save wrote"):
        open_tensors(tmp_path / "m.pkl")
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/byteorder", b"big")
    with pytest.raises(ValueError, match="big-endian"):
        open_tensors(tmp_path / "big.pt")


def zipped(path, pickled: bytes, storages: dict[str, bytes], how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in storages.items():
            archive.writestr(f"archive/data/{name}", content)


def test_of_a_compressed_storage_no_more_is_unpacked_than_is_declared(tmp_path):
    torch.save({"a": torch.arange(4.0), "b": torch.ones(6)[2:4]}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as archive:
        pickled = archive.read("plain/data.pkl")
        contents = {name: archive.read(f"plain/data/{name}") for name in ("0", "1")}
    zipped(tmp_path / "packed.ckpt", pickled, contents)
    same(open_tensors(tmp_path / "packed.ckpt")["b"].read(), torch.ones(2))
    zipped(tmp_path / "more.ckpt", pickled, contents | {"1": bytes(2**24)})
    assert (tmp_path / "more.ckpt").stat().st_size < 2**16
    with pytest.raises(
        ValueError, match="more.ckpt is damaged: storage 1 of tensor b .*16777216 bytes, expected 24"
    ):
        open_tensors(tmp_path / "more.ckpt")
    unpacked = torch_file._unpacked(tmp_path / "packed.ckpt", "archive/data/0", 4, 8)
    assert unpacked == np.array([1, 2], np.float32).tobytes()
    zipped(tmp_path / "pickle.ckpt", pickled + bytes(2**27), contents)
    with pytest.raises(ValueError, match="pickle.ckpt: archive/data.pkl has .* bytes, expected at most"):
        open_tensors(tmp_path / "pickle.ckpt")


def test_a_tensor_that_repeats_its_few_numbers_is_read_up_to_a_size(tmp_path):
    torch.save({"a": torch.ones(1).expand(1000, 1000)}, tmp_path / "a.ckpt")
    assert open_tensors(tmp_path / "a.ckpt")["a"].read().shape == (1000, 1000)
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="b.ckpt is damaged: tensor a .* has 1 numbers in the file"):
        open_tensors(tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    "code, said",
    [
        (b"}r\xff\xff\xff\x7f.", "numbers an object 2147483647"),
        (b"}p99999999\n.", "numbers an object 99999999"),
        (b")" + b"\x85" * 2000 + b".", "nested deeper than 1000"),
        (b"]" + b"q\0]h\0a" * 2 + b".", "no tensors"),
    ],
    ids=["a large number", "a large number in letters", "deep", "not deep"],
)
def test_a_pickle_that_would_need_more_than_it_says_is_refused_before_it_is_read(tmp_path, code, said):
    zipped(tmp_path / "a.ckpt", b"\x80\x02" + code, {})
    with pytest.raises(ValueError, match=f"a.ckpt.*{said}"):
        open_tensors(tmp_path / "a.ckpt")


def test_dicts_that_stand_in_many_places_are_counted_in_each(tmp_path):
    many = {"a": 1}
    for _ in range(30):
        many = {"a": many, "b": many}
    zipped(tmp_path / "a.ckpt", pickle.dumps({"x": many}, protocol=2), {})
    with pytest.raises(ValueError, match="a.ckpt has more than 1000000 names"):
        open_tensors(tmp_path / "a.ckpt")
