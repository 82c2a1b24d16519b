"""How one array of a torch checkpoint is laid out here, and the strictness of every conversion.

A name map is an iterable of entries (flax path, torch name, kind). It is what the other files of this room
build; no file format and no network is known here. Kinds, torch on the left:
    conv           [O, I, kh, kw]  <-> [kh, kw, I, O]
    conv1d         [O, I, k]       <-> [k, I, O]
    linear         [O, I]          <-> [I, O]
    linear_conv1d  [O, I, 1]       <-> [I, O]     a convolution of width one that is a Linear here
    linear_conv2d  [O, I, 1, 1]    <-> [I, O]
    channels       [1, C, 1, 1]    <-> [C]        a per-channel vector that torch keeps broadcastable
    same           any shape, unchanged: biases, norms, embeddings
Reading, the three linear kinds accept each other's layouts: releases of one model differ in it.
The torch name may be a tuple of n names: one array of ours is n Linears, or their biases, there (q, k and v):
    split_new      n x [O, I]  <-> [I, nO]        one after the other; n x [O] <-> [nO] for biases
    split:H        n x [O, I]  <-> [I, H (n O/H)] head by head, each head's n parts in turn; biases alike
Arrays may be Tensors of a file (tensor.py): names and shapes are judged before anything is read.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ldm_jax.convert.tensor import Tensor, as_tensor, contiguous, is_floating
from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.types import PyTree

Entry = tuple[ParamPath, str | tuple[str, ...], str]

_TO_TORCH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda a: a.transpose(3, 2, 0, 1),
    "conv1d": lambda a: a.transpose(2, 1, 0),
    "linear": lambda a: a.T,
    "linear_conv1d": lambda a: a.T[..., None],
    "linear_conv2d": lambda a: a.T[..., None, None],
    "channels": lambda a: a[None, :, None, None],
    "same": lambda a: a,
}


def array_from_torch(array: np.ndarray, kind: str) -> np.ndarray:
    """A torch array in our layout.

    One whose rank does not suit `kind` comes back unchanged, for the shape check to name.
    """
    if kind.startswith("linear"):
        while array.ndim > 2 and array.shape[-1] == 1:
            array = array[..., 0]
        return array.T if array.ndim == 2 else array
    if kind == "conv" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if kind == "conv1d" and array.ndim == 3:
        return array.transpose(2, 1, 0)
    if kind == "channels" and array.ndim == 4:
        return array[0, :, 0, 0]
    return array


def join_from_torch(arrays: Sequence[np.ndarray], kind: str) -> np.ndarray:
    """n torch arrays, [O, I] (trailing ones accepted) or [O] each, as one of ours, [I, nO] or [nO]."""
    ours = [array_from_torch(array, "linear") for array in arrays]
    heads = _heads(kind)
    parts = np.stack([a.reshape(*a.shape[:-1], heads, -1) for a in ours], axis=-2)
    return parts.reshape(*parts.shape[:-3], -1)


def split_to_torch(array: np.ndarray, kind: str, n: int) -> list[np.ndarray]:
    """One of our arrays, [I, nO] or [nO], as n torch arrays, [O, I] or [O]: the inverse of
    `join_from_torch`."""
    heads = _heads(kind)
    parts = np.asarray(array).reshape(*array.shape[:-1], heads, n, -1)
    ours = [parts[..., i, :].reshape(*array.shape[:-1], -1) for i in range(n)]
    return [a.T for a in ours]


def _heads(kind: str) -> int:
    return 1 if kind == "split_new" else int(kind.removeprefix("split:"))


def conv(path: ParamPath, torch_name: str, bias: bool = True, kind: str = "conv") -> list[Entry]:
    """The entries of a Conv or Linear at `path`: kernel and bias. kind is the kernel's."""
    entries = [((*path, "kernel"), f"{torch_name}.weight", kind)]
    return entries + [((*path, "bias"), f"{torch_name}.bias", "same")] if bias else entries


def linear(path: ParamPath, torch_name: str, bias: bool = True) -> list[Entry]:
    """The entries of a Linear at `path`."""
    return conv(path, torch_name, bias, "linear")


def norm(path: ParamPath, torch_name: str) -> list[Entry]:
    """The entries of a GroupNorm or LayerNorm at `path`."""
    return [
        ((*path, "scale"), f"{torch_name}.weight", "same"),
        ((*path, "bias"), f"{torch_name}.bias", "same"),
    ]


def from_torch(
    state: Mapping[str, np.ndarray | Tensor],
    template: PyTree,
    entries: Iterable[Entry],
    ignore: Callable[[str], bool] = lambda name: False,
) -> PyTree:
    """A torch state dict as the tree `template` is: nested dicts of numpy arrays, in the template's dtypes.

    template: nested dicts of anything with shape and dtype (params, or what jax.eval_shape gives).
    ignore: which torch names may be left over without complaint.
    Raises: ValueError that counts the missing, unused and mis-shaped names and lists the first ten of each.
    """
    lazy = flatten(lazy_from_torch(state, template, entries, ignore))
    return unflatten({path: contiguous(tensor.read()) for path, tensor in lazy.items()})


def lazy_from_torch(
    state: Mapping[str, np.ndarray | Tensor],
    template: PyTree,
    entries: Iterable[Entry],
    ignore: Callable[[str], bool] = lambda name: False,
    *,
    keep_dtype: bool = False,
) -> PyTree:
    """As `from_torch`, and raises as it does, at once; but a tree of Tensors, each read, turned and cast
    alone.

    keep_dtype: floating point arrays stay in the dtype that the file has, instead of taking the template's.
    """
    expected = flatten(template)
    entries = list(entries)
    assert sorted(path for path, _, _ in entries) == sorted(expected), (
        "the name map does not cover the template"
    )
    state = {name: as_tensor(array) for name, array in state.items()}
    missing, shaped, flat = [], [], {}
    for path, names, kind in entries:
        shape, dtype = tuple(expected[path].shape), np.dtype(expected[path].dtype)
        names, wanted = _parts(names), _torch_shapes(shape, names, kind)
        absent = [i for i, name in enumerate(names) if name not in state]
        missing += [f"missing: {names[i]} {wanted[i]} for {'/'.join(path)}" for i in absent]
        wrong = [
            f"mis-shaped: {name} {state[name].shape}, expected {want} for {'/'.join(path)}"
            for name, want in zip(names, wanted, strict=True)
            if name in state and _our_shape(state[name].shape, kind) != _our_shape(want, kind)
        ]
        shaped += wrong
        if not absent and not wrong:
            sources = [state[name] for name in names]
            found = {source.dtype for source in sources}
            if keep_dtype and len(found) == 1 and is_floating(dtype) and is_floating(*found):
                dtype = found.pop()
            flat[path] = Tensor(shape, dtype, _reads_ours(sources, kind, dtype))
    known = {name for _, names, _ in entries for name in _parts(names)}
    unused = [
        f"unused: {name} {tensor.shape}"
        for name, tensor in state.items()
        if name not in known and not ignore(name)
    ]
    _refuse(missing, unused, shaped)
    return unflatten(flat)


def to_torch(params: PyTree, entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Our tree, of arrays or Tensors, as a torch state dict: the inverse of `from_torch`."""
    return {name: contiguous(tensor.read()) for name, tensor in lazy_to_torch(params, entries).items()}


def lazy_to_torch(tree: PyTree, entries: Iterable[Entry]) -> dict[str, Tensor]:
    """As `to_torch`, but each Tensor is read and turned when it is asked for."""
    flat = flatten(tree)
    state = {}
    for path, names, kind in entries:
        names, source = _parts(names), as_tensor(flat[path])
        for i, shape in enumerate(_torch_shapes(source.shape, names, kind)):
            state[names[i]] = Tensor(shape, source.dtype, _reads_torch(source, kind, i, len(names)))
    return state


def _parts(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _torch_shapes(shape: tuple[int, ...], names: tuple[str, ...], kind: str) -> list[tuple[int, ...]]:
    """The shapes that one array of ours, of `shape`, has there."""
    if not kind.startswith("split"):
        return [_TO_TORCH[kind](np.broadcast_to(0, shape)).shape]
    *inputs, outputs = shape
    assert outputs % (len(names) * _heads(kind)) == 0, f"{shape} does not fall into {kind} of {names}"
    return [(outputs // len(names), *inputs)] * len(names)


def _our_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape that one torch array, of `shape`, has here, or one part of ours if it is split."""
    return array_from_torch(np.broadcast_to(0, shape), "linear" if kind.startswith("split") else kind).shape


def _reads_ours(sources: list[Tensor], kind: str, dtype: np.dtype) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        arrays = [source.read() for source in sources]
        if kind.startswith("split"):
            return join_from_torch(arrays, kind).astype(dtype, copy=False)
        # a view if there is no cast: turned back on its way out, as between two torch layouts, it costs nothing
        return array_from_torch(arrays[0], kind).astype(dtype, copy=False)

    return read


def _reads_torch(source: Tensor, kind: str, i: int, n: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if kind.startswith("split"):
            return split_to_torch(source.read(), kind, n)[i]
        return _TO_TORCH[kind](source.read())

    return read


def _refuse(*lists: list[str]) -> None:
    """Raises ValueError if there is anything in `lists`: how many, and the first ten of each."""
    count = sum(map(len, lists))
    if not count:
        return
    lines = []
    for wrong in lists:
        lines += wrong[:10]
        if len(wrong) > 10:
            lines.append(f"... and {len(wrong) - 10} more like it")
    raise ValueError(
        f"checkpoint: {count} names do not fit the model, the first ten of each kind:\n  "
        + "\n  ".join(lines)
    )
