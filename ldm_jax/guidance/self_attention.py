"""Self-attention guidance (Hong et al. 2023, arXiv:2210.00939): away from a prediction whose most attended cells were blurred.

Decides which cells are blurred, by the self-attention in the middle of the network, and how the picture is degraded. Where it stands
around classifier-free guidance it looks at the unconditional half, as the original does; else at the only prediction.
Source: algorithm 1 with the code's readings (KU-CVLAB/Self-Attention-Guidance, diffusers' StableDiffusionSAGPipeline): the map is the
mean over heads summed over queries, whose mean is 1, and cells above 1 are blurred. The degraded prediction is taken as eps before it
is subtracted; for a network that predicts eps it is the code's, which subtracts what the network says.
"""

import jax
import jax.numpy as jnp

from ldm_jax.control.base import Control, Site, chain, own
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.guidance.base import UNCOND, unconditional
from ldm_jax.types import Array, EpsFn

NEUTRAL = dict(scale=0.0)
CONTROLS = True
KERNEL = 9  # cells of the Gaussian's side


def prepare(call, *, scale: float = 0.75, sigma: float = 1.0) -> dict | None:
    """scale, sigma: as of `guide`. Raises: ValueError for a sigma that is not above 0."""
    if sigma <= 0:
        raise ValueError(f"self_attention: sigma is {sigma}, expected a number above 0, in latent cells")
    return None if scale == 0 else dict(scale=scale, sigma=sigma)


class MiddleMap(Control):
    """Reads how much each cell is attended to in the middle: the first self-attention there, [B, N], mean 1."""

    def touches(self, site: Site) -> bool:
        return site.kind == "self" and site.name in ("mid.attn", "mid.attn.0")

    def record(self, site: Site, value: Array) -> Array:
        return value.mean(1).sum(1)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array = 0.75, sigma: Array = 1.0) -> EpsFn:
    """eps + s (eps_u - eps_u(degraded)). One more call of the network; under classifier-free guidance and a control a doubled one.

    scale: s, [] float32; the paper's .75 is for Stable Diffusion, 0 is off. sigma: [] float32 in latent cells, of the Gaussian.
    Raises: ValueError, as it is traced, for a network without self-attention in its middle.
    """

    def guided(x, t, control=None):
        # 1. The prediction, with the map of the middle.
        controls = (control, MiddleMap())
        eps, taps = eps_fn(x, t, chain(controls))
        maps = [value for name, value in own(taps, controls, 1).items() if name.endswith("/self")]
        if not maps:
            raise ValueError(
                "self_attention: this network has no self-attention in its middle, expected one whose map says where to blur"
            )
        eps_u = taps.get(UNCOND, eps)

        # 2. The clean picture, blurred where it is attended to most; noised again with the same eps.
        mask = attended(maps[0][: x.shape[0]], x.shape)
        x_start = denoiser.x_start(x, t, eps_u)
        degraded = q_sample(denoiser.schedule, mask * blur(x_start, sigma) + (1 - mask) * x_start, t, eps_u)

        # 3. Away from what the network says of it.
        if UNCOND in taps:
            eps_degraded = unconditional(denoiser, degraded, t, denoiser.uncond_at(t), control)
        else:
            eps_degraded, _ = denoiser.conditional(degraded, t, control)
        return eps + scale * (eps_u - eps_degraded), own(taps, controls, 0)

    return guided


def attended(attention: Array, shape: tuple[int, ...]) -> Array:
    """[B, N], mean 1 -> [B, h, w, 1] float32, 1 where more than the mean is attended to; the nearest cell of the coarser map."""
    b, height, width, _ = shape
    factor = round((height * width / attention.shape[1]) ** 0.5)
    coarse = (attention > 1).reshape(b, height // factor, width // factor, 1)
    return jax.image.resize(coarse.astype(jnp.float32), (b, height, width, 1), "nearest")


def blur(x: Array, sigma: Array) -> Array:
    """x [B, h, w, c] under a Gaussian of KERNEL x KERNEL cells, reflected at the border."""
    at = jnp.arange(KERNEL) - KERNEL // 2
    weights = jnp.exp(-0.5 * (at / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    for axis in (1, 2):
        pad = [(KERNEL // 2, KERNEL // 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, pad, mode="reflect")
        length = x.shape[axis]
        x = sum(w * jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i, w in enumerate(weights))
    return x
