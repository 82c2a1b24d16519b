"""Which timesteps a sampler visits: sub-sequences of 0 .. T-1, in numpy, before anything is traced.

Decides: the spacings, and what becomes of step counts that do not divide T. Knows nothing of schedules or
samplers.

The original (ldm/modules/diffusionmodules/util.py make_ddim_timesteps) strides by T // S and adds one. That
gives S steps only where S divides T: with T = 1000, S = 400 runs 500 steps and S = 300 indexes one past the
end. Its rule is here by name (rule='original'); the default, rule='exact', gives S steps for every S in
[1, T] and the same steps as the original wherever that gives S valid ones.

Other libraries' spacings are here by their names. Where S divides T, 'uniform' is diffusers' 'leading' with
steps_offset 1, which is what Stable Diffusion and SDXL are published with; Turbo models are with 'trailing'.
diffusers' DPM-Solver spaces S + 1 levels, of which the last is the clean image, where its other samplers space
S: hence 'dpm_leading' and 'dpm_linspace'. Its DDIM and PNDM step from t to t - T // S whatever they visit next,
so that only 'leading', and 'trailing' where S divides T, are chains there, and their 'linspace', which is rounded, is
none: here each step leads to the timestep that is visited next.
"""

import re
from functools import partial

import numpy as np

from ldm_jax.diffusion import sigma_schedules

RULES = ("exact", "original")


def _check(num_train: int, num_steps: int, rule: str = "exact") -> None:
    if not 1 <= num_steps <= num_train:
        raise ValueError(
            f"num_steps: got {num_steps}, expected 1 to {num_train} (the number of training timesteps)"
        )
    if rule not in RULES:
        raise ValueError(f"timestep rule {rule!r} not found; known: {', '.join(RULES)}")


def _check_with_end(num_train: int, num_steps: int) -> None:
    if not 1 <= num_steps < num_train:
        raise ValueError(
            f"num_steps: got {num_steps}, expected 1 to {num_train - 1} (one timestep stands for the end)"
        )


def _offset(steps: np.ndarray, num_train: int, steps_offset: int) -> np.ndarray:
    if steps_offset < 0:
        raise ValueError(f"steps_offset: got {steps_offset}, expected at least 0")
    return (steps + min(steps_offset, num_train - 1 - steps[-1]))[::-1].astype(np.int32)


def _descending(steps: np.ndarray, num_train: int, num_steps: int) -> np.ndarray:
    if steps[-1] >= num_train:
        raise ValueError(
            f"num_steps: got {num_steps}, for which rule='original' visits timestep {steps[-1]}, "
            f"expected at most {num_train - 1}; rule='exact' takes any num_steps"
        )
    return steps[::-1].astype(np.int32)


def uniform(num_train: int, num_steps: int, shift: int = 1, rule: str = "exact") -> np.ndarray:
    """Evenly spaced from the clean end: floor(i T / S) + shift for i = S-1 .. 0.

    shift: added to every timestep (the original adds 1). Under 'exact' as much of it as keeps the largest
      below T, which is all of it unless S is near T: S = T gives T-1 .. 0.
    rule: 'exact' gives [num_steps] int32; 'original' gives ceil(T / (T // S)) steps, which may be more than
      asked.

    Returns: descending int32. The largest is below T-1 unless S is near T (S = 1 gives [1]); see `trailing`.
    Raises: ValueError for num_steps outside [1, num_train], an unknown rule, a negative shift, or, under
      'original', a timestep of T (where the original raises IndexError while sampling).
    """
    _check(num_train, num_steps, rule)
    if shift < 0:
        raise ValueError(f"shift: got {shift}, expected at least 0")
    if rule == "original":
        return _descending(np.arange(0, num_train, num_train // num_steps) + shift, num_train, num_steps)
    steps = np.arange(num_steps, dtype=np.int64) * num_train // num_steps
    return _descending(steps + min(shift, num_train - 1 - steps[-1]), num_train, num_steps)


def quad(num_train: int, num_steps: int, rule: str = "exact") -> np.ndarray:
    """Denser near the clean end: floor of the squares of an even grid on [0, sqrt(0.8 T)], plus 1.

    rule: 'original' keeps the duplicates that appear for large S (steps that do nothing). 'exact' moves each
      duplicate up to the next free timestep (and down from T where they run out), so there are num_steps
      different ones; without duplicates the two agree.

    Returns: [num_steps] int32, descending ('original': not increasing).
    Raises: ValueError for num_steps outside [1, num_train], an unknown rule, or, under 'original', a timestep
    of T.
    """
    _check(num_train, num_steps, rule)
    steps = (np.linspace(0, np.sqrt(num_train * 0.8), num_steps) ** 2).astype(np.int64) + 1
    if rule == "original":
        return _descending(steps, num_train, num_steps)
    index = np.arange(num_steps)
    steps = np.maximum.accumulate(steps - index) + index
    return _descending(np.minimum(steps, num_train - num_steps + index), num_train, num_steps)


def trailing(num_train: int, num_steps: int) -> np.ndarray:
    """Evenly spaced from the noisy end, round(T - i T / S) - 1 for i = 0 .. S-1: always starts at T - 1.

    What a schedule with zero terminal SNR, or very few steps, wants (Lin et al. 2023, arXiv:2305.08891).
    diffusers' 'trailing', but for step counts (61, 103, ... of 1000) at which that adds a timestep of -1.
    Returns: [num_steps] int32, descending. Raises: ValueError for num_steps outside [1, num_train].
    """
    _check(num_train, num_steps)
    stride = (num_train - num_train / num_steps) - num_train  # rounded as np.arange does it: it decides ties
    return (np.round(num_train + np.arange(num_steps) * stride) - 1).astype(np.int32)


def original(num_train: int, num_steps: int) -> np.ndarray:
    """`uniform` under rule 'original': the timesteps of the original's DDIM, which may be more than asked for."""
    return uniform(num_train, num_steps, rule="original")


def leading(num_train: int, num_steps: int, steps_offset: int = 1) -> np.ndarray:
    """diffusers' 'leading': i (T // S) + steps_offset for i = S-1 .. 0.

    Where S does not divide T it stays further from T-1 than `uniform`. steps_offset: added to every timestep, as
      much of it as keeps the largest below T (diffusers raises IndexError while sampling).
    Returns: [num_steps] int32, descending.
    Raises: ValueError for num_steps outside [1, num_train], or a negative steps_offset.
    """
    _check(num_train, num_steps)
    return _offset(np.arange(num_steps) * (num_train // num_steps), num_train, steps_offset)


def dpm_leading(num_train: int, num_steps: int, steps_offset: int = 1) -> np.ndarray:
    """'leading' of diffusers' DPM-Solver: i (T // (S + 1)) + steps_offset for i = S .. 1.

    Returns: [num_steps] int32, descending.
    Raises: ValueError for num_steps outside [1, num_train - 1], or a negative steps_offset.
    """
    _check_with_end(num_train, num_steps)
    return _offset(np.arange(1, num_steps + 1) * (num_train // (num_steps + 1)), num_train, steps_offset)


def linspace(num_train: int, num_steps: int) -> np.ndarray:
    """Evenly spaced from T-1 to 0, both included, and mostly between timesteps, as in k-diffusion.

    diffusers' 'linspace' of Euler, Euler ancestral and Heun, but for S = 1, which is T-1 here and 0 there.
    Returns: [num_steps] float32, descending: of these the noise levels are interpolated, see
    diffusion/process.py log_alpha_bar. Raises: ValueError for num_steps outside [1, num_train].
    """
    _check(num_train, num_steps)
    return np.linspace(num_train - 1, 0, num_steps).astype(np.float32)


def linspace_rounded(num_train: int, num_steps: int) -> np.ndarray:
    """`linspace` rounded to timesteps: diffusers' 'linspace' of DDPM, DDIM and PNDM, but for S = 1, which is T-1 here
    and 0 there.

    Returns: [num_steps] int32, descending. Raises: ValueError for num_steps outside [1, num_train].
    """
    _check(num_train, num_steps)
    steps = np.linspace(0, num_train - 1, num_steps) if num_steps > 1 else np.array([num_train - 1])
    return steps.round()[::-1].astype(np.int32)


def dpm_linspace(num_train: int, num_steps: int) -> np.ndarray:
    """'linspace' of diffusers' DPM-Solver: T-1 to 0 in S steps, rounded, without the 0.

    The original's DPM-Solver wrapper visits the same without rounding, and ends at timestep 0 (final_alpha
    'first').
    Returns: [num_steps] int32, descending. Raises: ValueError for num_steps outside [1, num_train - 1].
    """
    _check_with_end(num_train, num_steps)
    return np.linspace(0, num_train - 1, num_steps + 1).round()[:0:-1].astype(np.int32)


def sgm(num_train: int, num_steps: int) -> np.ndarray:
    """SDXL's own code: floor of S points from T-1 down to 0, which is left out (Stability-AI/generative-models
    LegacyDDPMDiscretization).

    Returns: [num_steps] int32, descending. Raises: ValueError for num_steps outside [1, num_train].
    """
    _check(num_train, num_steps)
    return np.linspace(num_train - 1, 0, num_steps, endpoint=False).astype(np.int32)


def lcm(num_train: int, num_steps: int, original_steps: int = 50) -> np.ndarray:
    """Of the timesteps i (T // original_steps) - 1, i = 1 .. original_steps, that a consistency model is distilled on,
    every so many from the noisiest on: diffusers' LCM and TCD, and LCM's own code
    (luosiallen/latent-consistency-model).

    Returns: [num_steps] int32, descending, the first T-1 where original_steps divides T.
    Raises: ValueError for num_steps outside [1, original_steps], or original_steps outside [1, num_train].
    """
    if not 1 <= original_steps <= num_train:
        raise ValueError(f"original_steps: got {original_steps}, expected 1 to {num_train}")
    if not 1 <= num_steps <= original_steps:
        raise ValueError(
            f"num_steps: got {num_steps}, expected 1 to {original_steps}, as many as the model was distilled on"
        )
    trained = np.arange(original_steps, 0, -1) * (num_train // original_steps) - 1
    return trained[np.arange(num_steps) * original_steps // num_steps].astype(np.int32)


SPACINGS = {
    "uniform": uniform,
    "quad": quad,
    "trailing": trailing,
    "original": original,
    "leading": leading,
    "leading_0": partial(leading, steps_offset=0),
    "linspace": linspace,
    "linspace_rounded": linspace_rounded,
    "dpm_leading": dpm_leading,
    "dpm_leading_0": partial(dpm_leading, steps_offset=0),
    "dpm_linspace": dpm_linspace,
    "sgm": sgm,
    "lcm": lcm,
}

# Those that visit levels between timesteps.
FRACTIONAL = ("linspace",)

# Spacings by noise level, which do so too. The first three span all of a model's levels, or, as 'karras_leading', those
# that the spacing behind the name visits.
_BETWEEN = {
    "karras": sigma_schedules.karras,
    "exponential": sigma_schedules.exponential,
    "beta": sigma_schedules.beta,
}
SIGMA_SPACINGS = (*_BETWEEN, *(f"ays_{model}" for model in sigma_schedules.AYS))


def by_sigma(spacing: str, sigmas: np.ndarray, num_steps: int) -> np.ndarray:
    """Where a model has the noise levels of a key of SIGMA_SPACINGS: [num_steps] float32, descending.

    sigmas: [T] floats, sqrt((1 - alphas_cumprod) / alphas_cumprod), rising. A level between two timesteps is at the
      float at which diffusion/process.py log_alpha_bar has it, interpolated in sigma; diffusers tells the network
      the one that is interpolated in log sigma, up to 0.05 beside it.
    Raises: ValueError for num_steps outside [1, T], and for 'ays_...' of a model without the noise levels of its table.
    """
    sigmas = np.asarray(sigmas, np.float64)
    _check(len(sigmas), num_steps)
    kind, _, rest = spacing.partition("_")
    if kind == "ays":
        levels = sigma_schedules.ays(rest, num_steps)
        if not (np.isclose(levels[0], sigmas[-1], rtol=0.01) and levels[-1] >= sigmas[0] * 0.99):
            table = sigma_schedules.AYS[rest]
            raise ValueError(
                f"timestep spacing {spacing!r} is for noise of {table[-1]} to {table[0]}, "
                f"got a schedule of {sigmas[0]:.4g} to {sigmas[-1]:.4g}"
            )
    else:
        ends = make_timesteps(rest, len(sigmas), num_steps)[[0, -1]] if rest else (len(sigmas) - 1, 0)
        levels = _BETWEEN[kind](*np.interp(ends, np.arange(len(sigmas)), sigmas), num_steps)
    return np.interp(levels, sigmas, np.arange(len(sigmas))).astype(np.float32)


def check_spacing(spacing: str) -> None:
    """Raises: ValueError for an unknown name (listing the known ones)."""
    name = re.sub(r"^((?:dpm_)?leading|lcm)_\d+$", r"\1", spacing)
    if name not in (*SPACINGS, *SIGMA_SPACINGS) and name.partition("_")[0] not in _BETWEEN:
        known = ", ".join((*SPACINGS, *SIGMA_SPACINGS))
        raise ValueError(f"timestep spacing {spacing!r} not found; known: {known}")


def make_timesteps(
    spacing: str, num_train: int, num_steps: int, sigmas: np.ndarray | None = None, **options
) -> np.ndarray:
    """The timesteps of a named spacing, a key of SPACINGS or SIGMA_SPACINGS, with its options: [num_steps], descending.

    sigmas: [num_train] floats as for `by_sigma`, which SIGMA_SPACINGS are made from.
    int32, but float32 for 'linspace' and SIGMA_SPACINGS; 'original' may give more than num_steps. 'leading' and
    'dpm_leading' have steps_offset 1; 'leading_0', 'leading_2', 'dpm_leading_0' and so on the one that they end in;
    'lcm' is of 50 steps, 'lcm_25' and so on of as many as it ends in.

    Raises: ValueError for an unknown name (listing the known ones), and as the spacing itself.
    """
    if match := re.fullmatch(r"((?:dpm_)?leading)_(\d+)", spacing):
        spacing, options = match[1], {"steps_offset": int(match[2])} | options
    elif match := re.fullmatch(r"lcm_(\d+)", spacing):
        spacing, options = "lcm", {"original_steps": int(match[1])} | options
    if spacing in SIGMA_SPACINGS or spacing.partition("_")[0] in _BETWEEN:
        if sigmas is None:
            raise ValueError(f"timestep spacing {spacing!r} needs the noise levels of a schedule")
        return by_sigma(spacing, sigmas, num_steps)
    check_spacing(spacing)
    return SPACINGS[spacing](num_train, num_steps, **options)
