"""diffusers' scheduler_config.json, to and from the `schedule`, `prediction_type` and `sampling` of a config of ours.

Decides what a scheduler says of the noise schedule, of what the network predicts and of how it is sampled. An option
that a file leaves out is taken at its class's own default. Another process than the variance preserving one, or another
input or
output of the network, is an error: the weights mean something else. A way of sampling that is not here is one line in
the
log that names it, and the nearest that is here is taken: the weights do not depend on it. What
a written file cannot say is refused where the file would mean another model; `not_said` tells what is only sampled
otherwise.
Source: diffusers 0.42 schedulers/.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ldm_jax.convert import schema
from ldm_jax.convert.diffusers_networks import DIFFUSERS_VERSION, refuse
from ldm_jax.convert.diffusers_scheduler_defaults import DEFAULTS
from ldm_jax.text_files import shown

log = logging.getLogger(__name__)

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpm_solver",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DDPMScheduler": "ddpm",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "LMSDiscreteScheduler": "lms",
    "DPMSolverSinglestepScheduler": "dpm_solver_singlestep",
    "KDPM2DiscreteScheduler": "dpm2",
    "KDPM2AncestralDiscreteScheduler": "dpm2_ancestral",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
# samplers that a class is by one of its options
SDE = {"dpm_solver_sde": "DPMSolverMultistepScheduler"}
# classes whose rule is not here, and what is nearest to it
_NEAREST = {"DPMSolverSDEScheduler": "dpm_solver_sde", "SASolverScheduler": "dpm_solver_sde"}
SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_start"}
# the same as another class, number for number
_SAME = {"DDIMParallelScheduler": "DDIMScheduler", "DDPMParallelScheduler": "DDPMScheduler"}
# classes that place their timesteps as DPM-Solver does: S + 1 levels; the last step ends at the last level
_DPM_SPACED = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)
# classes that have no option for where the last step leads, and lead to the noise of timestep 0
_END_AT_FIRST = ("DEISMultistepScheduler", "SASolverScheduler")
# whose 'linspace' is rounded to timesteps
_ROUNDED = ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")
# whose timesteps, whatever the spacing, are those of distillation
_CONSISTENCY = ("LCMScheduler", "TCDScheduler")
# sampler -> the option of its class that its own `order` is
_ORDERS = dict.fromkeys(("dpm_solver", "dpm_solver_sde", "deis"), "solver_order")
# sampler_options that its class has in its file
_SAID_OPTIONS = {
    "dpm_solver": ("order", "solver_type"),
    "dpm_solver_sde": ("order", "solver_type"),
    "deis": ("order",),
    "lcm": ("timestep_scaling",),
}
# spacings that end at timestep 0
_TO_ZERO = ("leading_0", "linspace_rounded")
# option -> the spacing by noise level that it asks for
_SIGMAS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}
# default end of the last step, for samplers that have the option
_FINAL_ALPHAS = {"ddim": "first", "plms": "first"} | dict.fromkeys(
    ("dpm_solver", "dpm_solver_sde", "dpm_solver_singlestep", "euler", "euler_ancestral", "unipc", "deis"),
    "one",
)
# samplers whose class leads to the clean image alone, or to the noise of timestep 0 alone
_ALWAYS_ONE = ("euler_ancestral", "heun", "lms", "dpm2", "dpm2_ancestral")
_ALWAYS_FIRST = ("deis",)
# eta of a sampler as its class has it; 0 elsewhere
_ETAS = {"euler_ancestral": 1.0, "ddpm": 1.0, "dpm_solver_sde": 1.0, "dpm2_ancestral": 1.0, "tcd": 0.3}
# diffusers' add_noise of these keeps the scale of the process; of the others it adds noise to the unscaled picture
NOISING = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", *_SAME)


def scheduler_options(section: Mapping[str, Any], name: str | None = None) -> tuple[str, dict[str, Any]]:
    """The class of a scheduler_config.json, and all of its options: those of the file, and its defaults for the others.

    name: the class that the pipeline names, which counts more than the one in the file.
    Raises: ValueError for a class that is not known.
    """
    schema.check("scheduler", section, schema.DIFFUSERS)
    name = name or section.get("_class_name", "DDIMScheduler")
    if name not in DEFAULTS:
        raise ValueError(
            f"scheduler: _class_name {shown(name)}, expected one of {', '.join(DEFAULTS)}; flow matching, EDM's "
            "preconditioning and others are another process than the one here"
        )
    defaults = DEFAULTS[name]
    schema.check(
        "scheduler", section, {k: schema.DIFFUSERS.get(k, schema.like(v)) for k, v in defaults.items()}
    )
    return name, dict(defaults) | {k: v for k, v in section.items() if k in defaults}


def scheduler_sections(section: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """schedule, prediction_type and sampling {sampler, spacing, perhaps final_alpha, clip_denoised, sampler_options} of
    a scheduler_config.json, and learned_variance where the network predicts it.

    name: as for `scheduler_options`.
    Raises: ValueError for a class, a noise schedule, a prediction or a process that is not here.
    """
    name, options = scheduler_options(section, name)
    if options["trained_betas"] is not None:
        refuse("scheduler", "trained_betas", "a list", "null")
    betas, prediction = options["beta_schedule"], options["prediction_type"]
    if betas not in SCHEDULES:
        refuse("scheduler", "beta_schedule", betas, " or ".join(SCHEDULES))
    if prediction not in PREDICTIONS:
        refuse("scheduler", "prediction_type", prediction, " or ".join(PREDICTIONS))
    if options.get("use_flow_sigmas"):
        refuse(
            "scheduler",
            "use_flow_sigmas",
            options["use_flow_sigmas"],
            "false: flow matching is another process",
        )
    if options.get("timestep_type", "discrete") != "discrete" and prediction == "v_prediction":
        refuse(
            "scheduler", "timestep_type", options["timestep_type"], "discrete: the network is given timesteps"
        )
    schedule = {
        "name": SCHEDULES[betas],
        "num_timesteps": options["num_train_timesteps"],
        "beta_start": options["beta_start"],
        "beta_end": options["beta_end"],
    }
    if section.get("rescale_betas_zero_snr"):
        schedule["zero_terminal_snr"] = True
        if "rescale_betas_zero_snr" not in options:
            log.warning(
                "%s ignores rescale_betas_zero_snr: true, which the model was trained with; kept here", name
            )
    if _read_variance(name, options):
        schedule["v_posterior"] = 1.0
    learned = {"learned_variance": True} if options.get("variance_type") == "learned_range" else {}
    return learned | {
        "schedule": schedule,
        "prediction_type": PREDICTIONS[prediction],
        "sampling": _read_sampling(name, options),
    }


def scheduler_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """scheduler_config.json of a config's schedule, prediction_type and sampling; see `not_said` for what it cannot
    say.

    Raises: ValueError for a noise schedule, a sampler, a spacing or a prediction type that diffusers does not have.
    """
    schedule, sampling = dict(config["schedule"]), config.get("sampling", {})
    names = {ours: theirs for theirs, ours in SCHEDULES.items()} | {"cosine": "squaredcos_cap_v2"}
    if schedule["name"] not in names or schedule.get("cosine_s", 8e-3) != 8e-3:
        refuse("config", "schedule", schedule["name"], " or ".join(SCHEDULES.values()))
    sampler, spacing = sampling.get("sampler", "ddim"), sampling.get("spacing", "uniform")
    classes = {ours: theirs for theirs, ours in SAMPLERS.items()} | SDE
    if sampler not in classes:
        refuse("config", "sampling.sampler", sampler, " or ".join(classes))
    name = classes[sampler]
    section = {
        "_class_name": name,
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": schedule.get("num_timesteps", 1000),
        "beta_start": schedule.get("beta_start", 1e-4),
        "beta_end": schedule.get("beta_end", 2e-2),
        "beta_schedule": names[schedule["name"]],
        "trained_betas": None,
        "prediction_type": {v: k for k, v in PREDICTIONS.items()}[config.get("prediction_type", "eps")],
    }
    if sampler == "euler" and spacing.startswith("dpm_"):  # Euler's method is DPM-Solver++'s first order
        section["_class_name"] = name = classes["dpm_solver"]
        section["solver_order"] = 1
    kind, _, rest = spacing.partition("_")
    options = {kind: option for option, kind in _SIGMAS.items()}
    if kind in options:
        section |= {options[kind]: True} if options[kind] in DEFAULTS[name] else {}
        spacing = rest or "linspace"
    written = "trailing" if name in _CONSISTENCY and spacing.startswith("lcm") else spacing
    section["timestep_spacing"], section["steps_offset"] = _written_spacing(name, written)
    if "timestep_spacing" not in DEFAULTS[name]:
        section |= {"timestep_spacing": "linspace", "steps_offset": 0}
    clip = sampling.get("clip_denoised")
    if sampler in ("ddim", "ddpm", "heun", "lcm"):
        section["clip_sample"] = clip is not None
        if clip is not None:
            section["clip_sample_range"] = float(clip)
    final_alpha = sampling.get("final_alpha") or _FINAL_ALPHAS.get(sampler)
    if sampler in ("ddim", "plms"):
        section["set_alpha_to_one"] = final_alpha == "one"
    if "final_sigmas_type" in DEFAULTS[name]:
        section["final_sigmas_type"] = "sigma_min" if final_alpha == "first" else "zero"
    section |= _written_options(sampler, sampling.get("sampler_options") or {})
    if sampler == "lcm" or sampler == "tcd":
        match = re.fullmatch(r"lcm_(\d+)", spacing)
        section["original_inference_steps"] = int(match[1]) if match else 50
    if sampler == "plms":
        section["skip_prk_steps"] = True
        if section["prediction_type"] == "sample":
            refuse("config", "prediction_type", "x_start", "eps or v with sampler plms in diffusers")
    if sampler == "ddpm":
        section["variance_type"] = "fixed_large" if schedule.get("v_posterior") == 1 else "fixed_small"
    if config.get("learned_variance"):
        if "variance_type" not in DEFAULTS[name]:
            refuse("config", "learned_variance", True, f"false with sampler {sampler} in diffusers")
        section["variance_type"] = "learned_range"
    if schedule.get("zero_terminal_snr"):
        section["rescale_betas_zero_snr"] = True
    return section


def _read_variance(name: str, options: Mapping[str, Any]) -> bool:
    """Whether ancestral steps have the variance of the whole step, and not of the posterior.

    Raises: ValueError for a variance whose logarithm the network predicts, and for one that is not a number in
    diffusers.
    """
    variance = options.get("variance_type")
    if variance in (
        None,
        "fixed_small",
        "fixed_small_log",
        "learned_range",
    ):  # the two that are fixed differ in how they are worked out alone
        return False
    if variance != "fixed_large" or _SAME.get(name, name) != "DDPMScheduler":
        refuse(
            "scheduler",
            "variance_type",
            variance,
            "fixed_small, fixed_large or learned_range",
        )
    return True


def _read_sampling(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """sampler, spacing and, where they are not the sampler's own, final_alpha and clip_denoised."""
    name = _SAME.get(name, name)
    for what in _not_here(name, options):
        log.warning("%s with %s", name, what)
    sampler, sampler_options = _read_sampler(name, options)
    if name not in SAMPLERS:
        log.warning("there is no sampler like %s here; %s through its timesteps is taken", name, sampler)
    found = {"sampler": sampler, "spacing": _read_spacing(name, options)}
    if sampler_options:
        found["sampler_options"] = sampler_options
    if "set_alpha_to_one" in options:
        final_alpha = "one" if options["set_alpha_to_one"] else "first"
    elif name in _END_AT_FIRST or options.get("final_sigmas_type") == "sigma_min":
        final_alpha = "first"
    else:
        final_alpha = "one"
    if final_alpha != _FINAL_ALPHAS.get(sampler, final_alpha):
        found["final_alpha"] = final_alpha
    if options.get("clip_sample") and not options.get("thresholding") and name != "TCDScheduler":
        found["clip_denoised"] = float(options["clip_sample_range"])
    return found


def _read_sampler(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The sampler of a class, and those of its options that are not what it has by itself."""
    sampler, order = SAMPLERS.get(name) or _NEAREST[name], options.get("solver_order")
    stochastic = options.get("algorithm_type") in ("sde-dpmsolver++", "sde-dpmsolver")
    if sampler in ("dpm_solver", "dpm_solver_singlestep", "deis") and order == 1:
        # what they all are in first order, without and with fresh noise
        return ("euler_ancestral" if stochastic and name in SDE.values() else "euler"), {}
    if sampler == "dpm_solver" and stochastic:
        sampler = "dpm_solver_sde"
    found: dict[str, Any] = {}
    if sampler in _ORDERS and order == 3:
        found["order"] = 3
    if name in SDE.values() and options["solver_type"] == "heun":
        found["solver_type"] = "heun"
    if sampler == "lcm" and options["timestep_scaling"] != 10:
        found["timestep_scaling"] = float(options["timestep_scaling"])
    return sampler, found


def _written_options(sampler: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a class that say which sampler it is, and those of its sampler_options that it has."""
    section: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"} if sampler in SDE else {}
    if sampler in _ORDERS:
        section[_ORDERS[sampler]] = options.get("order", 2)
    for option in _SAID_OPTIONS.get(sampler, ()):
        if option != "order" and option in options:
            section[option] = options[option]
    return section


def _read_spacing(name: str, options: Mapping[str, Any]) -> str:
    """A spacing of diffusion/timesteps.py. A schedule of sigmas of DPM-Solver's kind spans all levels.

    Raises: ValueError for a spacing or an offset that is not here.
    """
    if name in _CONSISTENCY:
        steps = options["original_inference_steps"]
        return "lcm" if steps == 50 else f"lcm_{steps}"
    spacing, offset = options.get("timestep_spacing", "linspace"), options.get("steps_offset", 0)
    if spacing not in ("leading", "linspace", "trailing"):
        refuse("scheduler", "timestep_spacing", spacing, "leading, linspace or trailing")
    if not isinstance(offset, int) or offset < 0:
        refuse("scheduler", "steps_offset", offset, "an integer of at least 0")
    if spacing == "leading":
        spacing = "leading" if offset == 1 else f"leading_{offset}"
    elif spacing == "linspace" and name in _ROUNDED:
        spacing = "linspace_rounded"
    for option, kind in _SIGMAS.items():
        if options.get(option) and option in DEFAULTS[name]:
            return kind if name in _DPM_SPACED or spacing == "linspace" else f"{kind}_{spacing}"
    return f"dpm_{spacing}" if name in _DPM_SPACED and spacing != "trailing" else spacing


def _written_spacing(name: str, spacing: str) -> tuple[str, int]:
    """(timestep_spacing, steps_offset) of the nearest that the class has; see `not_said` for those that differ.

    Raises: ValueError for a spacing that is not known.
    """
    dpm = name in _DPM_SPACED
    if match := re.fullmatch(r"(?:dpm_)?leading(?:_(\d+))?", spacing):
        return "leading", int(match[1] or 1)
    if spacing in ("linspace", "linspace_rounded") or spacing == "dpm_linspace" and dpm:
        return "linspace", 0
    if spacing in ("trailing", "sgm", "dpm_linspace", "ays_sd1", "ays_sdxl"):
        return "trailing", 0
    if spacing.partition("_")[0] == "lcm":
        return "trailing", 0
    if spacing not in ("uniform", "original", "quad"):
        refuse("config", "sampling.spacing", spacing, "a spacing of this library")
    return "leading", 1


def _not_here(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """What of a scheduler's way of sampling is not here, in words; `name` draws otherwise than what is taken for it."""
    if any(options.get(option) for option in _SIGMAS):
        if name in _DPM_SPACED:
            yield "a schedule of sigmas tells the network a rounded timestep; here it is told the one between"
        for option in ("sigma_min", "sigma_max"):
            if options.get(option) is not None:
                yield f"{option}: {options[option]} ends the sigmas elsewhere; the model's own levels are taken"
    elif options.get("use_lu_lambdas"):
        yield "use_lu_lambdas: true visits other noise levels; its timestep_spacing is taken"
    if options.get("thresholding"):
        yield "thresholding: true scales the predicted picture; it is left as it is"
    if options.get("interpolation_type", "linear") != "linear":
        yield f"interpolation_type: {options['interpolation_type']!r} visits other noise levels; linear is taken"
    if options.get("lambda_min_clipped", -float("inf")) > -float("inf"):
        yield f"lambda_min_clipped: {options['lambda_min_clipped']} begins at less noise; all timesteps are taken"
    if name == "DPMSolverMultistepScheduler":
        yield from _not_here_of_dpm_solver(options)
    if name == "DPMSolverSinglestepScheduler":
        yield from _not_here_of_singlestep(options)
    if name == "DEISMultistepScheduler" and options["solver_order"] > 1 and not options["lower_order_final"]:
        yield "lower_order_final: false makes the last steps of full order in runs of under 15 steps; of first here"
    if name == "UniPCMultistepScheduler":
        yield from _not_here_of_unipc(options)
    if name == "PNDMScheduler" and not options["skip_prk_steps"]:
        yield "skip_prk_steps: false begins with Runge-Kutta steps; the steps of plms are taken"
    if name == "PNDMScheduler" and options["prediction_type"] == "v_prediction":
        yield "prediction_type: 'v_prediction' extrapolates v; plms here extrapolates eps"
    if name in ("DDIMScheduler", "PNDMScheduler") and options["timestep_spacing"] == "linspace":
        yield (
            "timestep_spacing: 'linspace' steps to other timesteps than it visits next; each step here "
            "leads to the next"
        )
    if options.get("variance_type") == "fixed_large" and _read_spacing(name, options) not in _TO_ZERO:
        yield "variance_type: 'fixed_large' adds noise to the last picture; it is left as it is"


def _not_here_of_dpm_solver(options: Mapping[str, Any]) -> Iterator[str]:
    order, algorithm = options["solver_order"], options["algorithm_type"]
    same = algorithm in ("dpmsolver++", "sde-dpmsolver++", "deis") or (
        algorithm == "dpmsolver" and order == 1
    )
    if not same:
        taken = "sde-dpmsolver++" if algorithm == "sde-dpmsolver" else "dpmsolver++"
        yield f"algorithm_type: {algorithm!r} is another rule; {taken} is taken"
    elif algorithm == "sde-dpmsolver++" and order == 3:
        yield "solver_order: 3 of the SDE adds the bend of the parabola with the wrong sign; k-diffusion's is taken"
    if order not in (1, 2, 3):
        yield f"solver_order: {order} is of another order; 2 is taken"
    if order == 3 and not options["lower_order_final"] and options["final_sigmas_type"] == "zero":
        yield "lower_order_final: false makes the last step but one of third order in short runs; of second here"
    if options["final_sigmas_type"] == "sigma_min" and order > 1:
        if options["euler_at_final"]:
            yield "euler_at_final: true makes the last step of first order in runs of 15 steps and more; of second here"
        elif not options["lower_order_final"]:
            yield (
                "lower_order_final: false makes the last step of second order in runs of fewer than 15 "
                "steps; of first here"
            )


def _not_here_of_singlestep(options: Mapping[str, Any]) -> Iterator[str]:
    order, algorithm = options["solver_order"], options["algorithm_type"]
    if not (algorithm in ("dpmsolver++", "deis") or (algorithm == "dpmsolver" and order == 1)):
        yield f"algorithm_type: {algorithm!r} is another rule; dpmsolver++ is taken"
    if order not in (1, 2):
        yield f"solver_order: {order} is of another order; 2 is taken"
    if options["solver_type"] == "heun" and order > 1:
        yield "solver_type: 'heun' combines steps otherwise; midpoint is taken"
    if order > 1 and options["lower_order_final"] and options["final_sigmas_type"] == "sigma_min":
        yield "lower_order_final: true makes the last step of an even number of first order; of second here"


def _not_here_of_unipc(options: Mapping[str, Any]) -> Iterator[str]:
    if options["solver_order"] != 2:
        yield f"solver_order: {options['solver_order']} is of another order; 2 is taken"
    if options["solver_type"] == "bh1":  # all others are bh2 there
        yield "solver_type: 'bh1' combines steps otherwise; bh2 is taken"
    if not options["predict_x0"]:
        yield "predict_x0: false combines eps; predicted clean latents are combined here"
    if options["disable_corrector"]:
        yield f"disable_corrector: {options['disable_corrector']} leaves steps uncorrected; all are corrected here"
    if options["solver_p"] is not None:
        yield "solver_p: another scheduler predicts each step; UniPC's own prediction is taken"
    if not options["lower_order_final"]:
        yield "lower_order_final: false makes the last step of second order; of first here"


def not_said(config: Mapping[str, Any]) -> Iterator[str]:
    """The sampling settings of a config that scheduler_config.json cannot express, one sentence each.

    Raises: ValueError as `scheduler_json`.
    """
    section, schedule, sampling = scheduler_json(config), config["schedule"], config.get("sampling", {})
    sampler = sampling.get("sampler", "ddim")
    name, spacing = section["_class_name"], sampling.get("spacing", "uniform")
    if _read_spacing(name, scheduler_options(section)[1]) != spacing:
        written = section["timestep_spacing"]
        if written == "leading":
            written += f" with steps_offset {section['steps_offset']}"
        agree = ""
        same_grid = (spacing == "sgm" and written == "trailing") or (
            spacing in ("uniform", "original") and name not in _DPM_SPACED
        )
        if same_grid and name not in _CONSISTENCY:
            agree = f" where the number of steps does not divide {section['num_train_timesteps']}"
        yield f"{name} has no timestep spacing {spacing!r}; {written} is written, which visits other timesteps{agree}"
    elif spacing == "linspace_rounded" and sampler in ("ddim", "plms"):
        yield f"{name} steps under 'linspace' to other timesteps than it visits next"
    if sampling.get("final_alpha") == "first" and sampler in _ALWAYS_ONE:
        yield f"{name} cannot end at the noise of timestep 0 (final_alpha 'first'); it ends at the clean image"
    if sampling.get("final_alpha") != "first" and sampler in _ALWAYS_FIRST:
        yield f"{name} cannot end at the clean image (final_alpha 'one'); it ends at the noise of timestep 0"
    for option, value in (sampling.get("sampler_options") or {}).items():
        if option not in _SAID_OPTIONS.get(sampler, ()):
            yield f"{name} has no option {option} (sampler_options {option}: {value}) in its file"
    eta = sampling.get("eta")
    if eta is not None and float(eta) != _ETAS.get(sampler, 0.0):
        yield f"eta {eta} has no place in it; diffusers takes it as an argument where a pipeline is called, if at all"
    if sampler == "plms" and section["prediction_type"] == "v_prediction":
        yield "PNDMScheduler extrapolates v, where plms here extrapolates eps"
    if schedule.get("zero_terminal_snr") and "rescale_betas_zero_snr" not in DEFAULTS[name]:
        yield f"{name} ignores rescale_betas_zero_snr, which is written all the same: the model was trained with it"
    posterior = schedule.get("v_posterior", 0.0)
    if posterior and (sampler != "ddpm" or posterior != 1):
        yield f"schedule.v_posterior {posterior} has no place in a {name}"
    if posterior == 1 and sampler == "ddpm" and _read_spacing(name, section) not in _TO_ZERO:
        yield "DDPMScheduler with variance_type 'fixed_large' adds noise to the last picture"
