"""Progressive distillation: one step of the student should lead where two of the teacher's lead.

Decides the timesteps, the target and the weight. A run halves the number of steps once: the next one's base is this
one's result.
Source: Salimans and Ho 2022 (arXiv:2202.00512), algorithm 2 and section 4; the guided teacher of the first run is that
of Meng et al. 2023 (arXiv:2210.03142), at one scale.
"""

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import log_alpha_bar, q_sample, transfer
from ldm_jax.system import System
from ldm_jax.training.distillation.base import Networks, Way, normal, split, truncated_snr, uniform
from ldm_jax.types import Array


def distill(*, system: System, num_steps: int, guidance_scale: float = 1.0) -> Way:
    """num_steps: of the student, N; the teacher's are 2 N. Both visit the timesteps of the spacing 'trailing', and are
    sampled by DDIM with final_alpha 'one'. guidance_scale: of the teacher; 1 is off, as where it is a student itself.

    The error of x_start weighs max(SNR, 1) (their truncated SNR).
    Raises: ValueError for a number of steps that cannot be.
    """
    schedule, timesteps = system.schedule, system.schedule.num_timesteps
    if not 1 <= num_steps <= timesteps // 2:
        raise ValueError(f"distillation.num_steps: got {num_steps}, expected 1 to {timesteps // 2}")

    def visited(places: Array) -> Array:
        """The timesteps after `places` of 2 N equal parts of the noise; -1 is the clean image."""
        return jnp.round(places * (timesteps / (2 * num_steps))).astype(jnp.int32) - 1

    def loss(networks: Networks, x_start: Array, keys: Array) -> tuple[Array, dict[str, Array]]:
        index_key, noise_key = split(keys, 2)

        # 1. A step of the student's, of which the teacher makes two: t, t', t''.
        place = 2 * (uniform(index_key, num_steps) + 1)
        t, half, end = (visited(place - i) for i in range(3))
        z_t = q_sample(schedule, x_start, t, normal(noise_key, x_start))
        log_t, log_half, log_end = (log_alpha_bar(schedule, at, z_t) for at in (t, half, end))

        # 2. The teacher's two steps of DDIM.
        scale = jnp.full(len(z_t), guidance_scale) if guidance_scale != 1 else None
        z_half = transfer(z_t, networks.teacher(z_t, t, scale).eps, log_t, log_half)
        z_end = transfer(z_half, networks.teacher(z_half, half, scale).eps, log_half, log_end)

        # 3. The x_start that one step from z_t needs to come to z_end.
        ratio = jnp.sqrt(jnp.expm1(log_end) / jnp.expm1(log_t))  # sigma'' / sigma_t
        wanted = (z_end - ratio * z_t) / (jnp.exp(0.5 * log_end) - ratio * jnp.exp(0.5 * log_t))

        # 4. The student's, and the weighted error.
        found = networks.student(z_t, t).x_start
        errors = (found - jax.lax.stop_gradient(wanted)) ** 2
        return truncated_snr(log_t) * errors.reshape(len(errors), -1).mean(1), {}

    return Way(loss)
