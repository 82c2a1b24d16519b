"""Linear multistep: eps extrapolated in sigma by a polynomial through the last four. k-diffusion's sample_lms.

Decides how the last eps are combined. Knows nothing of which timesteps are visited. The rule is that of Adams and
Bashforth for steps of any length, on the probability flow ODE of Karras et al. 2022 (arXiv:2206.00364), whose
slope over sigma is eps: see samplers/euler.py, also for what x_T is.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.samplers.dpm_solver import check_choice
from ldm_jax.samplers.history import History

STOCHASTIC = False
ORDERS = (1, 2, 3, 4)


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one", order: int = 4) -> Sampler:
    """One call of the network per step.

    final_alpha: where the last step leads. 'one', sigma = 0, as k-diffusion and diffusers, which sigma being 0 is no
      bar to; 'first': the noise of timestep 0.
    order: 1 to 4, the number of eps through which the polynomial goes; the first steps take what there is.
    State: a History of eps over sigma.

    Raises: ValueError for an unknown final_alpha or order.
    """
    end = end_log_alpha_bar(schedule, final_alpha)
    check_choice("order", order, ORDERS)

    def step(eps_fn, history, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        now, to = (jnp.sqrt(jnp.expm1(-b)) for b in (log_bar, log_bar_prev))
        history = history.at(now)
        differences = history.divided_differences(eps, now, order - 1)

        # Newton's polynomials s, s (s - s_1), s (s - s_1) (s - s_2), integrated over s = sigma - now from 0 to h.
        h, s = to - now, history.places - now
        integrals = [h**2 / 2]
        if order > 2:
            integrals.append(h**3 / 3 - s[0] * h**2 / 2)
        if order > 3:
            integrals.append(h**4 / 4 - (s[0] + s[1]) * h**3 / 3 + s[0] * s[1] * h**2 / 2)
        more = sum(w * d for w, d in zip(integrals, differences, strict=order > 1))
        x = transfer(x, eps, log_bar, log_bar_prev) + jnp.exp(0.5 * log_bar_prev) * more
        return history.with_next(eps, now), x, taps

    return Sampler(lambda x_T: History.empty(x_T, order - 1), step)
