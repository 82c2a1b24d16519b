"""Files of the safetensors format: a length, a JSON header that says where each tensor lies, and the tensors.

Decides how strictly a header is read (nothing outside the file, no holes, no overlap) and in which order
tensors are written. It does not know what they mean.
Source: the format as github.com/huggingface/safetensors describes it (README, 'Format').
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ldm_jax import text_files
from ldm_jax.convert.tensor import (
    BFLOAT16,
    Tensor,
    as_bytes,
    as_tensor,
    mapped,
    stored_dtype,
    to_write,
)

_DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": BFLOAT16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype("complex64"),
    **{f"I{8 * n}": np.dtype(f"int{8 * n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"uint{8 * n}") for n in (1, 2, 4, 8)},
    "BOOL": np.dtype("bool"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_AXES = 32
_LONGEST_HEADER = text_files.LARGEST  # bytes: of 100,000 tensors


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in its order, unread. Raises: ValueError in one sentence for a damaged
    file."""
    header, start, size = _header(path)
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _entry(path, name, entry)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if end - begin != count * dtype.itemsize:
            raise ValueError(
                f"{path}: {name} {shape} {dtype} needs {count * dtype.itemsize} bytes, got {end - begin}"
            )
        spans.append((begin, end, name))
        tensors[name] = Tensor(shape, dtype, _reads(Path(path), dtype, start + begin, shape))
    last = 0
    for begin, end, name in sorted(spans):
        if begin != last:
            raise ValueError(
                f"{path}: {name} begins at byte {begin} of the data, expected {last}, where the last one ends"
            )
        last = end
    if start + last != size:
        wrong = "is truncated" if start + last > size else "has more in it than its header says"
        raise ValueError(f"{path} {wrong}: got {size} bytes, expected {start + last}")
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header's '__metadata__', {} if it has none. Raises: ValueError as `read`, and for values that are no
    strings."""
    metadata = _header(path)[0].get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(
            f"{path}: its __metadata__ is {text_files.shown(metadata)}, expected strings by name"
        )
    return metadata


def _header(path: str | Path) -> tuple[dict[str, Any], int, int]:
    """The header, the byte at which the data begins, and the file's size."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else None
        if length is None or length + 8 > size:
            said = "" if length is None else f", and its header alone says {length + 8}"
            raise ValueError(f"{path} is truncated, or no .safetensors file: it has {size} bytes{said}")
        if length > _LONGEST_HEADER:
            raise ValueError(f"{path}: its header is {length} bytes long, expected at most {_LONGEST_HEADER}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged safetensors header: {text_files.cut(error)}") from error
    if not isinstance(header, dict):
        raise ValueError(
            f"{path} has a damaged safetensors header: got {type(header).__name__}, expected an object"
        )
    return header, length + 8, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _entry(path: str | Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    what, entry = f"{path}: {text_files.cut(name)}", entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(entry) != 3 or not all(type(n) is int and n >= 0 for n in numbers) or len(offsets) != 2:
        raise ValueError(f"{what} is {text_files.shown(entry)}, expected dtype, shape and two data_offsets")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{what} has {len(shape)} axes, expected at most {_MOST_AXES}")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{what} has dtype {text_files.shown(dtype)}, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype], tuple(shape), tuple(offsets)


def _reads(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    count = int(np.prod(shape, dtype=object)) if shape else 1
    return lambda: mapped(path, dtype, offset, count).reshape(shape)


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor | np.ndarray],
    dtype: Any = None,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Writes `tensors`, one in memory at a time; the widest dtypes first, so that all lie aligned.

    path: where nothing is, not even a link.
    dtype: what floating point tensors are cast to. metadata: strings; None means {'format': 'pt'}, which
    transformers asks for. progress: called with each tensor's name, the bytes written so far and those of
    all.
    Raises: ValueError for a dtype that the format does not have.
    """
    tensors = {name: as_tensor(array) for name, array in tensors.items()}
    stored = {name: stored_dtype(tensor.dtype, dtype) for name, tensor in tensors.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else dict(metadata)}
    total = 0
    for name in sorted(tensors, key=lambda name: -stored[name].itemsize):
        if name == "__metadata__" or stored[name] not in _NAMES:
            raise ValueError(
                f"{path}: tensor {name} is {stored[name]}, expected a name and a dtype of safetensors"
            )
        size = int(np.prod(tensors[name].shape, dtype=np.int64)) * stored[name].itemsize
        header[name] = {
            "dtype": _NAMES[stored[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [total, total + size],
        }
        total += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in list(header)[1:]:
            array = to_write(name, tensors[name], stored[name])
            file.write(as_bytes(array))
            del array  # before the next is read
            if progress is not None:
                progress(name, header[name]["data_offsets"][1], total)
