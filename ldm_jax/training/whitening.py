"""Latents whose directions weigh alike: a rotation and scaling of a KL autoencoder's latents, folded into its 1 x 1
convolutions, so that it decodes what it encodes as before.

A diffusion loss weighs the directions of a latent by their variances. Where almost all of the variance is along one of
them, as of flat shapes on white ground, whose brightness it is, the loss hardly sees the others, such as a color's hue.
Source: principal component whitening, z' = c diag(std^-power) V^T (z - mean) with the covariance V diag(std^2) V^T of
the latents' channels; power 1 whitens, 0 turns alone. c keeps the variance of all channels together. The original
scales all channels by one factor (LatentDiffusion, scale_by_std).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.params import flatten, unflatten
from ldm_jax.types import PyTree

ROUNDING = 1e-6  # of the largest variance: less is that of float32, and no direction of the latents


class Whitening(NamedTuple):
    """z' = (z - mean) @ forward.T. mean [c], forward [c, c], turn [c, c] the orthogonal part of it, float64.

    std: [c], the deviations along the principal directions, the largest first.
    """

    mean: np.ndarray
    forward: np.ndarray
    turn: np.ndarray
    std: np.ndarray


def moments_of(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean [c], covariance [c, c]) float64 over all cells of latents [..., c]."""
    values = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    return values.mean(0), np.cov(values.T, bias=True)


def whitening(mean: np.ndarray, covariance: np.ndarray, power: float) -> Whitening:
    """The map for latents of this mean [c] and covariance [c, c]. power: in [0, 1].

    Raises: ValueError for a power outside of it, and for latents that do not vary along some direction.
    """
    if not 0 <= power <= 1:
        raise ValueError(f"power is {power}, expected 0 (turned alone) to 1 (all directions vary alike)")
    variance, directions = np.linalg.eigh(covariance)
    variance, directions = variance[::-1], directions[:, ::-1]
    if variance[-1] < ROUNDING * variance[0]:
        raise ValueError(
            f"the latents' variances along their principal directions are {', '.join(f'{v:.2g}' for v in variance)}, "
            f"expected each to be at least {ROUNDING:g} of the first"
        )
    std = np.sqrt(variance)
    scale = std**-power
    scale *= np.sqrt(variance.sum() / (variance * scale**2).sum())
    # an eigenvector's sign is the solver's: its largest part is positive here
    directions *= np.sign(np.take_along_axis(directions, abs(directions).argmax(0)[None], 0))
    return Whitening(mean, scale[:, None] * directions.T, directions.T, std)


def whitened_first_stage(params: PyTree, white: Whitening, variance: np.ndarray) -> PyTree:
    """params of a KL autoencoder with `white` in its two 1 x 1 convolutions.

    variance: [c], the mean variance of the posterior of each channel, which becomes a constant: a posterior whose
    channels are independent is none of independent channels after a rotation. Beside this nothing is changed: the
    posterior's mean is mapped, and what decodes it maps it back, to float32.
    """
    c = len(white.mean)
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    kernel, bias = (flat["quant_conv", part].astype(np.float64) for part in ("kernel", "bias"))
    means = np.einsum("xyio,po->xyip", kernel[..., :c], white.forward)
    kernel = np.concatenate([means, np.zeros_like(means)], -1)
    log_variance = np.log(white.forward**2 @ variance)
    bias = np.concatenate([white.forward @ (bias[:c] - white.mean), log_variance])
    back = np.linalg.inv(white.forward)  # z = back @ z' + mean
    old, old_bias = (flat["post_quant_conv", part].astype(np.float64) for part in ("kernel", "bias"))
    new = {
        ("quant_conv", "kernel"): kernel,
        ("quant_conv", "bias"): bias,
        ("post_quant_conv", "kernel"): np.einsum("xyif,ip->xypf", old, back),
        ("post_quant_conv", "bias"): old_bias + np.einsum("xyif,i->f", old, white.mean),
    }
    return unflatten(flat | {path: array.astype(np.float32) for path, array in new.items()})


def turned_network(params: PyTree, white: Whitening, at: Sequence[int] = (0,)) -> PyTree:
    """params of a UNet with its first and last convolution turned as the latents are, so that training goes on from
    what it knows.

    It is not what it was: the mean that is taken off, and the scaling, which the noise does not share, are to be
    learned. at: the first input channels of each latent that it sees.
    """
    c, turn = len(white.mean), white.turn
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    first = flat["conv_in", "kernel"].copy()
    for start in at:
        if start + c > first.shape[2]:
            raise ValueError(
                f"a latent of {c} channels at input channel {start}, expected one within the network's {first.shape[2]}"
            )
        first[:, :, start : start + c] = np.einsum("po,xyof->xypf", turn, first[:, :, start : start + c])
    last, bias = flat["conv_out", "kernel"], flat["conv_out", "bias"]
    if last.shape[3] != c:
        raise ValueError(f"the network gives {last.shape[3]} channels, expected those of a latent, {c}")
    new = {
        ("conv_in", "kernel"): first,
        ("conv_out", "kernel"): np.einsum("po,xyfo->xyfp", turn, last),
        ("conv_out", "bias"): turn @ bias,
    }
    return unflatten(flat | {path: array.astype(np.float32) for path, array in new.items()})
