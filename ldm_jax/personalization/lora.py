"""LoRA: kernels W stay, and a product of two thin matrices is learned beside each, W + (alpha / r) A B.

Decides which kernels are adapted and how their factors begin; their arithmetic is low_rank.py's. down is A, up is B;
B begins at zero, so the model begins as it was. Merging adds the product to the kernel, in float32.
Source: Hu et al. 2021 (arXiv:2106.09685) section 4.1; A's law is that of a torch Linear, as in cloneofsimo/lora and
PEFT, kaiming_uniform with a = sqrt(5). Convolutions: KohakuBlueleaf/LyCORIS, LoCon. dora: Liu et al. 2024
(arXiv:2402.09353).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.personalization import low_rank
from ldm_jax.personalization import words as tables
from ldm_jax.types import Array, PyTree

TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out",
)  # the projections of attention, as PEFT and kohya train them by default
TEXT = (*TARGETS, "qkv", "ff_in", "ff_out")  # of a text encoder, attention and feed-forward, as kohya
CONVOLUTIONS = ("conv", "conv_1", "conv_2")  # those of residual and resampling blocks, as LoCon


def words(*, token: str | None = None, begins: str | None = None) -> tables.Words | None:
    """token: a new word that is learned beside; None: none is, and the captions name a rare one. begins: as of
    textual_inversion.
    """
    return tables.at_most_one("lora", token, begins)


def init(
    key: Array,
    params: PyTree,
    *,
    rank: int = 4,
    targets: Sequence[str] = TARGETS,
    conv_rank: int | None = None,
    text_rank: int | None = None,
    dora: bool = False,
    token: str | None = None,
) -> PyTree:
    """The delta: down uniform in +-1 / sqrt(in), up zero, float32.

    rank: r >= 1, at most the smaller side of every kernel. targets: names of the network's layers whose kernels [in,
    out] are adapted. conv_rank: of its convolutions; None leaves them. text_rank: of the text encoder's attention and
    feed-forward; None leaves it. dora: learn the lengths of the outputs apart. token: as of `words`, whose row is in
    the delta as it begins.
    Raises: ValueError for a target that the model does not have, or a rank that is too large.
    """
    adapted = [(rank, low_rank.kernels(params, targets, 2, "unet"))]
    _check_targets(params, targets, adapted[0][1])
    if conv_rank is not None:
        adapted.append((conv_rank, low_rank.kernels(params, CONVOLUTIONS, 4, "unet")))
    if text_rank is not None:
        found = low_rank.kernels(params, TEXT, 2, "conditioner")
        if not found:
            raise ValueError(f"lora: text_rank is {text_rank}, and the model has no text encoder")
        adapted.append((text_rank, found))
    delta = {}
    for i, (path, kernel, r) in enumerate((p, k, r) for r, found in adapted for p, k in found.items()):
        delta |= _factors(jax.random.fold_in(key, i), path, kernel, r, dora)
    return unflatten(delta | tables.rows_of(params, token))


def _factors(key: Array, path: ParamPath, kernel: Array, rank: int, dora: bool) -> dict[ParamPath, Array]:
    low_rank.check_rank("lora", rank, path, kernel)
    *wide, out = kernel.shape
    bound = float(np.prod(wide)) ** -0.5
    factors = {
        (*path, "down"): jax.random.uniform(key, (*wide, rank), jnp.float32, -bound, bound),
        (*path, "up"): jnp.zeros((rank, out), jnp.float32),
    }
    return factors | ({(*path, "magnitude"): jnp.zeros(out, jnp.float32)} if dora else {})


def merge(
    params: PyTree, delta: PyTree, *, weight: Array | float = 1.0, alpha: float | None = None
) -> PyTree:
    """W + weight (alpha / r) A B for every kernel that the delta has. alpha: None is r, so that weight counts alone.

    Raises: ValueError for a kernel that the model does not have, or has in another shape.
    """
    return low_rank.merged(params, delta, weight, alpha)


def _check_targets(params: PyTree, targets: Sequence[str], kernels: dict) -> None:
    missing = [name for name in targets if not any(name in path for path in kernels)]
    if missing:
        network = flatten(params["unet"])
        there = sorted(
            {path[-2] for path, leaf in network.items() if path[-1] == "kernel" and leaf.ndim == 2}
        )
        raise ValueError(f"lora: the model has no linear layer {missing[0]!r}; it has: {', '.join(there)}")
