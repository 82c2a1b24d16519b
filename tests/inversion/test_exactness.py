"""Inversion of denoisers whose answer is known: the order of its error in closed form, and what is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.guidance import classifier_free
from ldm_jax.inversion import base, ddim, edit_friendly, fixed_point, negative_prompt, null_text
from ldm_jax.samplers import ddim as sampler
from ldm_jax.samplers.base import keys_of, sample, step_infos, step_noise
from ldm_jax.types import Cond
from tests.samplers import oracle

SCHEDULE = make_schedule("linear", 1000, 0.0015, 0.0195)
SHAPE = (2, 4, 4, 1)
END = sampler.end_log_alpha_bar(SCHEDULE, "first")
KEYS = keys_of(jnp.arange(2, dtype=jnp.uint32))
TEMPLATES = jax.random.normal(jax.random.key(5), (3, *SHAPE[1:]))
X = TEMPLATES[:2] + 0.1 * jax.random.normal(jax.random.key(6), SHAPE)
STD = 0.5


def visited(steps):
    return jnp.asarray(make_timesteps("uniform", 1000, steps, None))


def denoiser(steps, network, cond=Cond(), uncond=None):
    return Denoiser(network, cond, uncond, SCHEDULE, "eps", visited(steps))


def mixture(x, t, cond, control=None):
    return oracle.eps_fn(SCHEDULE, TEMPLATES)(x, t)


def linear(x, t, cond, control=None):
    """Exact for Gaussian data of standard deviation STD; a context [B, 1, D] is what the prompt adds to eps,
    cell by cell."""
    alpha = SCHEDULE.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    eps = jnp.sqrt(1 - alpha) / (alpha * STD**2 + 1 - alpha) * x
    return eps if cond.context is None else eps + 0.3 * cond.context.reshape(x.shape), {}


def plain(x, t, cond, control=None):
    return linear(x, t, Cond())


def draw(den, x_T, eta=0.0, eps_fn=None, **options):
    made = sampler.sampler(SCHEDULE, eta=eta, **options)
    return sample(eps_fn or den.conditional, made, x_T, den.visited, KEYS)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def round_trip(steps, network, refinements):
    den = denoiser(steps, network)
    found = fixed_point.invert(den, X, KEYS, END, refinements=refinements)["trajectory"]
    return found, draw(den, found[0])


def psnr(a, b):
    return float(10 * np.log10((X.max() - X.min()) ** 2 / np.square(np.asarray(a) - b).mean()))


def closed_form(steps, refinements):
    """(what inversion multiplies a picture with, what the round trip does): both are numbers for a linear
    denoiser, in float64."""
    alphas = np.exp(np.asarray(SCHEDULE.log_alphas_cumprod, np.float64))
    t = np.asarray(visited(steps))
    up = whole = 1.0
    for here, there in zip(alphas[t], np.append(alphas[t[1:]], alphas[0]), strict=True):
        k = np.sqrt(1 - here) / (here * STD**2 + 1 - here)
        r = np.sqrt(there / here)
        down = r + (np.sqrt(1 - there) - r * np.sqrt(1 - here)) * k
        slope = (np.sqrt(1 - here) - np.sqrt(1 - there) / r) * k
        found = 1.0
        for _ in range(refinements + 1):
            found = 1 / r + slope * found
        up, whole = up * found, whole * found * down
    return up, whole


@pytest.mark.parametrize("refinements", [0, 1, 2])
def test_the_error_of_a_linear_denoiser_has_its_closed_form_and_order(refinements):
    up, whole = closed_form(20, refinements)
    found, drawn = round_trip(20, plain, refinements)
    np.testing.assert_allclose(found[0], up * X, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(drawn, whole * X, rtol=2e-4, atol=1e-5)
    errors = [abs(closed_form(steps, refinements)[1] - 1) for steps in (50, 100, 200)]
    orders = np.log2([errors[0] / errors[1], errors[1] / errors[2]])
    assert orders[1] == pytest.approx(refinements + 1, abs=0.35)  # one order for each refinement


def test_round_trips_of_a_mixture():
    """30 dB at 50 steps, better with more; solved, exact to rounding, and better than DDIM's at as many
    evaluations of the network."""
    plain = [psnr(round_trip(steps, mixture, 0)[1], X) for steps in (20, 50, 100)]
    assert plain[1] > 30 and plain[0] < plain[1] < plain[2]
    solved = psnr(round_trip(50, mixture, 5)[1], X)
    assert solved > 60
    assert psnr(round_trip(20, mixture, 4)[1], X) > plain[2] + 3  # 20 x 5 up; 100 of DDIM


def test_what_swings_about_the_solution_is_damped_at_last():
    """Of z -> slope z, each refinement takes slope off the error; a swing is ended, whether it would end or not, and
    beside what does not swing it is a fraction of what plain iteration leaves."""
    slopes, refinements = jnp.asarray([0.5, -0.5, -1.3, -3.0]).reshape(4, 1, 1, 1), 4
    found = base.solve(lambda z: slopes * z, jnp.ones((4, 2, 2, 1)), refinements)[:, 0, 0, 0]
    np.testing.assert_allclose(found, [0.5 ** (refinements + 1), 0, 0, 0], atol=1e-4)
    slopes = jnp.asarray([0.2, 0.3, 0.4, -0.9]).reshape(1, 2, 2, 1)
    found = base.solve(lambda z: slopes * z, jnp.ones((1, 2, 2, 1)), refinements)
    assert np.abs(found).max() < 0.2 * 0.9 ** (refinements + 1)


def test_the_trajectory_is_that_of_ddim_and_starts_from_the_picture():
    den = denoiser(20, mixture)
    ours = ddim.invert(den, X, KEYS, END)["trajectory"]
    np.testing.assert_array_equal(ours, fixed_point.invert(den, X, KEYS, END, refinements=0)["trajectory"])
    np.testing.assert_array_equal(ours[-1], X)
    assert ours.shape == (21, *SHAPE)


@pytest.mark.parametrize("final_alpha", ["first", "one"])
def test_the_noises_of_an_ancestral_run_give_the_picture(final_alpha):
    """Exact whatever the guidance; where the last step has no room for noise, up to what the network says
    there."""
    end = sampler.end_log_alpha_bar(SCHEDULE, final_alpha)
    context = jax.random.normal(jax.random.key(1), (2, 1, 16))
    den = denoiser(30, linear, Cond(context=context), Cond(context=0 * context))
    found = edit_friendly.invert(den, X, KEYS, end, scale=jnp.float32(7.5))
    per_picture = jnp.moveaxis(found["noises"], 0, 1)
    guided = classifier_free.guide(den.conditional, den, scale=jnp.float32(7.5))
    drawn = draw(
        den,
        found["trajectory"][0],
        1.0,
        guided,
        noise_fn=base.prescribed(den, per_picture),
        final_alpha=final_alpha,
    )
    np.testing.assert_allclose(drawn, found["trajectory"][-1], atol=2e-5)
    np.testing.assert_allclose(drawn, X, atol=2e-5 if final_alpha == "first" else 0.4)


def test_noises_are_drawn_for_each_timestep_alone():
    """x at a timestep is the picture with noise of its own: it says nothing of the noise at the next one."""
    large = jnp.zeros((2, 64, 64, 1))
    found = edit_friendly.invert(denoiser(10, plain), large, KEYS, END, scale=jnp.float32(1))["trajectory"]
    t = np.asarray(visited(10))
    sigma = np.sqrt(1 - np.asarray(SCHEDULE.alphas_cumprod)[t])
    noise = np.asarray(found[:-1]) / sigma.reshape(-1, 1, 1, 1, 1)
    assert np.abs(noise.std((1, 2, 3, 4)) - 1).max() < 0.03
    flat = noise[:, 0].reshape(10, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(10)).max() < 0.06


CONTEXT = jax.random.normal(jax.random.key(2), (2, 1, 16))
GUIDED = denoiser(10, linear, Cond(context=CONTEXT), Cond(context=jnp.zeros_like(CONTEXT)))


def tuned(steps, rate=0.3, tolerance=0.0):
    numbers = dict(steps_of_adam=steps, rate=rate, tolerance=tolerance, scale=7.5)
    made = {name: jnp.float32(value) for name, value in numbers.items()}
    return jax.jit(lambda **options: null_text.invert(GUIDED, X, KEYS, END, **options))(**made)


def drawn_guided(found):
    steps = {name: value for name, value in found["uncond"].items()}
    den = GUIDED._replace(uncond_steps=steps)
    return draw(
        den, found["trajectory"][0], 0.0, classifier_free.guide(den.conditional, den, scale=jnp.float32(7.5))
    )


def test_null_text_leads_guidance_back_to_the_picture():
    tied = psnr(drawn_guided(tuned(0)), X)
    found = tuned(100)
    drawn = drawn_guided(found)
    np.testing.assert_allclose(drawn, found["trajectory"][-1], atol=1e-4)
    assert psnr(drawn, X) > 40 > tied + 20
    assert psnr(drawn_guided(tuned(100, tolerance=1e-3)), X) < psnr(drawn, X)  # it stops where it is told to


def test_no_tuning_is_plain_guidance():
    found = tuned(0)
    np.testing.assert_array_equal(found["uncond"]["context"], jnp.zeros((10, *CONTEXT.shape)))


def test_a_first_step_of_tuning_goes_against_the_gradient_in_closed_form():
    """Adam's first step is rate times the gradient's sign. Of the linear denoiser it is that of
    -(scale - 1) (what eps weighs in the step) (landed - pivot)."""
    none, one = tuned(0), tuned(1, rate=0.01)
    pivots = ddim.invert(GUIDED, X, KEYS, END)["trajectory"]
    missed = np.asarray(none["trajectory"][1] - pivots[1]).reshape(2, 1, 16)
    alphas = np.asarray(SCHEDULE.alphas_cumprod, np.float64)[np.asarray(visited(10))]
    weight = np.sqrt(1 - alphas[1]) - np.sqrt(alphas[1] / alphas[0] * (1 - alphas[0]))
    expected = 0.01 * np.sign(-(7.5 - 1) * weight * missed)
    np.testing.assert_allclose(one["uncond"]["context"][0], -expected, atol=1e-5)


def test_the_negative_prompt_that_is_the_pictures_own_takes_guidance_away():
    found = negative_prompt.invert(GUIDED, X, KEYS, END)
    np.testing.assert_array_equal(found["trajectory"], ddim.invert(GUIDED, X, KEYS, END)["trajectory"])
    np.testing.assert_allclose(drawn_guided(found), draw(GUIDED, found["trajectory"][0]), atol=1e-4)


def test_the_source_is_put_back_onto_its_trajectory_to_the_bit():
    den = denoiser(10, mixture)._replace(branches=2)
    path = jnp.moveaxis(ddim.invert(den, X, KEYS, END)["trajectory"], 0, 1)
    x_T = jnp.concatenate([path[:, 0]] * 2)
    made = sampler.sampler(SCHEDULE)
    keys = jnp.concatenate([KEYS] * 2)
    out = sample(den.conditional, made, x_T, den.visited, keys, base.following(den, path))[0]
    np.testing.assert_array_equal(out[:2], X)
    assert (out[2:] != X).any()


def test_parity_with_diffusers_ddim_inverse_scheduler():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMInverseScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, num_train_timesteps=1000, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(20)
    ours = ddim.invert(denoiser(20, mixture), X, KEYS, END)["trajectory"]
    x = torch.from_numpy(np.array(X))
    for i, t in enumerate(scheduler.timesteps):
        eps = mixture(jnp.asarray(x.numpy()), jnp.full((2,), int(t)), Cond())[0]
        x = scheduler.step(torch.from_numpy(np.array(eps)), t, x).prev_sample
        np.testing.assert_allclose(ours[-2 - i], x.numpy(), atol=1e-4)


def test_parity_with_the_noises_of_diffusers_leditspp():
    """compute_noise_ddim of LEditsPPPipelineStableDiffusion, step by step from the pictures that are noised
    here."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion")
    scheduler = module.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, num_train_timesteps=1000, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(20)
    den = denoiser(20, mixture)
    ours = edit_friendly.invert(den, X, KEYS, END, scale=jnp.float32(1))
    infos = step_infos(den.visited, KEYS)
    noised = [
        q_sample(SCHEDULE, X, t, step_noise(key, SHAPE, "edit_friendly"))
        for t, key in zip(infos.t, infos.key, strict=True)
    ]
    path = [torch.from_numpy(np.array(x)) for x in (*noised, X)]
    for i, t in enumerate(scheduler.timesteps):
        eps = mixture(jnp.asarray(path[i].numpy()), jnp.full((2,), int(t)), Cond())[0]
        z, path[i + 1] = module.compute_noise_ddim(
            scheduler, path[i + 1], path[i], int(t), torch.from_numpy(np.array(eps)), 1.0
        )
        np.testing.assert_allclose(ours["noises"][i], z.numpy(), atol=2e-4, rtol=1e-3)
        np.testing.assert_allclose(ours["trajectory"][i + 1], path[i + 1].numpy(), atol=1e-4)
