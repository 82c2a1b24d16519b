"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, arXiv:2304.06140): the noises of an
ancestral run that gives the picture.

The picture is noised to each timestep independently, and the noise of a step is what leads from one to the
next; so noises are larger than a sampler draws, and correlated, and they hold the picture's layout. The run
gives it again whatever the guidance, which is that of the edit. Source: algorithm 1; with the correction of
the reference code, that each step starts where the last one ended, so that errors of rounding do not add up.
The last noise is used where the sampler has room for it.
"""

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import ddim_variance, q_sample, transfer
from ldm_jax.guidance import classifier_free
from ldm_jax.inversion.base import levels
from ldm_jax.samplers.base import batch_t, step_infos, step_noise
from ldm_jax.types import Array

ETA = 1.0
FOLLOWS = False


def prepare(call, *, scale: float | None = None) -> dict:
    """scale: of guidance; None is the call's, with which the run gives the picture."""
    return dict(scale=call.guidance_scale if scale is None else scale)


def invert(
    denoiser: Denoiser, x_start: Array, keys: Array, end: Array | float, *, scale: Array
) -> dict[str, Array]:
    """S evaluations under guidance, where the model has any."""
    eps_fn = denoiser.conditional
    if denoiser.uncond is not None:
        eps_fn = classifier_free.guide(eps_fn, denoiser, scale=scale)
    infos = step_infos(denoiser.visited, keys)

    def noised(key, t):
        return q_sample(denoiser.schedule, x_start, t, step_noise(key, x_start.shape, "edit_friendly"))

    def step(x, at):
        info, next_key = at
        log_bar, log_bar_prev = levels(denoiser, info.t, info.t_prev, x, end)
        variance = ddim_variance(log_bar, log_bar_prev)
        eps, _ = eps_fn(x, batch_t(info.t, x))
        mean = transfer(x, eps, log_bar, log_bar_prev, variance)
        wanted = jnp.where(info.t_prev < 0, x_start, noised(next_key, jnp.maximum(info.t_prev, 0)))
        sigma = jnp.sqrt(variance)
        noise = jnp.where(sigma > 0, (wanted - mean) / jnp.where(sigma > 0, sigma, 1.0), 0.0)
        x = mean + sigma * noise
        return x, (x, noise)

    x_T = noised(infos.key[0], infos.t[0])
    _, (below, noises) = lax.scan(step, x_T, (infos, jnp.roll(infos.key, -1, axis=0)))
    return {"trajectory": jnp.concatenate([x_T[None], below]), "noises": noises}
