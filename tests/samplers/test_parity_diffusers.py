"""Whole trajectories against diffusers' schedulers, with one toy network of x and t on both sides.

diffusers' Euler, Euler ancestral and Heun keep x_ve = x sqrt(sigma^2 + 1); theirs is divided by it at each step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.process import to_eps_fn
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.find import find
from ldm_jax.samplers.base import StepInfo

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

BETAS = (0.00085, 0.012)  # Stable Diffusion's
X_T = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
KEY = jax.random.key(0)
SIGMAS = make_schedule("linear", 1000, *BETAS).sigmas
NOISES = np.random.default_rng(1).normal(size=(50, *X_T.shape)).astype(np.float32)
TYPES = {"eps": "epsilon", "v": "v_prediction", "x_start": "sample"}
CLASSES = {
    "ddim": "DDIMScheduler",
    "plms": "PNDMScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
VARIANCE_EXPLODING = ("euler", "euler_ancestral", "heun")


def toy_torch(x, t):
    return torch.tanh(1.3 * x) * (0.5 + 0.4 * t / 1000) + 0.2 * torch.sin(2 * x.flip(-1) + 0.01 * t)


def toy(x, t, control=None):
    t = t.reshape(-1, 1, 1, 1)
    return jnp.tanh(1.3 * x) * (0.5 + 0.4 * t / 1000) + 0.2 * jnp.sin(2 * x[..., ::-1] + 0.01 * t), {}


def make_theirs(name, prediction_type, **options):
    fixed = {"plms": {"skip_prk_steps": True}, "ddim": {"clip_sample": False}}.get(name, {})
    options = dict(steps_offset=1, timestep_spacing="leading") | fixed | options
    return getattr(diffusers, CLASSES[name])(
        1000, *BETAS, "scaled_linear", prediction_type=TYPES[prediction_type], **options
    )


def their_trajectory(name, scheduler, num_steps, **step_options):
    """x after every call of the network, [calls, B, ...], from X_T; ddim's noise is NOISES."""
    scheduler.set_timesteps(num_steps)
    exploding = name in VARIANCE_EXPLODING
    x, out = torch.tensor(X_T), []
    if exploding:
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for i, t in enumerate(scheduler.timesteps):
        if name == "ddim" and step_options:
            step_options["variance_noise"] = torch.tensor(NOISES[i])
        prediction = toy_torch(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(prediction, t, x, **step_options).prev_sample
        out.append(x / (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if exploding else x)
    return torch.stack(out).numpy()


@functools.cache
def our_step(name, prediction_type, zero_terminal_snr, options):
    """The sampler and its jitted step, compiled once for all step counts."""
    schedule = make_schedule("linear", 1000, *BETAS, zero_terminal_snr=zero_terminal_snr)
    eps_fn = to_eps_fn(toy, schedule, prediction_type)
    sampler = find("samplers", name).sampler(schedule, **dict(options))
    return sampler, jax.jit(lambda state, x, info: sampler.step(eps_fn, state, x, info)[:2])


def our_trajectory(name, prediction_type, spacing, num_steps, zero_terminal_snr=False, **options):
    """x after every step, [steps, B, ...]; that `sample` does the same as this loop is test_contract's."""
    sampler, step = our_step(name, prediction_type, zero_terminal_snr, tuple(options.items()))
    steps = make_timesteps(spacing, 1000, num_steps, SIGMAS)
    state, x, out = sampler.init(jnp.asarray(X_T)), X_T, []
    for i, (t, t_prev) in enumerate(zip(steps, np.append(steps[1:], steps.dtype.type(-1)), strict=True)):
        state, x = step(state, x, StepInfo(np.int32(i), t, t_prev, KEY, np.int32(len(steps))))
        out.append(np.asarray(x))
    return np.stack(out)


def check(ours, theirs, tolerance=1e-5):
    """Relative to the size of the whole, at every step."""
    assert ours.shape == theirs.shape and np.all(np.isfinite(theirs))
    axes = tuple(range(1, ours.ndim))
    errors = np.sqrt(np.square(ours - theirs).mean(axes) / np.square(theirs).mean(axes))
    assert errors.max() < tolerance, (errors.argmax(), errors.max())


def injected(info, x):
    return jnp.asarray(NOISES)[info.index]


@pytest.mark.parametrize("num_steps", [7, 10, 25, 50])
@pytest.mark.parametrize("prediction_type", ["eps", "v", "x_start"])
def test_ddim(prediction_type, num_steps):
    theirs = make_theirs("ddim", prediction_type, set_alpha_to_one=False)
    check(
        our_trajectory("ddim", prediction_type, "leading", num_steps),
        their_trajectory("ddim", theirs, num_steps),
    )


@pytest.mark.parametrize("num_steps", [10, 25])
def test_ddim_with_noise_to_the_clean_image(num_steps):
    theirs = make_theirs("ddim", "v", set_alpha_to_one=True, timestep_spacing="trailing")
    ours = our_trajectory("ddim", "v", "trailing", num_steps, eta=1.0, final_alpha="one", noise_fn=injected)
    check(ours, their_trajectory("ddim", theirs, num_steps, eta=1.0))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10, 25, 50])
@pytest.mark.parametrize("final_alpha", ["first", "one"])
def test_plms(num_steps, final_alpha):
    """PNDMScheduler with skip_prk_steps is this PLMS for every number of steps, with eps-models.

    Its second timestep is there twice: the two calls of the first step. With one step both call once (Euler) where
    the original calls twice. With v-models it extrapolates v, and this library eps: it
    differs, and the original (which takes v for eps) has nothing to compare with.
    """
    theirs = make_theirs("plms", "eps", set_alpha_to_one=final_alpha == "one")
    ours = our_trajectory("plms", "eps", "leading", num_steps, final_alpha=final_alpha)
    check(ours, their_trajectory("plms", theirs, num_steps)[min(num_steps, 2) - 1 :])


def test_one_step_of_plms_from_the_noisy_end():
    """Where a second call, on the denoised picture at t = 999, would answer anything."""
    theirs = make_theirs("plms", "eps", set_alpha_to_one=True, timestep_spacing="trailing")
    ours = our_trajectory("plms", "eps", "trailing", 1, final_alpha="one")
    check(ours, their_trajectory("plms", theirs, 1))


@pytest.mark.parametrize("num_steps", [2, 10, 14, 15, 25, 50])
@pytest.mark.parametrize(
    "prediction_type, spacing", [("eps", "leading"), ("v", "linspace"), ("x_start", "trailing")]
)
def test_dpm_solver(prediction_type, spacing, num_steps):
    theirs = their_trajectory(
        "dpm_solver", make_theirs("dpm_solver", prediction_type, timestep_spacing=spacing), num_steps
    )
    ours = "trailing" if spacing == "trailing" else f"dpm_{spacing}"
    check(our_trajectory("dpm_solver", prediction_type, ours, num_steps), theirs)


@pytest.mark.parametrize("num_steps", [10, 14, 15, 50])
def test_dpm_solver_to_the_first_alpha(num_steps):
    """Below 15 steps the last one is of first order."""
    theirs = make_theirs("dpm_solver", "eps", final_sigmas_type="sigma_min", timestep_spacing="linspace")
    ours = our_trajectory("dpm_solver", "eps", "dpm_linspace", num_steps, final_alpha="first")
    check(ours, their_trajectory("dpm_solver", theirs, num_steps))


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10, 25, 50])
@pytest.mark.parametrize(
    "prediction_type, spacing", [("eps", "leading"), ("v", "linspace"), ("x_start", "trailing")]
)
def test_unipc(prediction_type, spacing, num_steps):
    theirs = make_theirs("unipc", prediction_type, timestep_spacing=spacing)
    ours = "trailing" if spacing == "trailing" else f"dpm_{spacing}"
    check(
        our_trajectory("unipc", prediction_type, ours, num_steps),
        their_trajectory("unipc", theirs, num_steps),
    )


@pytest.mark.parametrize("num_steps", [5, 10, 25])
def test_unipc_to_the_first_alpha(num_steps):
    theirs = make_theirs("unipc", "eps", final_sigmas_type="sigma_min", timestep_spacing="linspace")
    ours = our_trajectory("unipc", "eps", "dpm_linspace", num_steps, final_alpha="first")
    check(ours, their_trajectory("unipc", theirs, num_steps))


SPACINGS = ("leading", "trailing", "linspace")


@pytest.mark.parametrize("num_steps", [10, 25, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", ["eps", "v"])
def test_euler(prediction_type, spacing, num_steps):
    theirs = make_theirs("euler", prediction_type, timestep_spacing=spacing)
    check(
        our_trajectory("euler", prediction_type, spacing, num_steps),
        their_trajectory("euler", theirs, num_steps),
    )


@pytest.mark.parametrize("num_steps", [5, 10, 25, 50])
@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("name, spacing", [("euler", "leading"), ("euler", "linspace"), ("heun", "trailing")])
def test_schedules_of_sigmas(name, spacing, kind, num_steps):
    """Their networks are told timesteps up to .05 beside ours: for this one that is below the rounding."""
    theirs = make_theirs(name, "eps", timestep_spacing=spacing, **{f"use_{kind}_sigmas": True})
    theirs = their_trajectory(name, theirs, num_steps)
    if name == "heun":
        theirs = np.concatenate([theirs[1:-1:2], theirs[-1:]])
    ours = kind if spacing == "linspace" else f"{kind}_{spacing}"
    check(our_trajectory(name, "eps", ours, num_steps), theirs)


def test_euler_to_the_first_alpha():
    theirs = make_theirs("euler", "eps", final_sigmas_type="sigma_min")
    ours = our_trajectory("euler", "eps", "leading", 10, final_alpha="first")
    check(ours, their_trajectory("euler", theirs, 10))


def cases(*kinds):
    """Each with 1, 10, 25 and 50 steps; one step of 'linspace' is T-1 here and 0 there."""
    return [(*kind, n) for kind in kinds for n in (1, 10, 25, 50) if (kind[1], n) != ("linspace", 1)]


@pytest.mark.parametrize(
    "prediction_type, spacing, num_steps", cases(("eps", "trailing"), ("v", "leading"), ("eps", "linspace"))
)
def test_euler_ancestral(prediction_type, spacing, num_steps, monkeypatch):
    noises = iter(NOISES)
    monkeypatch.setattr(
        diffusers.schedulers.scheduling_euler_ancestral_discrete,
        "randn_tensor",
        lambda shape, **options: torch.tensor(next(noises)),
    )
    theirs = make_theirs("euler_ancestral", prediction_type, timestep_spacing=spacing)
    ours = our_trajectory("euler_ancestral", prediction_type, spacing, num_steps, noise_fn=injected)
    check(ours, their_trajectory("euler_ancestral", theirs, num_steps))


@pytest.mark.parametrize(
    "prediction_type, spacing, num_steps", cases(("eps", "leading"), ("v", "trailing"), ("eps", "linspace"))
)
def test_heun(prediction_type, spacing, num_steps):
    theirs = their_trajectory(
        "heun", make_theirs("heun", prediction_type, timestep_spacing=spacing), num_steps
    )
    assert len(theirs) == 2 * num_steps - 1  # the last step has one call
    ours = our_trajectory("heun", prediction_type, spacing, num_steps)
    check(ours, np.concatenate([theirs[1:-1:2], theirs[-1:]]))


@pytest.mark.parametrize("num_steps", [10, 25, 50])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm_solver", "unipc"])
def test_zero_terminal_snr(name, num_steps):
    """v-prediction and trailing timesteps, with 2**-24 for the last alphas_cumprod, as diffusers' Euler has it."""
    theirs = make_theirs(name, "v", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    theirs.alphas_cumprod[-1] = 2.0**-24
    ours = our_trajectory(name, "v", "trailing", num_steps, zero_terminal_snr=True, final_alpha="one")
    check(ours, their_trajectory(name, theirs, num_steps), 5e-5)


def test_zero_terminal_snr_of_ddim():
    """There diffusers' DDIM has 0. That is a signal of 2**-12 apart, and so far apart the two are."""
    theirs = make_theirs("ddim", "v", timestep_spacing="trailing", rescale_betas_zero_snr=True)
    ours = our_trajectory("ddim", "v", "trailing", 50, zero_terminal_snr=True, final_alpha="one")
    check(ours, their_trajectory("ddim", theirs, 50), 1.5 * 2**-12)


@pytest.mark.parametrize("name", VARIANCE_EXPLODING)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_where_diffusers_starts(name, spacing):
    """At unit noise in our scale under 'leading'; otherwise lower by sqrt(1 - alphas_cumprod), as euler.py says."""
    theirs = make_theirs(name, "eps", timestep_spacing=spacing)
    theirs.set_timesteps(10)
    sigma = float(theirs.sigmas[0])
    start = float(theirs.init_noise_sigma) / np.sqrt(sigma**2 + 1)
    bar = 1 / (sigma**2 + 1)
    np.testing.assert_allclose(start, 1 if spacing == "leading" else np.sqrt(1 - bar), rtol=1e-6)
