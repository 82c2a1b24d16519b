"""Trees of parameters, nested dicts of arrays: how a parameter is named, trees flattened, described and compared.

It knows no network and no file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax.text_files import cut
from ldm_jax.types import PyTree

DEEPEST = 64  # trees of parameters inside each other; those of networks have ten


def named_leaves(params: PyTree) -> dict[str, np.ndarray]:
    """Nested dicts -> {'a/b/c': array}."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in leaves}


def described(tree: PyTree) -> dict[str, list]:
    """{'a/b': [shape, dtype]} of nested dicts of arrays, or of their shapes: plain data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(k.key for k in path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def of_description(described: Mapping[str, Sequence]) -> PyTree:
    """Nested dicts of jax.ShapeDtypeStructs: the inverse of `described`."""
    return from_names(
        {k: jax.ShapeDtypeStruct(tuple(shape), dtype) for k, (shape, dtype) in described.items()}
    )


def from_names(flat: Mapping[str, Any]) -> PyTree:
    """The inverse of `named_leaves`. Raises: ValueError for names of more than DEEPEST parts, or one within another."""
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/", DEEPEST)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node or "/" in name:
            raise ValueError(f"{cut(path)} is no name of a parameter beside the others")
        node[name] = leaf
    return tree


def fingerprint(params: PyTree) -> str:
    """Hex digest of names, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in sorted(named_leaves(params).items()):
        digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


ParamPath = tuple[str, ...]


def flatten(tree: PyTree) -> dict[ParamPath, object]:
    """{path: leaf} of nested dicts, sorted by name."""
    flat = {}
    for name in sorted(tree):
        leaf = tree[name]
        if isinstance(leaf, Mapping):
            flat.update({(name, *path): value for path, value in flatten(leaf).items()})
        else:
            flat[(name,)] = leaf
    return flat


def unflatten(flat: Mapping[ParamPath, object]) -> PyTree:
    """Nested dicts of {path: leaf}."""
    tree: dict = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def check_params(expected: PyTree, given: PyTree, whose: str, what: str = "the config") -> None:
    """Compares names and shapes of two trees of arrays (or of their shapes).

    Raises: ValueError that lists the first ten parameters that are missing, unused or of another shape. whose: given's.
    what: what they are expected to fit.
    """
    want, got = ({k: v.shape for k, v in _leaves(tree).items()} for tree in (expected, given))
    wrong = [f"{k} is missing" for k in want if k not in got] + [
        f"{k} is not used" for k in got if k not in want
    ]
    wrong += [f"{k} has shape {got[k]}, expected {want[k]}" for k in want if k in got and got[k] != want[k]]
    if wrong:
        raise ValueError(f"{len(wrong)} parameters of {whose} do not fit {what}: {'; '.join(wrong[:10])}")


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {
        "/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_below(path: tuple, prefixes: Sequence[str]) -> bool:
    name = "/".join(key.key for key in path) + "/"
    return any(name.startswith(prefix + "/") for prefix in prefixes)
