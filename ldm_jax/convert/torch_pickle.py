"""What a pickle of torch.save says, without torch and without running anything.

Decides what a pickle may name: tensors, their storages and plain containers. Any other global is refused by
its name before anything of it runs; what stands in for the admitted ones here are functions of this file that
only build tuples. It does not know where the numbers lie, nor what they mean.
Source: torch/_utils.py, torch/_tensor.py and torch/storage.py (torch 1.6 to 2.13), whose functions these
pickles name.
"""

import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from ldm_jax import text_files
from ldm_jax.convert.tensor import BFLOAT16

STORAGES = {  # torch's typed storage -> the dtype of its numbers
    "FloatStorage": np.dtype("float32"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype("float64"),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
    "ComplexFloatStorage": np.dtype("complex64"),
    "ComplexDoubleStorage": np.dtype("complex128"),
    "UntypedStorage": np.dtype("uint8"),
}
DTYPES = {  # torch.<name>, which a tensor of a dtype younger than typed storages names
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{
        name: np.dtype(name)
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    "bfloat16": BFLOAT16,
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_QUANTIZED = {  # storages of quantized tensors, which are not read: only how long they are is known
    "QInt8Storage": np.dtype("int8"),
    "QUInt8Storage": np.dtype("uint8"),
    "QInt32Storage": np.dtype("int32"),
    "QUInt4x2Storage": np.dtype("uint8"),
    "QUInt2x4Storage": np.dtype("uint8"),
}
_QUANTIZERS = ("per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams")
_UNREAD_DTYPES = ("complex32", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2")
_UNREAD_DTYPES += tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8))


class _Refused(ValueError):
    """A pickle names what is not admitted."""


class _Admitted(NamedTuple):
    """What a pickle may call. A tuple, so that no instruction of a pickle can change it."""

    make: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.make(*args)


class _Dict(dict):
    """An OrderedDict; the attributes that torch hangs on a state dict are let go."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class Storage(NamedTuple):
    """Numbers that tensors share. kind: torch's name of its class."""

    key: str
    dtype: np.dtype
    nbytes: int
    kind: str = ""


class View(NamedTuple):
    """A tensor as the pickle says it: offset and strides count numbers, not bytes. conj, neg: what torch put off
    doing to the numbers of the storage."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False

    @property
    def extent(self) -> int:
        """How many numbers of the storage lie between its first and its last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))


class Unread(NamedTuple):
    """A tensor whose numbers are not read here; an error only where it is one of the state dict. what: 'has dtype
    qint8'."""

    what: str


def _tensor(
    storage: Storage, offset: int, shape: tuple, strides: tuple, grad: Any, hooks: Any, metadata: Any = None
) -> View | Unread:
    return _view(storage, storage.dtype, offset, shape, strides, metadata)


def _typed_tensor(
    storage: Storage,
    offset: int,
    shape: tuple,
    strides: tuple,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> View | Unread:
    if dtype not in DTYPES:
        return Unread(f"has dtype {dtype if isinstance(dtype, str) else 'that is not known'}")
    return _view(storage, DTYPES[dtype], offset, shape, strides, metadata)


def _view(storage: Storage, dtype: np.dtype, offset: int, shape: tuple, strides: tuple, metadata: Any):
    if storage.kind in _QUANTIZED:
        return _quantized(storage)
    flags = {key: value for key, value in (metadata or {}).items() if value}
    if flags.keys() - {"conj", "neg"}:
        return Unread(f"has metadata {sorted(map(str, flags))}")
    return View(storage, dtype, offset, tuple(shape), tuple(strides), "conj" in flags, "neg" in flags)


def _quantized(storage: Storage, *ignored: Any) -> Unread:
    return Unread(f"has dtype {storage.kind.removesuffix('Storage').lower()}")


def _of_a_type(make: Any, kind: Any, arguments: tuple, state: Any) -> View | Unread:
    """A tensor of a subclass or with attributes, which are let go; `make` may be nothing but what makes a tensor."""
    if make not in (_TENSOR, _TYPED_TENSOR):
        raise pickle.UnpicklingError(f"a tensor is made by {make!r}")
    return make(*arguments)


_TENSOR, _TYPED_TENSOR = _Admitted(_tensor), _Admitted(_typed_tensor)
# types are admitted as their names: a pickle can do nothing to a string, but could set an np.dtype's state
_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Admitted(_Dict),
    "torch.Size": _Admitted(tuple),
    "torch._utils._rebuild_tensor_v2": _TENSOR,
    "torch._utils._rebuild_tensor_v3": _TYPED_TENSOR,
    "torch._utils._rebuild_qtensor": _Admitted(_quantized),
    "torch._utils._rebuild_parameter": _Admitted(lambda view, *ignored: view),
    "torch._utils._rebuild_parameter_with_state": _Admitted(lambda view, *ignored: view),
    "torch._tensor._rebuild_from_type_v2": _Admitted(_of_a_type),
    **{name: name for name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")},
    **{f"{module}.set": _Admitted(set) for module in ("builtins", "__builtin__")},
    **{f"torch.{name}": name for name in (*STORAGES, *_QUANTIZED, *DTYPES, *_UNREAD_DTYPES, *_QUANTIZERS)},
    **{f"torch.storage.{name}": name for name in STORAGES},
}


class _Ignored:
    """Stands where a pickle names a class that is not admitted, if the user says so: takes whatever is done to an
    object of it, and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def _nothing(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = update = _nothing


class _Unpickler(pickle.Unpickler):
    """storages: {key: storage} of all that the pickle has named. ignore_objects: see `read_zip`."""

    def __init__(self, file: BinaryIO, ignore_objects: bool = False) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self.ignore_objects = ignore_objects

    def find_class(self, module: str, name: str) -> Any:
        admitted = _GLOBALS.get(f"{module}.{name}")
        if admitted is None and self.ignore_objects:
            if module.startswith("torch.") and name.startswith("_rebuild_"):  # sparse, nested and others
                return _Admitted(lambda *ignored: Unread(f"is one of {module}.{name}"))
            return _Ignored
        if admitted is None:
            raise _Refused(
                f"its pickle names {module}.{name}, expected tensors and plain containers alone, so it was "
                "refused and nothing of it was run; --ignore_objects reads the tensors beside it, still without "
                "running anything"
            )
        return admitted

    def persistent_load(self, pid: Any) -> Storage:
        kind, name, key, _, numel, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise _Refused(
                "its storages are those of a torch before 0.4, expected a newer one: load and save it anew"
            )
        if type(numel) is not int or numel < 0:
            raise pickle.UnpicklingError(f"storage {key} has {numel} numbers")
        if name is _Ignored:
            raise _Refused(
                f"storage {key} is of a type that is not known, expected one of {', '.join(STORAGES)}"
            )
        dtype = (STORAGES | _QUANTIZED)[name]
        self.storages[str(key)] = Storage(str(key), dtype, numel * dtype.itemsize, name)
        return self.storages[str(key)]


_FILLING = (
    "APPEND",
    "APPENDS",
    "SETITEM",
    "SETITEMS",
    "ADDITEMS",
    "BUILD",
)  # an object that is there already
DEEPEST = 1000  # objects inside each other; state dicts have ten, what trainers keep beside them some dozens


def _check(file: BinaryIO) -> None:
    """Reads a pickle's instructions, and runs none, for what Python's own unpickler takes without a limit: it makes
    room for as many objects as the number of one says, and hashes tuples inside each other on the stack of C.

    Raises: pickle.UnpicklingError for numbers beyond the number of instructions, and objects nested deeper than
    DEEPEST; and, as the unpickler itself, anything else for a damaged one. The file is where it was afterwards.
    """
    start, depths, memo = file.tell(), [], {}  # depths: of the objects on the stack, None for a mark
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name, before = opcode.name, list(opcode.stack_before)
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if argument is None else argument
            if not 0 <= number <= count:
                raise pickle.UnpicklingError(f"it numbers an object {text_files.shown(number)}")
            memo[number] = depths[-1]
            continue
        inside = []
        if pickletools.markobject in before:
            while (depth := depths.pop()) is not None:
                inside.append(depth)
            before = before[: before.index(pickletools.markobject)]
        inside += [depths.pop() or 0 for _ in before]
        if name == "MARK":
            depths.append(None)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            depths.append(memo[argument])
        else:
            own = inside.pop() if name in _FILLING else 0
            depth = max(own, 1 + max(inside)) if inside else own
            if depth > DEEPEST:
                raise pickle.UnpicklingError(f"its objects are nested deeper than {DEEPEST}")
            depths += [depth] * len(opcode.stack_after)
    file.seek(start)


def load(file: BinaryIO, path: str | Path, ignore_objects: bool = False) -> tuple[Any, dict[str, Storage]]:
    """What a pickle says, and the storages that it names. Raises: ValueError for all that can be wrong with
    it."""
    unpickler = _Unpickler(file, ignore_objects)
    try:
        _check(file)
        return unpickler.load(), unpickler.storages
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise ValueError(
            f"{path} holds a pickle that is truncated or damaged: {type(error).__name__}: {text_files.cut(error)}"
        ) from error
