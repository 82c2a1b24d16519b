"""The options of a sampler: which there are, which of them are compiled in, and which timesteps it visits.

Decides from the signature of a sampler's file alone; no sampler is named here.
"""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.diffusion.timesteps import FRACTIONAL, SIGMA_SPACINGS, make_timesteps
from ldm_jax.find import did_you_mean, find


def options_of(module: ModuleType) -> dict[str, inspect.Parameter]:
    """The options of a sampler that a user can set."""
    takes = inspect.signature(module.sampler).parameters
    return {k: p for k, p in takes.items() if p.kind is p.KEYWORD_ONLY and k != "noise_fn"}


def split_sampler_options(
    name: str, options: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, float]]:
    """(those that are compiled in, sorted; the numbers, which are arguments) of a sampler's options.

    Raises: ValueError for an option that the sampler does not have, and a number that is not finite or out of the
    sampler's BOUNDS.
    """
    module = find("samplers", name)
    known = options_of(module)
    static, numbers = {}, {}
    for option, value in options.items():
        if option not in known:
            there = ", ".join(known) or "no options"
            raise ValueError(
                f"sampler {name!r} takes no {option} (got {value}); it takes: {there}{did_you_mean(option, known)}"
            )
        if "Array" not in str(known[option].annotation):
            static[option] = value
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        least, most = getattr(module, "BOUNDS", {}).get(option, (None, None))
        if not is_number or not -float("inf") < value < float("inf"):
            raise ValueError(f"sampler {name!r}: {option} is {value!r}, expected a finite number")
        if least is not None and not least <= value <= most:
            raise ValueError(
                f"sampler {name!r}: {option} is {value}, expected a number from {least:g} to {most:g}"
            )
        numbers[option] = float(value)
    return tuple(sorted(static.items())), numbers


def sampler_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the sampler among settings of `resolve_settings`: eta, final_alpha, clip_denoised and
    sampler_options, where they say something.

    An eta of 0 where the sampler takes none is no option; its own eta is given, so that another one compiles nothing.
    Raises: ValueError for a clip_denoised that is not above 0.
    """
    takes = options_of(find("samplers", settings["sampler"]))
    options: dict[str, Any] = {}
    clip = settings.get("clip_denoised")
    if clip is not None and not 0 < clip < float("inf"):
        raise ValueError(f"clip_denoised is {clip}, expected a number above 0")
    for name in ("final_alpha", "clip_denoised"):
        if settings.get(name) is not None:
            options[name] = settings[name]
    if settings.get("eta"):
        options["eta"] = settings["eta"]
    elif "eta" in takes:
        options["eta"] = takes["eta"].default if settings.get("eta") is None else 0.0
    return options | dict(settings.get("sampler_options") or {})


def visited_timesteps(settings: Mapping[str, Any], schedule: NoiseSchedule) -> np.ndarray:
    """[S] timesteps, descending, of settings of `resolve_settings`: int32, or float32 where the spacing visits levels
    between timesteps.

    Raises: ValueError for a spacing that is not there, or that the sampler cannot use: one between timesteps, where it
    is of models that know whole ones alone.
    """
    sampler, spacing = settings["sampler"], settings["spacing"]
    fractional = spacing in (*FRACTIONAL, *SIGMA_SPACINGS) or spacing.partition("_")[0] in SIGMA_SPACINGS
    if fractional and getattr(find("samplers", sampler), "WHOLE_TIMESTEPS", False):
        raise ValueError(
            f"sampler {sampler!r} is of models that were distilled on whole timesteps, got spacing {spacing!r}, "
            "which visits levels between them, expected one such as 'lcm' or 'trailing'"
        )
    return make_timesteps(spacing, schedule.num_timesteps, settings["num_steps"], schedule.sigmas)
