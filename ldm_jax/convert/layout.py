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
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ldm_jax.types import PyTree

Path = tuple[str, ...]
Entry = tuple[Path, str, str]

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


def array_to_torch(array: np.ndarray, kind: str) -> np.ndarray:
    """One of our arrays in torch's layout, contiguous."""
    return np.ascontiguousarray(_TO_TORCH[kind](np.asarray(array)))


def flatten(tree: PyTree) -> dict[Path, object]:
    """{path: leaf} of nested dicts, sorted by name."""
    flat = {}
    for name in sorted(tree):
        leaf = tree[name]
        if isinstance(leaf, Mapping):
            flat.update({(name, *path): value for path, value in flatten(leaf).items()})
        else:
            flat[(name,)] = leaf
    return flat


def unflatten(flat: Mapping[Path, object]) -> PyTree:
    """Nested dicts of {path: leaf}."""
    tree: dict = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def conv(path: Path, torch_name: str, bias: bool = True, kind: str = "conv") -> list[Entry]:
    """The entries of a Conv or Linear at `path`: kernel and bias. kind is the kernel's."""
    entries = [((*path, "kernel"), f"{torch_name}.weight", kind)]
    return entries + [((*path, "bias"), f"{torch_name}.bias", "same")] if bias else entries


def linear(path: Path, torch_name: str, bias: bool = True) -> list[Entry]:
    """The entries of a Linear at `path`."""
    return conv(path, torch_name, bias, "linear")


def norm(path: Path, torch_name: str) -> list[Entry]:
    """The entries of a GroupNorm or LayerNorm at `path`."""
    return [
        ((*path, "scale"), f"{torch_name}.weight", "same"),
        ((*path, "bias"), f"{torch_name}.bias", "same"),
    ]


def from_torch(
    state: Mapping[str, np.ndarray],
    template: PyTree,
    entries: Iterable[Entry],
    ignore: Callable[[str], bool] = lambda name: False,
) -> PyTree:
    """A torch state dict as the tree `template` is: nested dicts of numpy arrays, in the template's dtypes.

    template: nested dicts of anything with shape and dtype (params, or what jax.eval_shape gives).
    ignore: which torch names may be left over without complaint.
    Raises: ValueError that counts the missing, unused and mis-shaped names and lists the first ten.
    """
    expected = flatten(template)
    entries = list(entries)
    assert sorted(path for path, _, _ in entries) == sorted(expected), (
        "the name map does not cover the template"
    )
    wrong, flat = [], {}
    for path, name, kind in entries:
        if name not in state:
            wrong.append(f"missing: {name} {tuple(expected[path].shape)} for {'/'.join(path)}")
            continue
        array = array_from_torch(np.asarray(state[name]), kind)
        if array.shape != tuple(expected[path].shape):
            blank = np.broadcast_to(0, expected[path].shape)
            got, shape = np.shape(state[name]), array_to_torch(blank, kind).shape
            wrong.append(f"mis-shaped: {name} {got}, expected {shape} for {'/'.join(path)}")
            continue
        flat[path] = np.ascontiguousarray(array, dtype=expected[path].dtype)
    known = {name for _, name, _ in entries}
    wrong += [
        f"unused: {name} {tuple(np.shape(state[name]))}"
        for name in state
        if name not in known and not ignore(name)
    ]
    if wrong:
        raise ValueError(
            f"checkpoint: {len(wrong)} names do not fit the model, the first ten:\n  "
            + "\n  ".join(wrong[:10])
        )
    return unflatten(flat)


def to_torch(params: PyTree, entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """Our tree as a torch state dict: the inverse of `from_torch`."""
    flat = flatten(params)
    return {name: array_to_torch(flat[path], kind) for path, name, kind in entries}
