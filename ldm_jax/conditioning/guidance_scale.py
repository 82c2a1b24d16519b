"""Conditioning on the scale of guidance, which a distilled network has in it, in the place of guidance itself.

Decides that the scale of a run is told to the network: nobody types it as a condition. Its embedding is the network's
own (models/unet.py, guidance_dim).
Source: Meng et al. 2023 (arXiv:2210.03142), section 3.1; Luo et al. 2023 (arXiv:2310.04378), section 4.2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.types import Array, Cond

TAKES = ("guidance_scales",)
OPTIONAL = TAKES
EXAMPLE = {"guidance_scales": "guidance_scale"}
DROPS = ()
ENCODES = ()


class Conditioner(nn.Module):
    """Has no parameters of its own."""

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'guidance_scales': [B] float} -> Cond(guidance)."""
        return Cond(guidance=inputs["guidance_scales"])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: maybe 'guidance_scales', B numbers, 1 by default. Raises: ValueError for numbers that are not finite."""
    values = given.get("guidance_scales")
    size = len(next(iter(given.values()), [0]))
    return {"guidance_scales": numbers([1.0] * size if values is None else values, (), "guidance_scale")}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of a scale of 1. Guidance does not use it: such a network is not guided."""
    return {"guidance_scales": np.ones(batch_size, np.float32)}
