"""Conditioning on a depth map: resized to the latent, brought to [-1, 1] and added to its channels.

Decides how a map is resized and normalized; it estimates no depth. Source: LatentDepth2ImageDiffusion of
Stability-AI/stablediffusion ldm/models/diffusion/ddpm.py, whose maps are MiDaS's disparities (near is large).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting
from ldm_jax.types import Array, Cond

TAKES = ("depths",)
EXAMPLE = {"depths": "depth"}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters."""

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'depths': [B, h, w, 1] float32 in [-1, 1]} -> Cond(concat), the same array."""
        return Cond(concat=inputs["depths"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given {'depths': B maps [H, W] of numbers of any unit, each of any size} -> {'depths': [B, h, w, 1] float32}.

    Resized by bicubic interpolation as torch does it, then 2 (d - min) / (max - min + 0.001) - 1, map by map.
    Raises: ValueError for a map that is not [H, W] or not finite.
    """
    height, width, _ = setting.latent_shape
    out = []
    for depth in given["depths"]:
        depth = np.asarray(depth, np.float64)
        if depth.ndim != 2 or not depth.size or not np.isfinite(depth).all():
            raise ValueError(f"depth: got a map of shape {depth.shape}, expected (H, W) and finite numbers")
        small = _bicubic(depth.shape[0], height) @ depth @ _bicubic(depth.shape[1], width).T
        out.append(2 * (small - small.min()) / (small.max() - small.min() + 0.001) - 1)
    return {"depths": np.asarray(out, np.float32).reshape(-1, height, width, 1)}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'depths': [B, h, w, 1] float32}, all zero. Guidance does not use it: the map is not dropped."""
    return {"depths": np.zeros((batch_size, *setting.latent_shape[:2], 1), np.float32)}


def _bicubic(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: torch's bicubic interpolation, align_corners False, not anti-aliased (Keys 1981, a = -0.75)."""
    a, weights = -0.75, np.zeros((new_size, size))
    for i in range(new_size):
        at = (i + 0.5) * size / new_size - 0.5
        first = int(np.floor(at)) - 1
        for j in range(first, first + 4):
            d = abs(at - j)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(j, 0), size - 1)] += near if d <= 1 else far
    return weights
