"""Latent consistency distillation: the guess of the clean image at one timestep should be the guess at the next less
noisy one, to which the guided teacher leads.

Decides the pairs of timesteps and the distance. Source: Luo et al. 2023 (arXiv:2310.04378), algorithm 1, whose numbers
are those of diffusers' train_lcm_distill_sd_wds.py; LCM-LoRA (arXiv:2311.05556) is the same loss of a delta, where the
student is not told the scale of guidance. With config.distillation.guidance_dim it is (training/base_model.py).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import log_alpha_bar, q_sample, transfer
from ldm_jax.samplers.lcm import boundary
from ldm_jax.system import System
from ldm_jax.training.distillation.base import Networks, Way, normal, split, truncated_snr, uniform
from ldm_jax.types import Array

TARGETS = ("average", "student")
WEIGHTINGS = ("none", "truncated_snr")


def distill(
    *,
    system: System,
    guidance_scales: Sequence[float] = (6.0, 16.0),
    original_steps: int = 50,
    timestep_scaling: float = 10.0,
    sigma_data: float = 0.5,
    huber_c: float = 0.001,
    target: str = "average",
    weighting: str = "none",
    guidance_dim: int | None = None,
) -> Way:
    """guidance_scales: the least and the largest scale of the teacher, drawn for each example; 1 is off (the paper's
    and diffusers' w is one less). original_steps: how many timesteps are trained, those of the spacing 'lcm'.
    timestep_scaling, sigma_data: as of the sampler 'lcm'. huber_c: of the pseudo-Huber distance; 0 is the square.
    weighting: of the distance: 'none', as in the paper, or 'truncated_snr', by which it counts at the least noisy
    timesteps, where alone the target is not another guess. Without it a student of v drifted from the teacher there
    (docs/personalization.md).
    guidance_dim: of the scale's embedding in the student, which is not told of it with None.
    target: whose guess is the target, the running average's, or the student's own (as with LoRA in diffusers).

    Raises: ValueError for scales out of order, more steps than timesteps, or another target or weighting.
    """
    schedule = system.schedule
    assert system.unet.guidance_dim == guidance_dim or guidance_dim is None
    low, high = guidance_scales
    if not 1 <= low <= high:
        raise ValueError(f"distillation.guidance_scales: got {low} to {high}, expected 1 <= least <= largest")
    if not 1 <= original_steps <= schedule.num_timesteps:
        raise ValueError(
            f"distillation.original_steps: got {original_steps}, expected 1 to {schedule.num_timesteps}"
        )
    if target not in TARGETS:
        raise ValueError(f"distillation.target: got {target!r}, expected one of {', '.join(TARGETS)}")
    if weighting not in WEIGHTINGS:
        raise ValueError(
            f"distillation.weighting: got {weighting!r}, expected one of {', '.join(WEIGHTINGS)}"
        )
    stride = schedule.num_timesteps // original_steps

    def loss(networks: Networks, x_start: Array, keys: Array) -> tuple[Array, dict[str, Array]]:
        index_key, noise_key, scale_key = split(keys, 3)

        # 1. A pair of timesteps t > s, and x_t.
        t = (uniform(index_key, original_steps) + 1) * stride - 1
        s = jnp.maximum(t - stride, 0)
        x_t = q_sample(schedule, x_start, t, normal(noise_key, x_start))

        # 2. The student's guess at t, which is told the scale if it has a place for it.
        scale = low + (high - low) * jax.vmap(jax.random.uniform)(scale_key)
        guess = boundary(x_t, networks.student(x_t, t, told=scale).x_start, t, timestep_scaling, sigma_data)

        # 3. The teacher's step of DDIM to s, guided.
        eps = networks.teacher(x_t, t, scale if high > 1 else None).eps
        log_t, log_s = (log_alpha_bar(schedule, at, x_t) for at in (t, s))
        x_s = transfer(x_t, eps, log_t, log_s)

        # 4. The guess there, and the distance of the two.
        other = networks.average if target == "average" else networks.student
        wanted = boundary(x_s, other(x_s, s, told=scale).x_start, s, timestep_scaling, sigma_data)
        weight = truncated_snr(log_t) if weighting == "truncated_snr" else 1.0
        return weight * distance(guess, jax.lax.stop_gradient(wanted), huber_c), {}

    return Way(loss, sees_average=target == "average")


def distance(a: Array, b: Array, huber_c: float) -> Array:
    """[B]: the mean of sqrt((a - b)^2 + c^2) - c, or with c = 0 of (a - b)^2, over each example of [B, ...]."""
    squares = (a - b) ** 2
    errors = jnp.sqrt(squares + huber_c**2) - huber_c if huber_c else squares
    return errors.reshape(len(a), -1).mean(1)
