"""scheduler_config.json in and out, with diffusers' own classes as the oracle: timesteps, trajectories, defaults."""

import ast
import inspect
import json
from importlib import metadata, util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import diffusers_config
from ldm_jax.convert.diffusers_scheduler import (
    _DPM_SPACED,
    SAMPLERS,
    SDE,
    not_said,
    scheduler_json,
    scheduler_sections,
)
from ldm_jax.convert.diffusers_scheduler_defaults import DEFAULTS, VERSION
from ldm_jax.diffusion.process import log_alpha_bar, to_eps_fn
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import SPACINGS, make_timesteps
from ldm_jax.find import find
from ldm_jax.samplers.base import StepInfo
from tests.samplers.test_parity_diffusers import NOISES, X_T, injected, toy, toy_torch

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SD_SCHEDULE = {"name": "linear", "num_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
SD_NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEP_COUNTS = (1, 2, 4, 10, 30)
# what a file of each sampler's class can say to the timestep
SAID = {
    **dict.fromkeys(("ddim", "plms", "ddpm"), ("leading", "leading_0", "trailing", "linspace_rounded")),
    **dict.fromkeys(
        ("euler_ancestral", "heun", "lms", "dpm2", "dpm2_ancestral"),
        ("leading", "leading_0", "trailing", "linspace"),
    ),
    "euler": ("leading", "leading_0", "trailing", "linspace", "dpm_leading", "dpm_leading_0", "dpm_linspace"),
    **dict.fromkeys(
        ("dpm_solver", "dpm_solver_sde", "unipc", "deis"),
        ("dpm_leading", "dpm_leading_0", "dpm_linspace", "trailing"),
    ),
    "dpm_solver_singlestep": ("dpm_linspace",),
    **dict.fromkeys(("lcm", "tcd"), ("lcm",)),
}
SPACED = {
    "dpm_solver_singlestep": {"spacing": "dpm_linspace"},
    "lcm": {"spacing": "lcm"},
    "tcd": {"spacing": "lcm"},
}
ENDS = {"deis": {"final_alpha": "first"}}  # its class has no other end
WRITTEN = (*SAMPLERS.values(), *SDE)


def through_json(value):
    return json.loads(json.dumps(value))


def theirs_of(section):
    return getattr(diffusers, section["_class_name"]).from_config(section)


def visited(scheduler, num_steps):
    """Their timesteps, each once: PNDM and Heun list some twice, and KDPM2 lists the middles of steps in between."""
    scheduler.set_timesteps(num_steps)
    steps = scheduler.timesteps.numpy()[:: 2 if "KDPM2" in type(scheduler).__name__ else 1]
    return steps[np.append(True, np.diff(steps) != 0)]


def signature_of(name):
    """{option: default}; by its source where a class cannot be imported for want of a package that only it needs."""
    cls = getattr(diffusers, name)
    if not (name == "DPMSolverSDEScheduler" and util.find_spec("torchsde") is None):
        return {k: p.default for k, p in list(inspect.signature(cls.__init__).parameters.items())[1:]}
    path = Path(diffusers.__file__).parent / "schedulers" / "scheduling_dpmsolver_sde.py"
    found = next(
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef) and n.name == name
    )
    arguments = next(n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__").args
    return dict(
        zip(
            [a.arg for a in arguments.args[1:]],
            [ast.literal_eval(d) for d in arguments.defaults],
            strict=True,
        )
    )


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_diffusers(name):
    if metadata.version("diffusers") != VERSION:
        pytest.skip(f"the table is of diffusers {VERSION}")
    assert signature_of(name) == DEFAULTS[name]


READ = [name for name in DEFAULTS if name != "DPMSolverSDEScheduler"]


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"timestep_spacing": "leading", "steps_offset": offset} for offset in (0, 1, 3)),
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing"},
    ],
)
def test_a_file_visits_what_its_class_does(name, options):
    """Also those read as ddim. One step of 'linspace' is the clean end there, where nothing can be drawn from noise."""
    section = {"_class_name": name, **SD_NOISE, **options}
    section |= {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler, spacing = theirs_of(section), scheduler_sections(section)["sampling"]["spacing"]
    for num_steps in STEP_COUNTS:
        ours, theirs = make_timesteps(spacing, 1000, num_steps), visited(scheduler, num_steps)
        if num_steps == 1 and spacing.startswith("linspace"):
            assert (ours, theirs) == (999, 0)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sampler", WRITTEN)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_round_trip_visits_the_same_timesteps_or_is_told(sampler, spacing):
    config = {"schedule": SD_SCHEDULE, "prediction_type": "eps"}
    whole = config | {"sampling": {"sampler": sampler, "spacing": spacing} | ENDS.get(sampler, {})}
    section, words = through_json(scheduler_json(whole)), " ".join(not_said(whole))
    told = f"no timestep spacing '{spacing}'" in words
    assert told == (spacing not in SAID[sampler])
    back = scheduler_sections(section)
    assert {k: back[k] for k in config} == config
    assert back["sampling"]["sampler"] == sampler
    assert told or back["sampling"] == whole["sampling"]
    scheduler = theirs_of(section)
    for num_steps in STEP_COUNTS:
        ours = make_timesteps(back["sampling"]["spacing"], 1000, num_steps)
        if num_steps > 1 or not back["sampling"]["spacing"].startswith("linspace"):
            np.testing.assert_array_equal(ours, visited(scheduler, num_steps))
        if not told:
            np.testing.assert_array_equal(ours, make_timesteps(spacing, 1000, num_steps))
        elif "where the number of steps does not divide 1000" in words and 1000 % num_steps == 0:
            np.testing.assert_array_equal(ours, make_timesteps(spacing, 1000, num_steps))


def their_result(section, num_steps, monkeypatch):
    scheduler, noises = theirs_of(section), iter(NOISES)
    module = inspect.getmodule(type(scheduler))
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **options: torch.tensor(next(noises)))
    scheduler.set_timesteps(num_steps)
    exploding = section["_class_name"].startswith(("Euler", "Heun", "LMS", "KDPM2"))
    x = torch.tensor(X_T) * ((scheduler.sigmas[0] ** 2 + 1) ** 0.5 if exploding else 1)
    if section["_class_name"].startswith(
        "DEIS"
    ):  # its coefficients are differences that float32 leaves few digits of
        scheduler.sigmas, x = scheduler.sigmas.double(), x.double()
    for t in scheduler.timesteps:
        prediction = toy_torch(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(prediction, t, x).prev_sample
    return x.numpy()


def our_results(section):
    """{number of steps: the result}, sampled as the file is read; the step is compiled once."""
    read = scheduler_sections(section)
    schedule, options = make_schedule(**read["schedule"]), dict(read["sampling"])
    make, spacing = find("samplers", options.pop("sampler")).sampler, options.pop("spacing")
    options |= options.pop("sampler_options", {})
    if "noise_fn" in inspect.signature(make).parameters:
        options["noise_fn"] = injected
    sampler, eps_fn = make(schedule, **options), to_eps_fn(toy, schedule, read["prediction_type"])
    step = jax.jit(lambda state, x, info: sampler.step(eps_fn, state, x, info)[:2])
    results = {}
    for num_steps in STEP_COUNTS:
        steps, state, x = make_timesteps(spacing, 1000, num_steps), sampler.init(jnp.asarray(X_T)), X_T
        for i, (t, t_prev) in enumerate(zip(steps, np.append(steps[1:], steps.dtype.type(-1)), strict=True)):
            info = StepInfo(np.int32(i), t, t_prev, jax.random.key(0), np.int32(len(steps)))
            state, x = step(state, x, info)
        results[num_steps] = np.asarray(x)
    return results


@pytest.mark.parametrize(
    "name, options",
    [
        ("DDIMScheduler", {}),  # clips at 1 by default
        ("DDIMParallelScheduler", {"clip_sample_range": 0.5, "steps_offset": 1}),
        ("DDPMScheduler", {}),
        ("DDPMScheduler", {"timestep_spacing": "linspace", "clip_sample": False}),
        ("DDPMScheduler", {"variance_type": "fixed_large", "prediction_type": "v_prediction"}),
        ("DDPMScheduler", {"variance_type": "fixed_small_log", "timestep_spacing": "trailing"}),
        ("HeunDiscreteScheduler", {"clip_sample": True, "timestep_spacing": "trailing"}),
        ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
        ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}),
        ("DPMSolverMultistepScheduler", {"lower_order_final": False, "euler_at_final": True}),
        ("DPMSolverMultistepScheduler", {"solver_order": 1, "final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}),
        ("UniPCMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {"timestep_spacing": "leading", "prediction_type": "v_prediction"}),
        ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min", "solver_type": "midpoint"}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 2}),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing", "use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3, "timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun", "final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
        ("DPMSolverSinglestepScheduler", {}),
        ("DPMSolverSinglestepScheduler", {"solver_order": 1, "final_sigmas_type": "sigma_min"}),
        ("DEISMultistepScheduler", {}),
        ("DEISMultistepScheduler", {"solver_order": 3, "timestep_spacing": "leading", "solver_type": "bh2"}),
        ("DEISMultistepScheduler", {"solver_order": 1}),
        ("LMSDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("KDPM2DiscreteScheduler", {"timestep_spacing": "trailing"}),
        ("KDPM2AncestralDiscreteScheduler", {"timestep_spacing": "leading"}),
        ("LCMScheduler", {"clip_sample": True, "timestep_scaling": 5.0}),
        ("LCMScheduler", {"original_inference_steps": 100, "prediction_type": "v_prediction"}),
        ("TCDScheduler", {"clip_sample": True, "set_alpha_to_one": False}),
    ],
)
def test_a_file_that_is_read_without_a_word_samples_as_its_class(name, options, monkeypatch, caplog):
    """Trailing steps of DDIM and PNDM are chains there only where their number divides that of the timesteps."""
    section = {"_class_name": name, **SD_NOISE, **options}
    ours = our_results(section)
    assert not caplog.records
    for num_steps, result in ours.items():
        if num_steps == 30 and name == "PNDMScheduler" and options.get("timestep_spacing") == "trailing":
            continue
        if (
            num_steps == 1
            and options.get("timestep_spacing", DEFAULTS[name].get("timestep_spacing")) == "linspace"
        ):
            if name not in _DPM_SPACED:
                continue
        theirs = their_result(section, num_steps, monkeypatch)
        error = np.sqrt(np.square(result - theirs).mean() / np.square(theirs).mean())
        assert error < 2e-5, (num_steps, error)


SIGMA_OPTIONS = {
    "karras": "use_karras_sigmas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}


@pytest.mark.parametrize("kind", SIGMA_OPTIONS)
@pytest.mark.parametrize(
    "name, options, spacing",
    [
        ("EulerDiscreteScheduler", {}, ""),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "_leading"),
        ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}, "_trailing"),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, ""),
        ("LMSDiscreteScheduler", {"timestep_spacing": "leading"}, "_leading_0"),
        ("UniPCMultistepScheduler", {}, ""),
    ],
)
def test_schedules_of_sigmas_are_those_of_the_class(kind, name, options, spacing):
    """The same levels; the timestep that the network is told beside them to .05, where theirs is not rounded."""
    section = {"_class_name": name, **SD_NOISE, SIGMA_OPTIONS[kind]: True, **options}
    read = scheduler_sections(section)["sampling"]["spacing"]
    assert read == kind + spacing
    schedule, scheduler = make_schedule(**SD_SCHEDULE), theirs_of(section)
    for num_steps in (2, 5, 10, 30, 50):
        ours = make_timesteps(read, 1000, num_steps, schedule.sigmas)
        assert ours.dtype == np.float32 and np.all(np.diff(ours) < 0)
        bar = np.exp(np.asarray(log_alpha_bar(schedule, jnp.asarray(ours), jnp.zeros(num_steps))))
        times = visited(scheduler, num_steps)
        sigmas = scheduler.sigmas[:-1].numpy()
        sigmas = sigmas[np.append(True, np.diff(sigmas) != 0)]
        np.testing.assert_allclose(
            np.sqrt((1 - bar) / bar), sigmas, rtol=1e-4
        )  # theirs are of float32 products
        if times.dtype == np.float32:
            np.testing.assert_allclose(ours, times, atol=0.05)


@pytest.mark.parametrize(
    "sampler, spacing",
    [
        ("euler", "karras"),
        ("euler", "beta_leading_0"),
        ("heun", "exponential_trailing"),
        ("dpm_solver", "karras"),
        ("unipc", "exponential"),
    ],
)
def test_schedules_of_sigmas_come_back(sampler, spacing):
    config = {
        "schedule": SD_SCHEDULE,
        "prediction_type": "eps",
        "sampling": {"sampler": sampler, "spacing": spacing},
    }
    assert scheduler_sections(through_json(scheduler_json(config))) == config
    assert not list(not_said(config))


@pytest.mark.parametrize(
    "sampler, spacing",
    [("ddim", "karras"), ("euler_ancestral", "beta"), ("dpm_solver", "karras_leading"), ("euler", "ays_sd1")],
)
def test_a_schedule_of_sigmas_that_a_class_has_not_is_told(sampler, spacing):
    (told,) = not_said({"schedule": SD_SCHEDULE, "sampling": {"sampler": sampler, "spacing": spacing}})
    assert f"no timestep spacing '{spacing}'" in told


UNREADABLE = [
    ({"trained_betas": [0.1]}, "trained_betas"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule"),
    ({"prediction_type": "flow_prediction"}, "prediction_type"),
    ({"timestep_spacing": "quadratic"}, "timestep_spacing"),
    ({"steps_offset": -1}, "steps_offset"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
    ({"_class_name": "FlowMatchHeunDiscreteScheduler", **SD_NOISE}, "FlowMatchHeunDiscreteScheduler"),
    ({"_class_name": "EDMEulerScheduler", **SD_NOISE}, "EDMEulerScheduler"),
    ({"_class_name": "EDMDPMSolverMultistepScheduler", **SD_NOISE}, "EDMDPMSolverMultistepScheduler"),
    ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
    ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
    ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "variance_type"),
    ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, "variance_type"),
    (
        {
            "_class_name": "EulerDiscreteScheduler",
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
        },
        "timestep_type",
    ),
]


@pytest.mark.parametrize("section, named", UNREADABLE)
def test_another_process_is_refused_by_name(section, named):
    with pytest.raises(ValueError, match=named):
        scheduler_sections({"_class_name": "DDIMScheduler"} | section)


TOLD = [
    ("DDIMScheduler", {"thresholding": True}, "thresholding"),
    ("DDIMScheduler", {"timestep_spacing": "linspace"}, "linspace"),
    ("PNDMScheduler", {}, "skip_prk_steps"),
    ("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}, "extrapolates v"),
    ("DDPMScheduler", {"variance_type": "fixed_large", "steps_offset": 1}, "fixed_large"),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "rounded timestep"),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_max": 9.0}, "sigma_max: 9.0"),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, "use_lu_lambdas"),
    ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1}, "lambda_min_clipped"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver"}, "algorithm_type"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "wrong sign"),
    ("DPMSolverMultistepScheduler", {"solver_order": 4}, "solver_order"),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "lower_order_final": False}, "lower_order_final"),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}, "solver_order"),
    ("DPMSolverSinglestepScheduler", {"solver_type": "heun"}, "solver_type"),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
    (
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": True, "final_sigmas_type": "sigma_min"},
        "lower_order_final",
    ),
    ("DEISMultistepScheduler", {"lower_order_final": False}, "lower_order_final"),
    ("SASolverScheduler", {}, "SASolverScheduler"),
    (
        "DPMSolverMultistepScheduler",
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        "lower_order_final",
    ),
    (
        "DPMSolverMultistepScheduler",
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        "euler_at_final",
    ),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear"}, "interpolation_type"),
    ("HeunDiscreteScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ("UniPCMultistepScheduler", {"use_beta_sigmas": True}, "rounded timestep"),
    ("UniPCMultistepScheduler", {"thresholding": True}, "thresholding"),
    ("UniPCMultistepScheduler", {"solver_order": 3}, "solver_order"),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type"),
    ("UniPCMultistepScheduler", {"predict_x0": False}, "predict_x0"),
    ("UniPCMultistepScheduler", {"disable_corrector": [0, 1]}, "disable_corrector: [0, 1]"),
    ("UniPCMultistepScheduler", {"solver_p": {"_class_name": "DDIMScheduler"}}, "solver_p"),
    ("UniPCMultistepScheduler", {"lower_order_final": False}, "lower_order_final"),
]


@pytest.mark.parametrize("name, options, word", TOLD)
def test_another_way_of_sampling_is_told(name, options, word, caplog):
    scheduler_sections({"_class_name": name, **SD_NOISE, **options})
    assert len(caplog.records) == 1 and word in caplog.text and name in caplog.text


PUBLISHED = [  # schedulers that models of this family are published with, options that their class ignores among them
    ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False}, "plms",
        "leading"),
    ({"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}, "ddim",
        "leading"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}, "euler", "leading"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "skip_prk_steps": True}, "euler",
        "trailing"),
    ({"_class_name": "EulerAncestralDiscreteScheduler", "steps_offset": 1}, "euler_ancestral", "linspace"),
    ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -float("inf")}, "dpm_solver", "dpm_linspace"),
    ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing", "interpolation_type": "linear",
        "steps_offset": 1, "set_alpha_to_one": False, "use_karras_sigmas": False}, "euler_ancestral", "trailing"),
    ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing", "timestep_type": "discrete",
        "sigma_max": None, "sigma_min": None, "final_sigmas_type": "zero", "rescale_betas_zero_snr": False}, "euler",
        "trailing"),
    ({"_class_name": "LCMScheduler", "clip_sample": False, "original_inference_steps": 50,
        "timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True,
        "timestep_scaling": 10.0}, "lcm", "lcm"),
    ({"_class_name": "LMSDiscreteScheduler"}, "lms", "linspace"),
    ({"_class_name": "HeunDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}, "heun", "leading"),
    ({"_class_name": "KDPM2AncestralDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1},
        "dpm2_ancestral", "leading"),
    ({"_class_name": "TCDScheduler"}, "tcd", "lcm"),
]  # fmt: skip


@pytest.mark.parametrize("section, sampler, spacing", PUBLISHED)
def test_published_schedulers_are_read_without_a_word(section, sampler, spacing, caplog):
    read = scheduler_sections(section | SD_NOISE)
    assert read == {
        "schedule": SD_SCHEDULE,
        "prediction_type": "eps",
        "sampling": {"sampler": sampler, "spacing": spacing},
    }
    assert not caplog.records


def test_the_class_that_the_pipeline_names_counts():
    """As in diffusers, which opens the folder's file with the class of model_index.json."""
    section = {"_class_name": "PNDMScheduler", "steps_offset": 1, **SD_NOISE}
    read = scheduler_sections(section, "DDIMScheduler")["sampling"]
    assert read == {"sampler": "ddim", "spacing": "leading", "final_alpha": "one", "clip_denoised": 1.0}
    assert diffusers_config.class_of(["diffusers", "DDIMScheduler"]) == "DDIMScheduler"


@pytest.mark.parametrize("sampler", WRITTEN)
@pytest.mark.parametrize("schedule", ["linear", "sqrt_linear", "squaredcos_cap_v2", "cosine"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_schedulers_have_our_noise(sampler, schedule, zero_terminal_snr):
    """But zero terminal SNR under PNDM, Heun and others that keep the option and have none: that is told."""
    config = {
        "schedule": SD_SCHEDULE
        | {"name": schedule}
        | ({"zero_terminal_snr": True} if zero_terminal_snr else {}),
        "prediction_type": "v",
        "sampling": {"sampler": sampler}
        | SPACED.get(sampler, {"spacing": "trailing"})
        | ENDS.get(sampler, {}),
    }
    section = through_json(scheduler_json(config))
    told = zero_terminal_snr and "rescale_betas_zero_snr" not in DEFAULTS[section["_class_name"]]
    assert ("ignores rescale_betas_zero_snr" in " ".join(not_said(config))) == told
    if not told:
        table = make_schedule(**config["schedule"]).alphas_cumprod
        np.testing.assert_allclose(theirs_of(section).alphas_cumprod.numpy(), table, rtol=2e-4, atol=6e-8)
    back = scheduler_sections(section)
    name = "squaredcos_cap_v2" if schedule == "cosine" else schedule
    assert back == config | {"schedule": config["schedule"] | {"name": name}}


@pytest.mark.parametrize(
    "sampling",
    [
        {"sampler": "ddim", "spacing": "leading", "final_alpha": "one", "clip_denoised": 0.5},
        {"sampler": "ddpm", "spacing": "leading_0", "clip_denoised": 1.0},
        {"sampler": "heun", "spacing": "linspace", "clip_denoised": 2.0},
        {"sampler": "plms", "spacing": "leading", "final_alpha": "one"},
        {"sampler": "dpm_solver", "spacing": "dpm_linspace", "final_alpha": "first"},
        {"sampler": "unipc", "spacing": "dpm_leading", "final_alpha": "first"},
        {"sampler": "euler", "spacing": "dpm_leading", "final_alpha": "first"},
        {"sampler": "euler", "spacing": "leading_7"},
        {
            "sampler": "dpm_solver",
            "spacing": "trailing",
            "sampler_options": {"order": 3, "solver_type": "heun"},
        },
        {"sampler": "dpm_solver_sde", "spacing": "karras", "sampler_options": {"order": 3}},
        {"sampler": "deis", "spacing": "beta", "final_alpha": "first", "sampler_options": {"order": 3}},
        {"sampler": "dpm_solver_singlestep", "spacing": "dpm_linspace", "final_alpha": "first"},
        {
            "sampler": "lcm",
            "spacing": "lcm_25",
            "clip_denoised": 1.0,
            "sampler_options": {"timestep_scaling": 5.0},
        },
        {"sampler": "tcd", "spacing": "lcm"},
    ],
)
def test_options_come_back(sampling):
    config = {"schedule": SD_SCHEDULE, "prediction_type": "eps", "sampling": sampling}
    assert scheduler_sections(through_json(scheduler_json(config))) == config
    assert not list(not_said(config))


def test_the_variance_comes_back():
    config = {
        "schedule": SD_SCHEDULE | {"v_posterior": 1.0},
        "prediction_type": "x_start",
        "sampling": {"sampler": "ddpm", "spacing": "leading_0"},
    }
    assert scheduler_sections(through_json(scheduler_json(config))) == config
    assert not list(not_said(config))


@pytest.mark.parametrize(
    "change, word",
    [
        (
            {"sampling": {"sampler": "euler_ancestral", "spacing": "leading", "final_alpha": "first"}},
            "final_alpha",
        ),
        ({"sampling": {"sampler": "heun", "spacing": "leading", "final_alpha": "first"}}, "final_alpha"),
        ({"sampling": {"spacing": "leading", "eta": 1.0}}, "eta"),
        ({"sampling": {"sampler": "lms", "spacing": "leading", "sampler_options": {"order": 2}}}, "order: 2"),
        ({"sampling": {"sampler": "deis", "spacing": "trailing"}}, "cannot end at the clean image"),
        ({"sampling": {"sampler": "euler_ancestral", "spacing": "leading", "eta": 0.5}}, "eta"),
        ({"sampling": {"sampler": "plms", "spacing": "leading"}, "prediction_type": "v"}, "extrapolates v"),
        ({"sampling": {"spacing": "linspace_rounded"}}, "steps under 'linspace'"),
        ({"sampling": {"spacing": "leading"}, "schedule": SD_SCHEDULE | {"v_posterior": 0.5}}, "v_posterior"),
        (
            {
                "sampling": {"sampler": "ddpm", "spacing": "leading"},
                "schedule": SD_SCHEDULE | {"v_posterior": 1},
            },
            "last picture",
        ),
    ],
)
def test_what_a_file_cannot_say_is_told(change, word):
    (told,) = not_said({"schedule": SD_SCHEDULE} | change)
    assert word in told


def test_what_a_folder_cannot_say_is_told():
    config = {
        "schedule": SD_SCHEDULE,
        "conditioning": {"name": "clip"},
        "sampling": {"spacing": "leading", "num_steps": 1, "guidance_scale": 7.5},
    }
    (told,) = diffusers_config.not_said(config)
    assert "num_steps 1" in told and "StableDiffusionPipeline takes 50" in told


@pytest.mark.parametrize(
    "config, message",
    [
        ({"schedule": {"name": "sqrt"}}, "'sqrt' cannot be expressed"),
        ({"schedule": {"name": "cosine", "cosine_s": 0.02}}, "schedule"),
        ({"schedule": SD_SCHEDULE, "sampling": {"spacing": "loglinear"}}, "spacing='loglinear'"),
        ({"schedule": SD_SCHEDULE, "sampling": {"sampler": "ipndm"}}, "sampler='ipndm'"),
        ({"schedule": SD_SCHEDULE, "sampling": {"sampler": "plms"}, "prediction_type": "x_start"}, "plms"),
    ],
)
def test_what_diffusers_has_not_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        scheduler_json(config)
