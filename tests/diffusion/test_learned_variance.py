"""The variance that a network predicts: its range, its loss and its use, against scipy, diffusers and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from ldm_jax.convert import diffusers_scheduler
from ldm_jax.diffusion import learned_variance
from ldm_jax.diffusion.process import posterior_between, q_sample
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.samplers import ddim, ddpm
from ldm_jax.samplers.base import StepInfo
from ldm_jax.system import make_system
from ldm_jax.training.objective import diffusion_objective
from tests.tiny_models import random_params

SCHEDULE = make_schedule("sqrt_linear")  # Ho et al. 2020
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (4, 3, 3, 2)).astype(np.float32)


def test_kl_is_the_integral():
    p, q = stats.norm(0.3, 0.5), stats.norm(-0.2, 0.8)
    exact, _ = integrate.quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -6, 6)
    ours = learned_variance.normal_kl(0.3, 2 * np.log(0.5), -0.2, 2 * np.log(0.8))
    assert float(ours) == pytest.approx(exact, rel=1e-5)
    assert learned_variance.normal_kl(0.3, 0.1, 0.3, 0.1) == 0


def test_the_masses_of_all_256_pixel_values_sum_to_one_and_are_the_normal_distributions():
    values = np.arange(256, dtype=np.float32) / 127.5 - 1
    for mean, std in ((0.1, 0.05), (-0.98, 0.2), (0.999, 0.5)):
        masses = np.exp(learned_variance.discretized_log_likelihood(values, mean, np.log(std)))
        edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
        exact = np.diff(stats.norm(mean, std).cdf(edges))
        assert masses.sum() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(masses, exact, atol=5e-4)  # the originals' tanh


def test_the_range_is_from_the_posteriors_variance_to_beta():
    for t, t_prev in ((500, 499), (700, 420)):
        beta = 1 - SCHEDULE.alphas_cumprod[t] / SCHEDULE.alphas_cumprod[t_prev]
        least = posterior_between(SCHEDULE, X, X, jnp.int32(t), jnp.int32(t_prev))[1]
        for nu, exact in ((-1.0, least), (1.0, beta), (0.0, jnp.sqrt(least * beta))):
            got = learned_variance.log_variance(
                SCHEDULE, jnp.full((1, 1), nu), jnp.int32(t), jnp.int32(t_prev)
            )
            np.testing.assert_allclose(np.exp(got), exact, rtol=2e-3)


def test_bits_are_the_originals_and_teach_the_variance_alone():
    """Against guided-diffusion's _vb_terms_bpd in float64."""
    t = jnp.array([0, 1, 300, 999])
    noise = RNG.normal(size=X.shape).astype(np.float32)
    x_t = q_sample(SCHEDULE, X, t, noise)
    predicted, nu = X + 0.02 * noise, RNG.uniform(-1, 1, X.shape).astype(np.float32)
    got = learned_variance.vlb_bits(SCHEDULE, X, x_t, t, predicted, nu)
    betas = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - betas)
    before = np.append(1.0, bar[:-1])
    variance = betas * (1 - before) / (1 - bar)
    clipped = np.append(variance[1], variance[1:])

    def mean(x_start, i, s):
        first, second = betas[s] * np.sqrt(before[s]), (1 - before[s]) * np.sqrt(1 - betas[s])
        return (first * x_start + second * np.float64(x_t[i])) / (1 - bar[s])

    for i, s in enumerate(np.asarray(t)):
        share = (nu[i] + 1) / 2
        log_var = share * np.log(betas[s]) + (1 - share) * np.log(clipped[s])
        if s:
            ratio = np.log(clipped[s]) - log_var
            distance = (mean(X[i], i, s) - mean(predicted[i], i, s)) ** 2 * np.exp(-log_var)
            exact = 0.5 * (-1 - ratio + np.exp(ratio) + distance)
        else:
            ends = [
                (X[i] + side - mean(predicted[i], i, s)) / np.exp(0.5 * log_var)
                for side in (1 / 255, -1 / 255)
            ]
            upper, lower = (0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) for z in ends)
            exact = -np.log(np.maximum(upper - lower, 1e-12))
        assert float(got[i]) == pytest.approx(exact.mean() / np.log(2), rel=5e-3, abs=1e-6), s

    def total(predicted, nu):
        return learned_variance.vlb_bits(SCHEDULE, X, x_t, t, predicted, nu).sum()

    held, taught = jax.grad(total, (0, 1))(jnp.asarray(predicted), jnp.asarray(nu))
    assert not held.any() and (taught[:2] != 0).all()


def test_a_step_of_ddpm_has_diffusers_variance_and_ddim_passes_it_over():
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    theirs = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    theirs.set_timesteps(10)
    eps, nu = (RNG.uniform(-1, 1, X.shape).astype(np.float32) for _ in range(2))
    info = StepInfo(jnp.int32(1), jnp.int32(800), jnp.int32(700), jax.random.key(0), 10)

    def eps_fn(x, t, control=None):  # of a doubled call, the unconditional rows first
        return eps, {learned_variance.VARIANCE: jnp.concatenate([jnp.zeros_like(nu), nu])}

    def drawn(noise, **options):
        sampler = ddpm.sampler(SCHEDULE, noise_fn=lambda info, x: noise * jnp.ones_like(x), **options)
        return np.asarray(sampler.step(eps_fn, (), X, info)[1])

    log_variance = theirs._get_variance(torch.tensor(800), predicted_variance=torch.tensor(nu))
    np.testing.assert_allclose(drawn(1.0) - drawn(0.0), np.exp(0.5 * log_variance.numpy()), rtol=1e-4)
    out = torch.tensor(np.concatenate([eps, nu], -1)).movedim(-1, 1)
    generator = torch.Generator().manual_seed(0)
    stepped = theirs.step(out, 800, torch.tensor(X).movedim(-1, 1), generator=generator).prev_sample
    noise = torch.randn(out[:, :2].shape, generator=torch.Generator().manual_seed(0)).movedim(1, -1).numpy()
    np.testing.assert_allclose(drawn(noise), stepped.movedim(1, -1), atol=2e-5)
    least = drawn(1.0, variance="posterior") - drawn(0.0)
    np.testing.assert_allclose(least**2, posterior_between(SCHEDULE, X, X, 800, 700)[1], rtol=1e-4)
    plain = ddim.sampler(SCHEDULE).step(lambda x, t: (eps, {}), (), X, info)[1]
    np.testing.assert_array_equal(ddim.sampler(SCHEDULE).step(eps_fn, (), X, info)[1], plain)
    with pytest.raises(ValueError, match="variance 'large' not found; known: learned, posterior"):
        ddpm.sampler(SCHEDULE, variance="large")


def test_diffusers_files_say_it():
    section = dict(_class_name="DDPMScheduler", variance_type="learned_range", clip_sample=False)
    read = diffusers_scheduler.scheduler_sections(section)
    assert read["learned_variance"] and read["sampling"]["sampler"] == "ddpm"
    assert diffusers_scheduler.scheduler_json(read)["variance_type"] == "learned_range"
    with pytest.raises(ValueError, match="learned_variance=True cannot be expressed"):
        diffusers_scheduler.scheduler_json(read | dict(sampling=dict(sampler="plms", spacing="leading")))


CONFIG = dict(
    task="diffusion", image_size=8, first_stage=dict(name="identity"), learned_variance=True, batch_size=4,
    model=dict(in_channels=3, out_channels=6, channels=8, channel_mult=[1], num_res_blocks=1, num_heads=2, num_groups=4,
               num_classes=4),
    conditioning=dict(name="class_label", num_classes=3, mechanism="vector"),
    schedule=dict(name="cosine"), sampling=dict(num_steps=4, sampler="ddpm", guidance_scale=2.0),
)  # fmt: skip


def test_training_adds_the_bound_and_sampling_uses_the_variance():
    system = make_system(CONFIG)
    params = random_params(system, gain=1.5)
    batch = dict(
        image=RNG.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32), class_labels=jnp.arange(4) % 3,
        position=jnp.arange(4),
    )  # fmt: skip
    frozen = dict(first_stage={}, latent_scale=np.float32(1))

    def metrics(weight):
        loss = diffusion_objective(CONFIG | dict(loss=dict(vlb_weight=weight)), system)
        return jax.jit(loss)(params, frozen, batch, 0, 0)[1]

    plain, hybrid = metrics(0.0), metrics(0.001)
    assert hybrid["loss_variance"] > 0 and plain["loss"] == plain["loss_simple"]
    added = 0.001 * 1000 * hybrid["loss_variance"]
    assert hybrid["loss"] == pytest.approx(float(hybrid["loss_simple"] + added), rel=1e-5)
    model = LatentDiffusion(system, params, 1.0, CONFIG)
    given = dict(class_labels=[1], seeds=[3])
    drawn = model.sample(**given)
    assert (drawn != model.sample(**given, sampler_options=dict(variance="posterior"))).any()
    assert model.sample(**given, sampler="ddim").shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="out_channels is 3, expected 6"):
        make_system(CONFIG | dict(model=CONFIG["model"] | dict(out_channels=3)))
    with pytest.raises(ValueError, match="vlb_weight is of a learned variance"):
        plain = system._replace(learned_variance=False)
        diffusion_objective(CONFIG | dict(loss=dict(vlb_weight=0.1)), plain)
