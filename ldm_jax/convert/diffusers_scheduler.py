"""diffusers' scheduler_config.json, to and from the `schedule`, `prediction_type` and `sampling` of a config of ours.

Decides what a scheduler says of the noise schedule, of what the network predicts and of how it is sampled. Where a
scheduler's way of sampling is not here, sampling falls back to DDIM with a warning in the log: the weights do not depend
on it. A noise schedule that is not here is an error.
Source: diffusers 0.42 schedulers/. The options written (steps_offset 1, set_alpha_to_one false, clip_sample false) are
those that give the original's sampler.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ldm_jax.convert.diffusers_networks import DIFFUSERS_VERSION, refuse

log = logging.getLogger(__name__)

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpm_solver",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DDPMScheduler": "ddpm",
}
SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_start"}
# scheduler options that change the way through the timesteps to one that is not here, unless they have this value
_SAMPLER_OPTIONS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "euler_at_final": False,
}
# spacing -> (timestep_spacing, steps_offset); the first of those that read the same is what is read
_SPACINGS = {
    "leading": ("leading", 1),
    "leading_0": ("leading", 0),
    "linspace": ("linspace", 0),
    "trailing": ("trailing", 0),
    "uniform": ("leading", 1),
    "original": ("leading", 1),
    "dpm_leading": ("leading", 1),
    "dpm_linspace": ("linspace", 0),
}
_DEFAULT_SPACING = {name: "leading" for name in ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")}


def scheduler_sections(section: Mapping[str, Any]) -> dict[str, Any]:
    """schedule, prediction_type and sampling {sampler, spacing, perhaps final_alpha} of a scheduler_config.json.

    Raises: ValueError for a noise schedule or a prediction that is not here.
    """
    name = section.get("_class_name", "DDIMScheduler")
    if name not in SAMPLERS and "beta_schedule" not in section:
        raise ValueError(f"scheduler: _class_name {name!r}, expected one of {', '.join(SAMPLERS)}")
    if section.get("trained_betas") is not None:
        refuse("scheduler", "trained_betas", "a list", "null")
    betas, prediction = section.get("beta_schedule", "linear"), section.get("prediction_type", "epsilon")
    if betas not in SCHEDULES:
        refuse("scheduler", "beta_schedule", betas, " or ".join(SCHEDULES))
    if prediction not in PREDICTIONS:
        refuse("scheduler", "prediction_type", prediction, " or ".join(PREDICTIONS))
    heun = name == "HeunDiscreteScheduler"  # whose defaults are others
    schedule = {
        "name": SCHEDULES[betas],
        "num_timesteps": section.get("num_train_timesteps", 1000),
        "beta_start": section.get("beta_start", 0.00085 if heun else 0.0001),
        "beta_end": section.get("beta_end", 0.012 if heun else 0.02),
    }
    if section.get("rescale_betas_zero_snr"):
        schedule["zero_terminal_snr"] = True
    return {
        "schedule": schedule,
        "prediction_type": PREDICTIONS[prediction],
        "sampling": _read_sampling(name, section),
    }


def scheduler_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """scheduler_config.json of a config's schedule, prediction_type and sampling.

    Raises: ValueError for a noise schedule or a sampler that diffusers has not.
    """
    schedule, sampling = dict(config["schedule"]), config.get("sampling", {})
    names = {ours: theirs for theirs, ours in SCHEDULES.items()} | {"cosine": "squaredcos_cap_v2"}
    if schedule["name"] not in names or schedule.get("cosine_s", 8e-3) != 8e-3:
        refuse("config", "schedule", schedule["name"], " or ".join(SCHEDULES.values()))
    sampler = sampling.get("sampler", "ddim")
    classes = {ours: theirs for theirs, ours in SAMPLERS.items()}
    if sampler not in classes:
        refuse("config", "sampling.sampler", sampler, " or ".join(classes))
    spacing, offset = _SPACINGS.get(sampling.get("spacing", "uniform"), (None, 1))
    if spacing is None:
        log.warning("diffusers has no timestep spacing %r; 'leading' is written", sampling["spacing"])
        spacing = "leading"
    section = {
        "_class_name": classes[sampler],
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.get("num_timesteps", 1000),
        "beta_start": schedule.get("beta_start", 1e-4),
        "beta_end": schedule.get("beta_end", 2e-2),
        "beta_schedule": names[schedule["name"]],
        "trained_betas": None,
        "prediction_type": {v: k for k, v in PREDICTIONS.items()}[config.get("prediction_type", "eps")],
        "timestep_spacing": spacing,
        "steps_offset": offset,
    }
    if sampler in ("ddim", "ddpm", "heun"):
        section["clip_sample"] = False
    if sampler in ("ddim", "plms"):
        section["set_alpha_to_one"] = sampling.get("final_alpha") == "one"
    if sampler == "plms":
        section["skip_prk_steps"] = True
    if sampler in ("dpm_solver", "euler"):
        section["final_sigmas_type"] = "sigma_min" if sampling.get("final_alpha") == "first" else "zero"
    if schedule.get("zero_terminal_snr"):
        if sampler in ("plms", "heun"):
            refuse("config", "schedule.zero_terminal_snr", True, f"False with sampler {sampler} in diffusers")
        section["rescale_betas_zero_snr"] = True
    return section


def _read_sampling(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """sampler, spacing and, if it is not the sampler's own, final_alpha; a warning for what is not here."""
    if name not in SAMPLERS:
        log.warning("there is no sampler like %s here; ddim is the default of this model", name)
        return {"sampler": "ddim", "spacing": "leading"}
    changed = {k: section[k] for k, v in _SAMPLER_OPTIONS.items() if section.get(k) not in (None, v)}
    if changed:
        log.warning("%s with %s samples otherwise than ours", name, changed)
    sampler = SAMPLERS[name]
    spacing = section.get("timestep_spacing", _DEFAULT_SPACING.get(name, "linspace"))
    offset = section.get("steps_offset", 0)
    if spacing == "leading" and offset not in (0, 1) or spacing not in ("leading", "linspace", "trailing"):
        log.warning("%s with %s, steps_offset %s: sampled with uniform timesteps", name, spacing, offset)
        spacing = "uniform"
    elif sampler == "dpm_solver" and spacing != "trailing":
        spacing = f"dpm_{spacing}"
    elif spacing == "leading" and offset == 0:
        spacing = "leading_0"
    found = {"sampler": sampler, "spacing": spacing}
    if sampler in ("ddim", "plms") and section.get("set_alpha_to_one", sampler == "ddim"):
        found["final_alpha"] = "one"
    if sampler in ("dpm_solver", "euler") and section.get("final_sigmas_type", "zero") == "sigma_min":
        found["final_alpha"] = "first"
    return found
