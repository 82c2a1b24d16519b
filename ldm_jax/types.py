"""The array vocabulary: what passes between the rooms. No logic lives here.

Shapes are written with the field's letters: B batch, H W pixels, h w latent cells, C c channels, L tokens, D width.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct

Array = jax.Array
PyTree = Any

MAX_SEED = 2**32 - 1  # of a picture: jax keys are made of 32 bits
# Of every key that a promise hangs on. Under the others of jax, which JAX_DEFAULT_PRNG_IMPL chooses, vmap over keys
# draws what the first key gives, so that an image would depend on those beside it (docs of jax.random, "Advanced RNG
# configuration").
KEY_IMPL = "threefry2x32"

# (x [B,h,w,c] float32, t [B] int32, control=None) -> (eps [B,h,w,c] float32, taps: dict of arrays, {} when nothing is
# recorded). All that samplers and guidance know of a network. Models that predict v or x_start are adapted to it
# (diffusion/process.py).
EpsFn = Callable[..., tuple[Array, dict]]


class Cond(struct.PyTreeNode):
    """What a network is conditioned on. Presence is the mechanism: a field that is None is not there.

    context: [B, L, D] float, attended to by cross-attention; L is not fixed.
    concat:  [B, h, w, c'] float, concatenated to the channels of x, after them.
    vector:  [B] int32 class labels, or [B, D] float; added to the timestep embedding through its own embedding.
    guidance: [B] float, the scale of guidance that a network was distilled with and is told of.
    hints:   {'images': [B, n, H, W, C] float in [0, 1], 'scales', 'starts', 'stops': [B, n] float, 'T': [B] float},
        what n ControlNets beside the network see, how much each counts, and from which part of the noise to which;
        'adapter_images' and so on, the same of T2I-Adapters;
        'instances', what is where (models/instances.py);
        {'embedding': [B, D], 'embedding_scale': [B]}, what an IP-Adapter attends to.
    """

    context: Array | None = None
    concat: Array | None = None
    vector: Array | None = None
    hints: dict[str, Array] | None = None
    guidance: Array | None = None
