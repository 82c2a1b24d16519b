"""Ancestral sampling: each step draws from the posterior given the predicted x_start.

Decides: the mean and the variance of one step, which is the network's own where it predicts one. Knows nothing of which
timesteps are visited: on a sub-sequence the posterior is the one between the two timesteps, so that fewer steps is
still a proper chain.
Ho et al. 2020, arXiv:2006.11239, algorithm 2.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.learned_variance import VARIANCE, log_variance
from ldm_jax.diffusion.process import posterior_between, x_start_and_eps
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, batch_t, drawn_noise
from ldm_jax.types import Array

VARIANCES = ("learned", "posterior")
STOCHASTIC = True  # with the default options: two keys give two images


def sampler(
    schedule: NoiseSchedule,
    *,
    clip_denoised: float | None = None,
    variance: str = "learned",
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """The original's p_sample (ldm/models/diffusion/ddpm.py). The last step gives the predicted x_start.

    clip_denoised: the predicted x_start is clipped to [-clip_denoised, clip_denoised]; 1.0 is right for pixels (the
      original's pixel DDPM), None, no clipping, for latents.
    variance: 'learned' is the network's where it predicts one (diffusion/learned_variance.py), and the posterior's
      elsewhere; 'posterior' is that everywhere.
    temperature: scales the noise; [] or broadcastable against x; may be traced.
    noise_fn: (info, x) -> noise [B, ...], for noise that is prescribed and not drawn.

    The original knows this sampler only with all T timesteps; over those this is the same rule.
    Raises: ValueError for an unknown variance.
    """
    if variance not in VARIANCES:
        raise ValueError(f"sampler 'ddpm': variance {variance!r} not found; known: {', '.join(VARIANCES)}")

    def step(eps_fn, state, x, info):
        eps, taps = eps_fn(x, batch_t(info.t, x))
        x_start, _ = x_start_and_eps(schedule, x, info.t, eps, "eps")
        if clip_denoised is not None:
            x_start = jnp.clip(x_start, -clip_denoised, clip_denoised)
        mean, spread = posterior_between(schedule, x_start, x, info.t, info.t_prev)
        if variance == "learned" and VARIANCE in taps:
            nu = taps[VARIANCE][-x.shape[0] :]  # of the conditional rows
            spread = jnp.exp(log_variance(schedule, nu, info.t, info.t_prev))
        std = jnp.where(info.t_prev < 0, 0.0, jnp.sqrt(jnp.maximum(spread, 1e-20)))
        return state, mean + std * temperature * noise_fn(info, x), taps

    return Sampler(lambda x_T: (), step)
