import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from ldm_jax.convert import compvis_first_stage
from ldm_jax.models.autoencoder import AutoencoderKL
from ldm_jax.models.discriminator import NLayerDiscriminator
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.models.quantize import Quantized
from ldm_jax.training import first_stage_loss
from tests.golden.rule import fill_params


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def as_torch(x):
    return torch.tensor(np.asarray(x))


def test_hinge_and_vanilla_in_closed_form():
    real, fake = normal(0, 2, 3, 3, 1), normal(1, 2, 3, 3, 1)
    hinge = np.maximum(0, 1 - np.asarray(real)).mean() / 2 + np.maximum(0, 1 + np.asarray(fake)).mean() / 2
    np.testing.assert_allclose(first_stage_loss.hinge_loss(real, fake), hinge, rtol=1e-6)
    entropy = functional.binary_cross_entropy_with_logits
    expected = (
        entropy(as_torch(real), torch.ones(2, 3, 3, 1)) + entropy(as_torch(fake), torch.zeros(2, 3, 3, 1))
    ) / 2
    np.testing.assert_allclose(first_stage_loss.vanilla_loss(real, fake), expected, rtol=1e-6)


def test_adversarial_terms_start_at_their_step():
    factors = [first_stage_loss.disc_factor(jnp.array(step), 5, 0.7) for step in (0, 4, 5, 6)]
    np.testing.assert_allclose(factors, [0.0, 0.0, 0.7, 0.7])


@pytest.fixture(scope="module")
def networks():
    model = AutoencoderKL(channels=4, channel_mult=(1,), num_res_blocks=1, attn_type="none", num_groups=2)
    disc = NLayerDiscriminator(channels=4, num_layers=1)
    x = jnp.tanh(normal(0, 2, 8, 8, 3))
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), x, jax.random.key(1)))["params"]
    params = fill_params(template, compvis_first_stage.autoencoder_entries(template))
    variables = jax.jit(disc.init)(jax.random.key(2), x)

    def discriminate(stats, images):
        full = {"params": variables["params"], "batch_stats": stats}
        logits, updated = disc.apply(full, images, train=True, mutable=["batch_stats"])
        return logits, updated["batch_stats"]

    return model, params, discriminate, variables["batch_stats"], x


def generator(networks, params, disc_factor, logvar=0.0, **options):
    model, _, discriminate, stats, x = networks
    x_rec, posterior, features = model.apply({"params": params}, x, None, False, return_features=True)
    last_layer, kernel = first_stage_loss.last_layer_of(model, params, features)
    adversary = {
        "discriminate": discriminate,
        "batch_stats": stats,
        "last_layer": last_layer,
        "kernel": kernel,
    }
    return first_stage_loss.generator_loss_kl(
        x, x_rec, posterior, logvar=logvar, disc_factor=disc_factor, disc_weight=0.5, **adversary, **options
    )


def test_adaptive_weight_equals_differentiation_through_the_whole_decoder(networks):
    model, params, discriminate, stats, x = networks
    logvar = 0.3
    _, (metrics, _) = jax.jit(lambda p: generator(networks, p, 1.0, logvar))(params)

    def reconstruct(params):
        return model.apply({"params": params}, x, None, False)[0]

    def nll(params):
        return (jnp.abs(x - reconstruct(params)) / jnp.exp(logvar) + logvar).sum() / x.shape[0]

    def g(params):
        return -discriminate(stats, reconstruct(params))[0].mean()

    grads = jax.jit(lambda params: [jax.grad(f)(params) for f in (nll, g)])(params)
    norms = [jnp.linalg.norm(grad["decoder"]["conv_out"]["kernel"]) for grad in grads]
    np.testing.assert_allclose(metrics["d_weight"], 0.5 * norms[0] / (norms[1] + 1e-4), rtol=1e-4)


def test_adaptive_weight_is_clipped_and_a_constant_to_the_gradient(networks):
    assert (
        first_stage_loss.adaptive_weight(
            lambda y: 1e9 * y.sum(), lambda y: 0 * y.sum(), lambda k: k, jnp.ones(3), 0.5
        )
        == 5e3
    )
    model, params, discriminate, stats, x = networks

    def by_hand(params, weight):
        x_rec, posterior = model.apply({"params": params}, x, None, False)
        g = -discriminate(stats, x_rec)[0].mean()
        return jnp.abs(x - x_rec).sum() / 2 + 1e-6 * posterior.kl().mean() + weight * g

    grads, (metrics, _) = jax.jit(jax.grad(lambda p: generator(networks, p, 1.0), has_aux=True))(params)
    expected = jax.jit(jax.grad(by_hand))(params, metrics["d_weight"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), grads, expected)


def test_before_its_start_the_discriminator_changes_the_metrics_only(networks):
    model, params, _, _, x = networks
    with_it, (metrics, stats) = jax.jit(lambda p: generator(networks, p, 0.0))(params)
    x_rec, posterior = jax.jit(lambda p: model.apply({"params": p}, x, None, False))(params)
    without, (bare, none) = first_stage_loss.generator_loss_kl(x, x_rec, posterior)
    np.testing.assert_allclose(with_it, without, rtol=1e-5)
    assert set(metrics) - set(bare) == {"d_weight", "disc_factor", "g_loss"} and none is None
    assert np.abs(stats["norm_1"]["mean"]).max() > 0


def test_kl_loss_is_a_sum_over_pixels_and_weighs_the_perceptual_distance_at_each():
    x, x_rec = normal(0, 2, 4, 4, 3), normal(1, 2, 4, 4, 3)
    posterior = DiagonalGaussian(normal(2, 2, 2, 2, 1), normal(3, 2, 2, 2, 1))
    distance = jnp.array([0.2, 0.4]).reshape(2, 1, 1, 1)
    loss, (metrics, _) = first_stage_loss.generator_loss_kl(
        x,
        x_rec,
        posterior,
        logvar=0.5,
        perceptual=lambda a, b: distance,
        perceptual_weight=2.0,
        kl_weight=0.1,
    )
    nll = ((np.abs(x - x_rec) + 2 * np.asarray(distance)) / np.exp(0.5) + 0.5).sum() / 2
    np.testing.assert_allclose(metrics["nll_loss"], nll, rtol=1e-5)
    np.testing.assert_allclose(loss, nll + 0.1 * posterior.kl().sum() / 2, rtol=1e-5)
    weights = jnp.array([1.0, 0.0]).reshape(2, 1, 1, 1)
    half, _ = first_stage_loss.generator_loss_kl(x, x_rec, posterior, weights=weights, kl_weight=0.0)
    np.testing.assert_allclose(half, np.abs(x - x_rec)[0].sum() / 2, rtol=1e-5)


def test_logvar_has_a_gradient_only_when_it_is_learned():
    x, x_rec = normal(0, 2, 4, 4, 3), normal(1, 2, 4, 4, 3)
    posterior = DiagonalGaussian(jnp.zeros((2, 2, 2, 1)), jnp.zeros((2, 2, 2, 1)))

    def loss(logvar, learn):
        return first_stage_loss.generator_loss_kl(x, x_rec, posterior, logvar=logvar, learn_logvar=learn)[0]

    assert jax.grad(loss)(0.3, False) == 0.0
    expected = (1 - np.abs(x - x_rec) / np.exp(0.3)).sum() / 2
    np.testing.assert_allclose(jax.grad(loss)(0.3, True), expected, rtol=1e-5)


@pytest.mark.parametrize("pixel_loss, error", [("l1", np.abs), ("l2", np.square)])
def test_vq_loss_is_a_mean(pixel_loss, error):
    x, x_rec = np.asarray(normal(0, 2, 4, 4, 3)), np.asarray(normal(1, 2, 4, 4, 3))
    quantized = Quantized(jnp.zeros((2, 2, 2, 1)), jnp.array(0.25), jnp.arange(8).reshape(2, 2, 2))
    loss, (metrics, _) = first_stage_loss.generator_loss_vq(
        x, x_rec, quantized, pixel_loss=pixel_loss, codebook_weight=2.0, n_embed=16
    )
    np.testing.assert_allclose(loss, error(x - x_rec).mean() + 0.5, rtol=1e-6)
    np.testing.assert_allclose([metrics["perplexity"], metrics["cluster_usage"]], [8.0, 8.0], rtol=1e-5)
    with pytest.raises(ValueError, match="pixel_loss"):
        first_stage_loss.generator_loss_vq(x, x_rec, quantized, pixel_loss="l3")


def test_discriminator_loss_passes_real_then_fake_and_leaves_the_reconstruction_alone(networks):
    _, _, discriminate, stats, x = networks
    seen = []

    def recording(stats, images):
        seen.append(images)
        return discriminate(stats, images)

    x_rec = normal(4, *x.shape)
    grad, (metrics, after) = jax.grad(
        lambda y: first_stage_loss.discriminator_loss(
            x, y, discriminate=recording, batch_stats=stats, disc_factor=2.0
        ),
        has_aux=True,
    )(x_rec)
    np.testing.assert_array_equal(grad, 0.0)
    np.testing.assert_array_equal(seen[0], x)
    real, middle = discriminate(stats, x)
    fake, expected = discriminate(middle, x_rec)
    np.testing.assert_allclose(metrics["disc_loss"], 2 * first_stage_loss.hinge_loss(real, fake), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), after, expected)
    with pytest.raises(ValueError, match="disc_loss"):
        first_stage_loss.discriminator_loss(x, x_rec, discriminate=discriminate, disc_loss="wasserstein")
