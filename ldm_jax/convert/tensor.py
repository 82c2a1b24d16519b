"""One array of a file that has not been read yet, and how its bytes become the array that is written.

Decides laziness (a Tensor is a shape, a dtype and a function that reads), how a piece of a file is mapped,
and which dtypes a cast touches. It knows no file format and no names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS = {  # what --dtype may say
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": BFLOAT16,
    "float64": np.dtype("float64"),
}
_BLOCK = 64  # rows and columns of a transposing copy: 64 x 64 float32 of both sides fit the first-level cache


class Tensor(NamedTuple):
    """shape; dtype (bfloat16 as ml_dtypes.bfloat16); read() -> the array, of that shape and dtype.

    What `read` gives may be a read-only view of the mapped file and need not be contiguous; it is made anew
    at each call, so that nothing stays in memory that the caller lets go. Being a tuple, a Tensor is no leaf
    to jax.tree.map: walk trees of them with state_dict.flatten.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def as_tensor(array: Any) -> Tensor:
    """A Tensor of a Tensor, a numpy array or a jax array (which comes to the host when it is read)."""
    if isinstance(array, Tensor):
        return array
    if not hasattr(array, "dtype"):
        array = np.asarray(array)
    return Tensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def is_floating(dtype: np.dtype) -> bool:
    """Whether a cast touches it: float16, bfloat16, float32, float64 (not integers, bools, complex,
    float8)."""
    return np.dtype(dtype) in _FLOATS.values()


def stored_dtype(dtype: np.dtype, cast: Any) -> np.dtype:
    """The dtype in which an array of `dtype` is written when `cast` (a name, a dtype or None) is asked for.

    Raises: ValueError if `cast` is no floating point type.
    """
    if cast is None:
        return np.dtype(dtype)
    try:
        wanted = _FLOATS[cast] if cast in _FLOATS else np.dtype(cast)
    except TypeError:
        wanted = None
    if wanted is None or not is_floating(wanted):
        raise ValueError(f"dtype: got {cast!r}, expected one of {', '.join(_FLOATS)}")
    return wanted if is_floating(dtype) else np.dtype(dtype)


def contiguous(array: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """`array` in C order and in `dtype`; itself if it is so already.

    Large transposed arrays are copied in square blocks over their two longest axes, which is two to three
    times as fast as numpy's own order: there one side is read a cache line per number.
    Raises: ValueError where a finite number is beyond the range of `dtype`.
    """
    dtype = np.dtype(array.dtype if dtype is None else dtype)
    try:
        with np.errstate(over="raise"):
            if array.flags.c_contiguous:
                return array.astype(dtype, copy=False)
            if array.ndim < 2 or array.size < _BLOCK**3:
                return np.ascontiguousarray(array.astype(dtype, copy=False))
            if dtype.itemsize < array.dtype.itemsize:
                array = array.astype(dtype)  # in the order in which it lies, and then half as much is turned
            out = np.empty(array.shape, dtype)
            i, j = sorted(range(array.ndim), key=lambda axis: array.shape[axis])[-2:]
            at = [slice(None)] * array.ndim
            for a in range(0, array.shape[i], _BLOCK):
                at[i] = slice(a, a + _BLOCK)
                for b in range(0, array.shape[j], _BLOCK):
                    at[j] = slice(b, b + _BLOCK)
                    out[tuple(at)] = array[tuple(at)].astype(dtype, copy=False)
            return out
    except FloatingPointError as error:
        raise ValueError(f"numbers beyond the range of {dtype}, expected bfloat16 or float32") from error


def to_write(name: str, tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """Reads a tensor, in C order and in `dtype`. Raises: ValueError naming it where its numbers do not fit
    `dtype`."""
    array = tensor.read()
    assert array.shape == tensor.shape, f"{name}: {array.shape} read, {tensor.shape} said"
    try:
        return contiguous(array, dtype)
    except ValueError as error:
        raise ValueError(f"{name} cannot be stored as {dtype}: {error}") from error


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))


def mapped(path: str | Path, dtype: np.dtype, offset: int, count: int) -> np.ndarray:
    """`count` numbers of a file from byte `offset` on, [count], read-only.

    Only these bytes are mapped, and only as long as the array lives: no other page of the file counts as
    memory.
    """
    if count == 0:
        return np.empty((0,), dtype)
    return np.require(np.memmap(path, dtype, mode="r", offset=offset, shape=(count,)), None, "A").view(
        np.ndarray
    )
