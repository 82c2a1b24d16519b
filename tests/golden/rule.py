"""The deterministic weights and inputs that the original's golden numbers were made with, and how to compare
with them.

u(i) = frac(sin(12.9898 i + 4.1414 h) 43758.5453) for i = 1..numel in the C order of the torch layout, where
h = (crc32(name) mod 1000) / 1000; all float64. original_golden.json holds what the original's modules gave.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.params import flatten, unflatten

GOLDEN = json.loads((Path(__file__).parent / "original_golden.json").read_text())


def gen(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """float32 [*shape], in [-scale, scale), determined by its name."""
    i = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    h = (zlib.crc32(name.encode()) % 1000) / 1000
    x = np.sin(12.9898 * i + 4.1414 * h) * 43758.5453
    return ((2 * (x - np.floor(x)) - 1) * scale).astype(np.float32).reshape(shape)


def fill(torch_name: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """The parameter of that torch name and torch shape; buffers are not filled."""
    if len(shape) >= 2:
        return gen(torch_name, shape, gain / math.sqrt(math.prod(shape[1:])))
    if len(shape) == 1 and torch_name.endswith("weight"):
        return (1 + gen(torch_name, shape, 0.1)).astype(np.float32)
    return gen(torch_name, shape, 0.1)


def fill_params(template, entries, prefix: str = "", gain: float = 1.0):
    """Our params, filled by the rule.

    template: a tree of shapes; entries: its name map (ldm_jax/convert/state_dict.py).
    """
    shapes = state_dict.to_torch(zeros_like_tree(template), entries)
    state = {name: fill(prefix + name, array.shape, gain) for name, array in shapes.items()}
    return state_dict.from_torch(state, template, entries)


def zeros_like_tree(template):
    """float32 zeros of the template's shapes, without memory behind them."""
    flat = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flatten(template).items()}
    return unflatten(flat)


def nchw(x) -> np.ndarray:
    """[B, h, w, C] as the original's [B, C, h, w]."""
    return np.moveaxis(np.asarray(x), -1, 1)


def nhwc(x) -> np.ndarray:
    """[B, C, h, w] as our [B, h, w, C]."""
    return np.moveaxis(np.asarray(x), 1, -1)


def check_stats(out_nchw, entry: dict, rel: float = 1e-4) -> None:
    """Asserts that an output has the shape, mean, population std, L2 norm and end values of a golden entry.

    rel bounds the norms relatively, and the mean and the single values as a part of the output's root mean
    square.
    """
    out = np.asarray(out_nchw, np.float64)
    assert list(out.shape) == entry["shape"], (out.shape, entry["shape"])
    atol = rel * math.hypot(entry["mean"], entry["std"])
    np.testing.assert_allclose(out.mean(), entry["mean"], rtol=0, atol=atol)
    np.testing.assert_allclose(out.std(), entry["std"], rtol=rel)
    np.testing.assert_allclose(np.sqrt(np.square(out).sum()), entry["l2"], rtol=rel)
    flat = out.reshape(-1)
    np.testing.assert_allclose(flat[:4], entry["first"], rtol=rel, atol=atol)
    np.testing.assert_allclose(flat[-4:], entry["last"], rtol=rel, atol=atol)
