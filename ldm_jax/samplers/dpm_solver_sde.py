"""DPM-Solver++(2M) and (3M) of the SDE: x_start extrapolated in the log-SNR, and fresh noise. Lu et al. 2022,
arXiv:2211.01095, section 5 and appendix A; for any eta, as k-diffusion's sample_dpmpp_2m_sde and sample_dpmpp_3m_sde.

Decides how much of a step's noise is fresh. How x_starts are combined is dpm_solver.py's.
"""

from collections.abc import Callable

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.dpm_solver import multistep
from ldm_jax.types import Array

STOCHASTIC = True  # with the default options: two keys give two images


def sampler(
    schedule: NoiseSchedule,
    *,
    eta: Array | float = 1.0,
    order: int = 2,
    solver_type: str = "midpoint",
    final_alpha: str = "one",
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """One call of the network per step.

    eta: >= 0, [], may be traced. 1: the reverse SDE of the process; 0: its ODE, which is dpm_solver. A step of length h
      in lambda keeps exp(-eta h) of the noise that x has.
    order, solver_type, final_alpha: as of dpm_solver. k-diffusion's 3M takes 'heun' where it looks back at one x_start.
    temperature: scales the fresh noise. noise_fn: (info, x) -> noise [B, ...], for prescribed noise.

    Raises: ValueError for an unknown final_alpha, order or solver_type.
    """
    return multistep(schedule, order, solver_type, final_alpha, eta, temperature, noise_fn)
