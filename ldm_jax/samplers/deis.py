"""DEIS: eps extrapolated in the logarithm of the noise, and integrated exactly. Zhang & Chen 2023, arXiv:2204.13902,
the multistep method with polynomials in log rho (tAB-DEIS).

Decides how the last eps are combined, and which steps are of a lower order. Knows nothing of which timesteps are
visited.
"""

import jax.numpy as jnp

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.samplers.dpm_solver import check_choice, half_log_snr, most_points_before
from ldm_jax.samplers.history import History

STOCHASTIC = False
ORDERS = (2, 3)


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "one", order: int = 2) -> Sampler:
    """One call of the network per step.

    With rho = sigma / signal, x / signal changes by the integral of eps over rho; eps is taken as the polynomial in
    y = log rho through this step's and those of order - 1 steps before. The first steps look back at what there is.
    final_alpha: where the last step leads. 'one': the clean image, in first order, as the polynomial is of no use that
      far out. 'first': the noise of timestep 0, as diffusers always does, in runs of fewer than 15 steps in first
      order.
    order: 2 or 3, the number of eps.
    State: a History of eps over y.

    Raises: ValueError for an unknown final_alpha or order.
    """
    end = end_log_alpha_bar(schedule, final_alpha)
    check_choice("order", order, ORDERS)

    def step(eps_fn, history, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        now = -half_log_snr(log_bar)
        history = history.at(now)
        most = jnp.minimum(most_points_before(info, final_alpha), order - 1)
        first, *second = history.divided_differences(eps, now, most)

        # rho exp(y) y^n, integrated from y = 0 to -h.
        h = jnp.where(most > 0, -half_log_snr(log_bar_prev) - now, 0.0)
        moment_1 = 1 + jnp.exp(h) * (h - 1)
        integral = moment_1 * first
        if second:
            moment_2 = jnp.exp(h) * (h**2 - 2 * h + 2) - 2
            integral = integral + (moment_2 - (history.places[0] - now) * moment_1) * second[0]
        rho = jnp.exp(now)
        x = transfer(x, eps, log_bar, log_bar_prev) + jnp.exp(0.5 * log_bar_prev) * rho * integral
        return history.with_next(eps, now), x, taps

    return Sampler(lambda x_T: History.empty(x_T, order - 1), step)
