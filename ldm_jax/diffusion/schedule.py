"""The noise level of each timestep: the beta schedules and everything computed from betas alone.

Decides: the named schedules, and that all tables are computed in float64 and stored as float32. Knows nothing
of x, of networks, of sub-sequences of timesteps or of samplers.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.types import Array

# Stands in for an alphas_cumprod of exactly zero: x_start cannot be read from eps where no signal is left,
# and eps is what passes between networks and samplers. 2**-24 leaves float32 about three digits of x_start
# and is 72 dB below the noise.
TERMINAL_ALPHA_CUMPROD = 2.0**-24


class NoiseSchedule(struct.PyTreeNode):
    """The tables of one variance preserving process, all [T] float32 and indexed by t in [0, T).

    x_t = sqrt(alphas_cumprod[t]) x_start + sqrt(1 - alphas_cumprod[t]) noise (Ho et al. 2020,
    arXiv:2006.11239, eq. 4). `log_alphas_cumprod` is kept because differences of it stay accurate where
    alphas_cumprod is near 0 or near 1. The posterior tables are of q(x_{t-1} | x_t, x_start) (same paper,
    eqs. 6 and 7); `v_posterior` [] float32 is the share of beta mixed into its variance.
    """

    betas: Array
    alphas_cumprod: Array
    alphas_cumprod_prev: Array
    log_alphas_cumprod: Array
    sqrt_alphas_cumprod: Array
    sqrt_one_minus_alphas_cumprod: Array
    posterior_variance: Array
    posterior_log_variance_clipped: Array
    posterior_mean_coef1: Array
    posterior_mean_coef2: Array
    v_posterior: Array

    @property
    def num_timesteps(self) -> int:
        """T, a python int."""
        return self.betas.shape[0]

    @property
    def sigmas(self) -> Array:
        """The noise relative to the signal, sqrt((1 - alphas_cumprod) / alphas_cumprod), [T] float32."""
        return jnp.sqrt(jnp.expm1(-self.log_alphas_cumprod))


def _cosine(num, start, end, s):
    angle = (np.arange(num + 1, dtype=np.float64) / num + s) / (1 + s) * np.pi / 2
    alphas_cumprod = np.cos(angle) ** 2
    return np.clip(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0, 0.999)


# (T, beta_start, beta_end, cosine_s) -> betas [T] float64. The names are the original's
# (ldm/modules/diffusionmodules/ util.py): its "linear" is linear in sqrt(beta), what diffusers calls
# "scaled_linear"; "sqrt_linear" is the plain one.
SCHEDULES = {
    "linear": lambda num, start, end, s: np.linspace(start**0.5, end**0.5, num) ** 2,
    "cosine": _cosine,
    "sqrt_linear": lambda num, start, end, s: np.linspace(start, end, num),
    "sqrt": lambda num, start, end, s: np.linspace(start, end, num) ** 0.5,
    "squaredcos_cap_v2": lambda num, start, end, s: _cosine(num, start, end, 0.008),
}


def make_betas(
    name: str, num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 2e-2, cosine_s: float = 8e-3
) -> np.ndarray:
    """The betas of a named schedule, [T] float64 in (0, 1).

    Raises: ValueError for an unknown name (listing the known ones), num_timesteps < 1, or betas outside
      0 < beta_start <= beta_end < 1. The two cosine schedules ignore beta_start and beta_end.
    """
    if name not in SCHEDULES:
        raise ValueError(f"noise schedule {name!r} not found; known: {', '.join(SCHEDULES)}")
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps: got {num_timesteps}, expected at least 1")
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"betas: got beta_start={beta_start}, beta_end={beta_end}, expected 0 < start <= end < 1"
        )
    return SCHEDULES[name](num_timesteps, beta_start, beta_end, cosine_s)


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Lin et al. 2023 (arXiv:2305.08891), algorithm 1, except that the last alphas_cumprod is 2**-24 instead
    of 0.
    """
    if len(betas) < 2:
        raise ValueError(f"zero_terminal_snr: got num_timesteps={len(betas)}, expected at least 2")
    roots = np.sqrt(np.cumprod(1 - betas))
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    alphas_cumprod = roots**2
    alphas_cumprod[-1] = TERMINAL_ALPHA_CUMPROD
    return 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])


def make_schedule(
    name: str,
    num_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 2e-2,
    cosine_s: float = 8e-3,
    v_posterior: float = 0.0,
    zero_terminal_snr: bool = False,
) -> NoiseSchedule:
    """The named schedule: 'linear', 'cosine', 'sqrt_linear', 'sqrt' or 'squaredcos_cap_v2'.

    v_posterior: in [0, 1]; the variance of p(x_{t-1} | x_t) is (1 - v) posterior variance + v beta_t.
    zero_terminal_snr: rescale so that (almost) no signal is left at t = T - 1. Wants a v- or x_start-model
      and trailing timesteps; the original never does it and still starts from pure noise.

    Raises: ValueError as `make_betas`, and for a v_posterior outside [0, 1].
    Source: original ldm/models/diffusion/ddpm.py register_schedule.
    """
    betas = make_betas(name, num_timesteps, beta_start, beta_end, cosine_s)
    if zero_terminal_snr:
        betas = _rescale_zero_terminal_snr(betas)
    tables = make_tables(betas, v_posterior) | dict(v_posterior=v_posterior)
    return NoiseSchedule(**{k: jnp.asarray(v, jnp.float32) for k, v in tables.items()})


def same_levels(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Whether two schedules have the same noise at each of as many timesteps, but for rounding."""
    levels, others = one.alphas_cumprod, other.alphas_cumprod
    return levels.shape == others.shape and bool(np.allclose(levels, others, atol=1e-5))


def make_tables(betas: np.ndarray, v_posterior: float = 0.0) -> dict[str, np.ndarray]:
    """The tables of NoiseSchedule that follow from betas [T] float64 in (0, 1), each [T] float64.

    Raises: ValueError for a v_posterior outside [0, 1].
    """
    if not 0 <= v_posterior <= 1:
        raise ValueError(f"v_posterior: got {v_posterior}, expected a number in [0, 1]")
    log_alphas_cumprod = np.cumsum(np.log1p(-betas))
    alphas_cumprod = np.exp(log_alphas_cumprod)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    one_minus = -np.expm1(log_alphas_cumprod)
    one_minus_prev = np.append(0.0, one_minus[:-1])
    posterior_variance = (1 - v_posterior) * betas * one_minus_prev / one_minus + v_posterior * betas
    return dict(
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        log_alphas_cumprod=log_alphas_cumprod,
        sqrt_alphas_cumprod=np.exp(0.5 * log_alphas_cumprod),
        sqrt_one_minus_alphas_cumprod=np.sqrt(one_minus),
        posterior_variance=posterior_variance,
        posterior_log_variance_clipped=np.log(np.maximum(posterior_variance, 1e-20)),
        posterior_mean_coef1=betas * np.sqrt(alphas_cumprod_prev) / one_minus,
        posterior_mean_coef2=one_minus_prev * np.sqrt(1 - betas) / one_minus,
    )
