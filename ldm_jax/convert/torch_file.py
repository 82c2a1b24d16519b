"""Files of torch.save, read and written without torch: the zip of today and the row of pickles before torch
1.6.

Decides where the numbers of a tensor lie in a file, and what is written. What their pickles may say is
torch_pickle.py's business. It does not know what the tensors mean.
Source: the layout that torch/serialization.py (torch 1.6 to 2.13) reads and writes.
"""

import io
import itertools
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ldm_jax import text_files
from ldm_jax.convert.tensor import Tensor, as_bytes, as_tensor, mapped, stored_dtype, to_write
from ldm_jax.convert.torch_pickle import DTYPES, STORAGES, Storage, Unread, View, load

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before torch 1.6
_LONGEST_PICKLE = 2**26  # bytes; that of Stable Diffusion with all that its trainer kept has 2**20
_MOST_REPEATED = 2**28  # numbers of a tensor that has fewer in its file, as torch's `expand` makes them
_MOST_NAMES = 10**6  # of tensors and dicts, where one that stands in several places counts in each
_ALIGNMENT = 64  # of what is written, as torch does, so that mapped arrays need no copy


class _Span(NamedTuple):
    """Where a storage lies: nbytes of the file from `start` on; or, if it is compressed, what unpack(begin, count)
    gives."""

    start: int
    nbytes: int
    unpack: Callable[[int, int], bytes] | None = None


def read_zip(path: str | Path, ignore_objects: bool = False) -> dict[str, Tensor]:
    """The tensors of a file of torch >= 1.6, by their names in the state dict, unread.

    ignore_objects: objects of other classes, such as the callbacks that a trainer kept, are passed over in place of
    being refused; they are not made, and nothing of them is run.

    Raises: ValueError for a zip that is cut short or not torch's, and for a pickle that names any other
    global.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            data = [name for name in archive.namelist() if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
            if len(data) != 1:
                raise ValueError(f"{path} is a zip without the one data.pkl of torch.save, so no checkpoint")
            prefix = data[0].removesuffix("data.pkl")
            size = Path(path).stat().st_size

            def content(name: str) -> bytes:
                info = archive.getinfo(name)
                if info.file_size > _LONGEST_PICKLE:
                    raise ValueError(
                        f"{path}: {name} has {info.file_size} bytes, expected at most {_LONGEST_PICKLE}"
                    )
                if info.CRC or info.compress_type != zipfile.ZIP_STORED:
                    return archive.read(info)
                # torch can leave out the checksums, which zipfile would not forgive
                span = _span(path, file, info, size)
                file.seek(span.start)
                return file.read(span.nbytes)

            if f"{prefix}byteorder" in archive.namelist() and content(f"{prefix}byteorder") != b"little":
                raise ValueError(f"{path} was written big-endian; expected little-endian numbers")
            root, _ = load(io.BytesIO(content(data[0])), path, ignore_objects)
            spans = {
                info.filename.removeprefix(f"{prefix}data/"): _span(path, file, info, size)
                for info in archive.infolist()
                if info.filename.startswith(f"{prefix}data/")
            }
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        struct.error,
        UnicodeError,
    ) as error:
        raise ValueError(f"{path} is a zip that is truncated or damaged: {text_files.cut(error)}") from error
    return _resolve(path, root, spans)


def read_legacy(path: str | Path, ignore_objects: bool = False) -> dict[str, Tensor]:
    """The tensors of a file of torch < 1.6: five pickles, then each storage's length and numbers, in turn.

    Raises: ValueError as `read_zip`, and for a pickle that torch.save did not write.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        if load(file, path)[0] != LEGACY_MAGIC:
            raise ValueError(f"{path} is a pickle, but none that torch.save wrote, so no checkpoint")
        load(file, path)  # the version of the protocol
        system, _ = load(file, path)
        if not (isinstance(system, dict) and system.get("little_endian", True)):
            raise ValueError(f"{path} was written big-endian, expected little-endian numbers")
        root, storages = load(file, path, ignore_objects)
        keys, spans = load(file, path)[0], {}
        for key in keys if isinstance(keys, list) else []:
            length, start = file.read(8), file.tell()
            storage = storages.get(str(key), Storage(str(key), np.dtype("uint8"), -1))
            if len(length) < 8 or storage.nbytes != struct.unpack("<q", length)[0] * storage.dtype.itemsize:
                raise ValueError(f"{path} is truncated or damaged: storage {key} is not there")
            spans[storage.key] = _within(path, _Span(start, storage.nbytes), storage.key, size)
            file.seek(storage.nbytes, 1)
    return _resolve(path, root, spans)


def _within(path: str | Path, span: _Span, key: str, size: int) -> _Span:
    if span.start + span.nbytes > size:
        raise ValueError(
            f"{path} is truncated: storage {key} ends at {span.start + span.nbytes}, the file at {size}"
        )
    return span


def _span(path: str | Path, file: BinaryIO, info: zipfile.ZipInfo, size: int) -> _Span:
    """Where an entry's numbers are: behind its local header, whose length the directory does not say."""
    if info.flag_bits & 1:
        raise ValueError(f"{path} is an encrypted zip, expected the file as torch.save wrote it")
    if info.compress_type != zipfile.ZIP_STORED:
        return _Span(0, info.file_size, lambda begin, count: _unpacked(path, info.filename, begin, count))
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(
            f"{path} is a zip that is truncated or damaged: entry {info.filename} is not where it should be"
        )
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    return _within(path, _Span(start, info.file_size), info.filename, size)


def _unpacked(path: str | Path, name: str, begin: int, count: int) -> bytes:
    """`count` bytes of a compressed entry, from byte `begin` of it on; no more of it is in memory."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as entry:
            entry.seek(begin)
            found = entry.read(count)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path}: entry {name} cannot be unpacked: {error}") from error
    if len(found) < count:
        raise ValueError(f"{path} is truncated or damaged: entry {name} ends at byte {begin + len(found)}")
    return found


def _named(root: Any, path: str | Path) -> dict[str, View | Unread]:
    """{name: tensor} of what a pickle says: its 'state_dict' if it has one, nested names joined by '.'; all
    that is no tensor is dropped."""
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        root = root["state_dict"]
    found: dict[str, View | Unread] = {}
    visited = itertools.count(1)

    def walk(node: Any, names: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            if next(visited) > _MOST_NAMES:
                raise ValueError(f"{path} has more than {_MOST_NAMES} names, expected a state dict")
            for key, value in node.items():
                walk(value, (*names, str(key)))
        elif isinstance(node, View | Unread):
            name = ".".join(names)
            if name in found:
                raise ValueError(f"{path} has two tensors of the name {name}")
            found[name] = node

    try:
        walk(root, ())
    except RecursionError:
        raise ValueError(f"{path} holds dicts without end, expected a state dict") from None
    if not found or "" in found:
        raise ValueError(f"{path} holds no tensors under names, expected a state dict")
    return found


def _resolve(path: str | Path, root: Any, spans: Mapping[str, _Span]) -> dict[str, Tensor]:
    tensors = {}
    for name, view in _named(root, path).items():
        if isinstance(view, Unread):
            raise ValueError(
                f"{path}: tensor {name} {view.what}, expected a plain tensor of {', '.join(DTYPES)}"
            )
        numbers = (view.offset, *view.shape, *view.strides)
        if (
            len(view.shape) != len(view.strides)
            or len(view.shape) > 32
            or not all(type(n) is int and n >= 0 for n in numbers)
        ):
            raise ValueError(
                f"{path}: tensor {text_files.cut(name)} has shape {text_files.shown(view.shape)}, strides "
                f"{text_files.shown(view.strides)}, offset {text_files.shown(view.offset)}"
            )
        span = spans.get(view.storage.key)
        if span is None:
            raise ValueError(f"{path} is damaged: storage {view.storage.key} of tensor {name} is not in it")
        if span.unpack is not None and span.nbytes > view.storage.nbytes:
            raise ValueError(
                f"{path} is damaged: storage {view.storage.key} of tensor {name} is compressed and has "
                f"{span.nbytes} bytes, expected {view.storage.nbytes}"
            )
        if (view.offset + view.extent) * view.dtype.itemsize > min(span.nbytes, view.storage.nbytes):
            raise ValueError(f"{path} is damaged: tensor {name} {view.shape} reaches beyond its storage")
        if math.prod(view.shape) > max(view.extent, _MOST_REPEATED):
            raise ValueError(
                f"{path} is damaged: tensor {name} {view.shape} has {view.extent} numbers in the file"
            )
        tensors[name] = Tensor(view.shape, view.dtype, _reads(Path(path), span, view))
    return tensors


def _reads(path: Path, span: _Span, view: View) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if span.unpack is None:
            numbers = mapped(path, view.dtype, span.start + view.offset * view.dtype.itemsize, view.extent)
        else:
            size = view.dtype.itemsize
            numbers = np.frombuffer(span.unpack(view.offset * size, view.extent * size), view.dtype)
        strides = tuple(stride * view.dtype.itemsize for stride in view.strides)
        # over bytes: numpy's own as_strided does not know every dtype of ml_dtypes
        array = np.ndarray(view.shape, view.dtype, numbers.view(np.uint8), strides=strides)
        array = np.conj(array) if view.conj else array
        return np.negative(array) if view.neg else array

    return read


def write_zip(
    path: str | Path,
    tensors: Mapping[str, Tensor | np.ndarray],
    dtype: Any = None,
    wrapped: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Writes what torch.load(path, weights_only=True) reads: {'state_dict': tensors}, or `tensors` alone if
    not wrapped.

    path: where nothing is, not even a link. One tensor is in memory at a time.
    dtype: what floating point tensors are cast to; progress: called with
    each tensor's name, the bytes written so far and the bytes of all.
    Raises: ValueError for a dtype that torch has no typed storage for.
    """
    tensors = {name: as_tensor(array) for name, array in tensors.items()}
    stored = {name: stored_dtype(tensor.dtype, dtype) for name, tensor in tensors.items()}
    root = _pickled({name: (tensors[name].shape, stored[name]) for name in tensors}, path)
    if wrapped:
        root = b"}(" + _text("state_dict") + root + b"u"
    total = sum(_size(tensors[name].shape) * stored[name].itemsize for name in tensors)
    done = 0
    with zipfile.ZipFile(path, "x") as archive:
        for name, content in (
            ("data.pkl", b"\x80\x02" + root + b"."),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
        for i, (name, tensor) in enumerate(tensors.items()):
            array = to_write(name, tensor, stored[name])
            info = zipfile.ZipInfo(f"archive/data/{i}")
            info.file_size = array.nbytes
            info.extra = _padding(archive.fp.tell() + 30 + len(info.filename))
            with archive.open(info, "w") as entry:
                entry.write(as_bytes(array))
            done += array.nbytes
            del array  # before the next is read
            if progress is not None:
                progress(name, done, total)


def _padding(start: int) -> bytes:
    """An extra field of a local header, which else would end at `start`, that makes it end on a multiple of
    64."""
    return struct.pack("<2sH", b"FB", -(start + 4) % _ALIGNMENT) + bytes(-(start + 4) % _ALIGNMENT)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _pickled(state: Mapping[str, tuple[tuple[int, ...], np.dtype]], path: str | Path) -> bytes:
    """The instructions, of pickle protocol 2, that make {name: tensor}; tensor i lies in storage i."""
    storage_of = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
    ordered_dict = _global("collections", "OrderedDict") + b")R"
    code = [b"}("]
    for i, (name, (shape, dtype)) in enumerate(state.items()):
        if dtype not in storage_of:
            raise ValueError(f"{path}: {name} is {dtype}, expected one of {', '.join(map(str, storage_of))}")
        storage = _text("storage") + _global("torch", storage_of[dtype])
        storage = b"(" + storage + _text(str(i)) + _text("cpu") + _integer(_size(shape)) + b"tQ"
        strides = [_size(shape[axis + 1 :]) for axis in range(len(shape))]
        arguments = storage + _integer(0) + _tuple(shape) + _tuple(strides) + b"\x89" + ordered_dict
        code.append(_text(name) + _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR")
    return b"".join(code) + b"u"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(n: int) -> bytes:
    if n < 256:
        return b"K" + bytes([n])
    return b"J" + struct.pack("<i", n) if n < 2**31 else b"\x8a\x08" + struct.pack("<q", n)


def _tuple(numbers: Any) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
