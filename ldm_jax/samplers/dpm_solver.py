"""DPM-Solver++(2M) and (3M): x_start extrapolated in the log-SNR. Lu et al. 2022, arXiv:2211.01095, algorithm 2.

Decides: how the last x_starts are combined, and which steps are of a lower order. Knows nothing of which timesteps are
visited. dpm_solver_sde.py is the same with fresh noise.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, drawn_noise
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels
from ldm_jax.samplers.history import History
from ldm_jax.types import Array

STOCHASTIC = False
ORDERS = (2, 3)
SOLVER_TYPES = ("midpoint", "heun")

# Runs of fewer steps end with a step of first order (lower_order_final in diffusers and in the solver that the
# CompVis and Stability code wraps, ldm/models/diffusion/dpm_solver/dpm_solver.py).
SHORT_RUN = 15


def half_log_snr(log_bar: Array) -> Array:
    """lambda of the paper, log(signal / sigma); inf at the clean image."""
    return 0.5 * (log_bar - jnp.log(-jnp.expm1(log_bar)))


def most_points_before(info, final_alpha: str) -> Array:
    """How many earlier values a step may look back at: none at the last step of a run that ends in first order, one at
    the step before it in a run of fewer than SHORT_RUN steps.
    """
    is_short = info.num_steps < SHORT_RUN
    ends_in_first_order = (info.t_prev < 0) & ((final_alpha == "one") | is_short)
    is_second_last = info.index == info.num_steps - 2
    return jnp.where(ends_in_first_order, 0, jnp.where(is_short & is_second_last, 1, 3))


def check_choice(name: str, value, known: tuple) -> None:
    """Raises: ValueError that lists what is known if value is none of it."""
    if value not in known or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(str, known))}")


def sampler(
    schedule: NoiseSchedule, *, final_alpha: str = "one", order: int = 2, solver_type: str = "midpoint"
) -> Sampler:
    """Data prediction, multistep; one call of the network per step.

    final_alpha: where the last step leads. 'one': the clean image, diffusers' default; the
      step has infinite length in lambda, so it is of first order and gives the predicted x_start. 'first': the
      noise of timestep 0, as the original's wrapper (and diffusers with final_sigmas_type 'sigma_min'), of full
      order in runs of at least 15 steps.
    order: 2, or 3, which looks back at one x_start more. It weighs the second difference as the original's code
      (multistep_dpm_solver_third_update) does, half of what the integral of the parabola gives: the error is smaller
      than of 2, and falls as that does.
    solver_type: how steps of second order weigh the slope. 'midpoint', the paper's, or 'heun', the exact integral.
    The first step, and one after a step that led nowhere (a timestep visited twice), is of first order, which is
    DDIM. x_start is read from eps: at a terminal alphas_cumprod of 2**-24 float32 leaves three digits of it, all
    that the next step, which leads to as little signal, can use.
    State: a History of x_start over lambda.

    Raises: ValueError for an unknown final_alpha, order or solver_type.
    """
    return multistep(schedule, order, solver_type, final_alpha)


def multistep(
    schedule: NoiseSchedule,
    order: int,
    solver_type: str,
    final_alpha: str,
    eta: Array | float = 0.0,
    temperature: Array | float = 1.0,
    noise_fn: Callable = drawn_noise,
) -> Sampler:
    """The sampler of this file at eta 0, and that of dpm_solver_sde.py otherwise, whose formulas hold for any eta."""
    end = end_log_alpha_bar(schedule, final_alpha)
    check_choice("order", order, ORDERS)
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    is_ode = isinstance(eta, int | float) and eta == 0

    def step(eps_fn, history, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        (signal, sigma), (signal_prev, sigma_prev) = (
            (jnp.exp(0.5 * b), jnp.sqrt(-jnp.expm1(b))) for b in (log_bar, log_bar_prev)
        )
        x_start = (x - sigma * eps) / signal
        now, to = half_log_snr(log_bar), half_log_snr(log_bar_prev)
        history = history.at(now)
        most = jnp.minimum(most_points_before(info, final_alpha), order - 1)
        differences = history.divided_differences(x_start, now, most)

        ratio = sigma_prev / sigma * signal / signal_prev  # exp(-h) of the step's length h in lambda
        whole = 1 - ratio ** (1 + eta)
        # The length, chosen before multiplying: `to` may be infinite, where most is 0.
        h = jnp.where(most > 0, to - now, 0.0)
        slope = _slope(differences, h, (1 + eta) * h, whole, now - history.places[0], solver_type)
        x = sigma_prev / sigma * ratio**eta * x + signal_prev * (whole * x_start + slope)
        if not is_ode:
            fresh = sigma_prev * jnp.sqrt(jnp.maximum(1 - ratio ** (2 * eta), 0.0))
            x = x + fresh * temperature * noise_fn(info, x)
        return history.with_next(x_start, now), x, taps

    return Sampler(lambda x_T: History.empty(x_T, order - 1), step)


def _slope(
    differences: list[Array], h: Array, long: Array, whole: Array, before: Array, solver_type: str
) -> Array:
    """What x_start changes by over a step, as it is weighed.

    differences: divided, in lambda, of first and perhaps second order. h: the step's length in lambda. long:
    (1 + eta) h. whole: 1 - exp(-long). before: the length of the step before.
    """
    first, *second = differences
    divisor = jnp.where(long > 0, long, 1.0)
    phi_2 = 1 - whole / divisor
    weight = 0.5 * whole if solver_type == "midpoint" else phi_2
    of_two = weight * h * first
    if not second:
        return of_two
    bend = second[0]
    of_three = phi_2 * h * (first + before * bend) - (phi_2 / divisor - 0.5) * h**2 * bend
    return jnp.where(bend == 0, of_two, of_three)
