"""Euler's method on the probability flow ODE. Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn.

Decides: that a step follows the slope at its start. Knows nothing of which timesteps are visited.

There the process only adds noise: x_ve = x / sqrt(alphas_cumprod), whose noise has standard deviation
sigma = sqrt((1 - alphas_cumprod) / alphas_cumprod), and the slope d x_ve / d sigma is eps itself. A step adds
(sigma_prev - sigma) eps to x_ve; written for x, the variance-preserving variable that networks see, this is DDIM at
eta = 0 (Song et al. 2021, arXiv:2010.02502, section 4.3). So this file and ddim differ in where the last step
leads, and in nothing else: k-diffusion, diffusers and sgm end at sigma = 0, the original's DDIM one level before.

x_T is standard normal noise here as everywhere: x_ve = noise sqrt(sigma^2 + 1), which is what sgm starts from,
and diffusers with 'leading' timesteps. With 'trailing' or 'linspace' ones diffusers starts from noise sigma,
which is smaller by the factor sqrt(1 - alphas_cumprod) of the first timestep (0.2 % for Stable Diffusion).
"""

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels

STOCHASTIC = False


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one") -> Sampler:
    """One call of the network per step.

    final_alpha: where the last step leads. 'one', sigma = 0: the predicted x_start, as k-diffusion and sgm (and
      diffusers with final_sigmas_type 'zero'). 'first': the noise of timestep 0 (diffusers' 'sigma_min').

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, state, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        return state, transfer(x, eps, log_bar, log_bar_prev), taps

    return Sampler(lambda x_T: (), step)
