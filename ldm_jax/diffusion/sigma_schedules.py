"""Noise levels to visit that are spaced by what they are, and not by their timesteps.

sigma is the noise relative to the signal, sqrt((1 - alphas_cumprod) / alphas_cumprod). Decides the levels between
a largest and a smallest one, in numpy, before anything is traced; which timesteps have these levels is timesteps.py's.
"""

import numpy as np
from scipy.special import betaincinv

# Sabour et al. 2024, "Align Your Steps" (arXiv:2404.14507): levels found for 10 steps of the noise schedule that Stable
# Diffusion 1 and SDXL share, largest first; the last is the smallest of that schedule, where the 10th step leads.
AYS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}


def karras(largest: float, smallest: float, num_steps: int, rho: float = 7.0) -> np.ndarray:
    """[num_steps] float64 from `largest` to `smallest`, evenly spaced in sigma^(1 / rho). Karras et al. 2022,
    arXiv:2206.00364, eq. 5.
    """
    ends = largest ** (1 / rho), smallest ** (1 / rho)
    return np.linspace(*ends, num_steps) ** rho


def exponential(largest: float, smallest: float, num_steps: int) -> np.ndarray:
    """[num_steps] float64 from `largest` to `smallest`, evenly spaced in log sigma (k-diffusion's name)."""
    return np.exp(np.linspace(np.log(largest), np.log(smallest), num_steps))


def beta(largest: float, smallest: float, num_steps: int, alpha: float = 0.6) -> np.ndarray:
    """[num_steps] float64 from `largest` to `smallest` at quantiles of a beta distribution with both parameters alpha:
    denser at both ends. Lee et al. 2024, arXiv:2407.12173, as diffusers takes it: of sigma, not of the timestep.
    """
    return smallest + betaincinv(alpha, alpha, np.linspace(1, 0, num_steps)) * (largest - smallest)


def ays(model: str, num_steps: int) -> np.ndarray:
    """[num_steps] float64 of the table AYS[model]: its own at 10 steps, elsewhere interpolated in log sigma."""
    levels = np.log(AYS[model])
    places = np.linspace(0, len(levels) - 1, num_steps + 1)[:-1]
    return np.exp(np.interp(places, np.arange(len(levels)), levels))
