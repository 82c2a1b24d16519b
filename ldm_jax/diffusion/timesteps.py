"""Which timesteps a sampler visits: sub-sequences of 0 .. T-1, in numpy, before anything is traced.

Decides: the spacings, and what becomes of step counts that do not divide T. Knows nothing of schedules or
samplers.

The original (ldm/modules/diffusionmodules/util.py make_ddim_timesteps) strides by T // S and adds one. That
gives S steps only where S divides T: with T = 1000, S = 400 runs 500 steps and S = 300 indexes one past the
end. Its rule is here by name (rule='original'); the default, rule='exact', gives S steps for every S in
[1, T] and the same steps as the original wherever that gives S valid ones.
"""

import numpy as np

RULES = ("exact", "original")


def _check(num_train: int, num_steps: int, rule: str = "exact") -> None:
    if not 1 <= num_steps <= num_train:
        raise ValueError(
            f"num_steps: got {num_steps}, expected 1 to {num_train} (the number of training timesteps)"
        )
    if rule not in RULES:
        raise ValueError(f"timestep rule {rule!r} not found; known: {', '.join(RULES)}")


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
    Returns: [num_steps] int32, descending. Raises: ValueError for num_steps outside [1, num_train].
    """
    _check(num_train, num_steps)
    steps = np.round(num_train - np.arange(num_steps) * (num_train / num_steps)).astype(np.int64) - 1
    return steps.astype(np.int32)


def original(num_train: int, num_steps: int) -> np.ndarray:
    """`uniform` under rule 'original': the timesteps of the original's DDIM, which may be more than asked for."""
    return uniform(num_train, num_steps, rule="original")


SPACINGS = {"uniform": uniform, "quad": quad, "trailing": trailing, "original": original}


def make_timesteps(spacing: str, num_train: int, num_steps: int, **options) -> np.ndarray:
    """The timesteps of a named spacing: 'uniform', 'quad', 'trailing' or 'original', with its options.

    Raises: ValueError for an unknown name (listing the known ones), and as the spacing itself.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"timestep spacing {spacing!r} not found; known: {', '.join(SPACINGS)}")
    return SPACINGS[spacing](num_train, num_steps, **options)
