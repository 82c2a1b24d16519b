"""PLMS: DDIM's update with eps extrapolated from the steps before. Liu et al. 2022, arXiv:2202.09778.

Decides: how the last four eps are combined, and how the first step is made. Knows nothing of which timesteps
are visited.
"""

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.process import transfer
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.samplers.base import Sampler, batch_t
from ldm_jax.samplers.ddim import end_log_alpha_bar, eps_and_levels

STOCHASTIC = False

# Adams-Bashforth: row n weighs eps of this step and of up to three before, with n of those known. Row 0, Euler's step,
# is that of a first step which is also the last; other first steps are improved Euler.
_WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def sampler(schedule: NoiseSchedule, *, final_alpha: str = "first") -> Sampler:
    """The original's PLMSSampler (ldm/models/diffusion/plms.py), deterministic.

    The first step is improved Euler: eps at t, a DDIM step, eps there at t_prev, and their mean; one more call of the
    network than there are steps. A first step that is also the last is Euler's: there is no t_prev, and the original,
    which calls the network at t on the denoised picture (harmless only at its t = 1), has no use for the answer.
    With a network of v, eps is what is extrapolated; diffusers' PNDM extrapolates v, which is of first order, and the
    original takes v for eps.
    final_alpha: where the last step leads, as for ddim; the original's is 'first'.
    State: the last three eps, newest first, [3, B, ...].

    Raises: ValueError for an unknown final_alpha.
    """
    end = end_log_alpha_bar(schedule, final_alpha)

    def step(eps_fn, history, x, info):
        eps, log_bar, log_bar_prev, taps = eps_and_levels(eps_fn, schedule, x, info, end)
        eps = eps.astype(x.dtype)

        def improved_euler():
            eps_next, _ = eps_fn(transfer(x, eps, log_bar, log_bar_prev), batch_t(info.t_prev, x))
            return (eps + eps_next.astype(x.dtype)) / 2

        def multistep():
            weights = jnp.asarray(_WEIGHTS, x.dtype)[jnp.minimum(info.index, 3)]
            return weights[0] * eps + jnp.tensordot(weights[1:], history, 1, precision="highest")

        combined = lax.cond((info.index == 0) & (info.t_prev >= 0), improved_euler, multistep)
        history = jnp.concatenate([eps[None], history[:-1]])
        return history, transfer(x, combined, log_bar, log_bar_prev), taps

    return Sampler(lambda x_T: jnp.zeros((3, *x_T.shape), x_T.dtype), step)
