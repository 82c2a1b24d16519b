"""The first stage against the original's own outputs: original_golden.json, made by the rule of rule.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import compvis_first_stage, lpips
from ldm_jax.models.autoencoder import AutoencoderKL, VQModel
from ldm_jax.models.discriminator import NLayerDiscriminator
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.models.lpips import LPIPS
from ldm_jax.training import first_stage_loss
from tests.golden.rule import (
    GOLDEN,
    check_stats,
    fill_params,
    gen,
    nchw,
    nhwc,
)

KL = AutoencoderKL(
    channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_levels=(1,), z_channels=4, embed_dim=4
)
VQ = VQModel(channels=32, channel_mult=(1, 2), num_res_blocks=2, z_channels=3, embed_dim=3, n_embed=16)


def image(*shape, name="input"):
    return nhwc(gen(name, shape, 1.0))


def filled(model):
    init = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jax.random.key(1)))
    template = init["params"]
    params = fill_params(template, compvis_first_stage.autoencoder_entries(template))
    if "quantize" in params:
        params["quantize"]["embedding"] *= np.float32(0.5)
    return params


def filled_discriminator(model, size, prefix):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))
    params = {"params": variables["params"]}
    params = fill_params(params, compvis_first_stage.discriminator_entries(params), prefix)["params"]
    stats = {
        name: {
            "mean": np.zeros(stat["mean"].shape, np.float32),
            "var": np.ones(stat["var"].shape, np.float32),
        }
        for name, stat in variables["batch_stats"].items()
    }
    return params, stats


@pytest.fixture(scope="module")
def lpips_params():
    params = fill_params(lpips.template(), lpips.entries(), gain=6**0.5)
    return {
        name: {**leaf, "kernel": np.abs(leaf["kernel"])} if "lin" in name else leaf
        for name, leaf in params.items()
    }


def apply(model, params, *args, **kwargs):
    return jax.jit(lambda p, a: model.apply({"params": p}, *a, **kwargs))(params, args)


def test_kl_autoencoder_agrees_with_the_original():
    entry, params = GOLDEN["ae_kl"], filled(KL)
    state = compvis_first_stage.to_torch(params)
    assert (len(state), sum(a.size for a in state.values())) == (entry["n_keys"], entry["n_params"])
    moments = apply(KL, params, image(2, 3, 32, 32), method="encode")
    check_stats(nchw(moments), entry["moments"])
    posterior = DiagonalGaussian.from_moments(moments)
    np.testing.assert_allclose(posterior.kl(), entry["kl_per_sample"], rtol=1e-4)
    np.testing.assert_allclose(posterior.nll(posterior.mode()), entry["nll_of_mode"], rtol=1e-4)
    check_stats(nchw(apply(KL, params, posterior.mode(), method="decode")), entry["decode_mode"])
    check_stats(
        nchw(apply(KL, params, image(1, 3, 36, 44, name="input2"), method="encode")), entry["encode_36x44"]
    )


def test_vq_autoencoder_agrees_with_the_original():
    entry, params = GOLDEN["ae_vq"], filled(VQ)
    state = compvis_first_stage.to_torch(params)
    assert (len(state), sum(a.size for a in state.values())) == (entry["n_keys"], entry["n_params"])
    prequant = apply(VQ, params, image(2, 3, 32, 32), method="encode")
    check_stats(nchw(prequant), entry["prequant"])
    quantized = apply(VQ, params, prequant, method="quantized")
    check_stats(nchw(quantized.z_q), entry["quant"])
    assert quantized.indices.sum() == entry["indices_sum"]
    assert quantized.indices.reshape(-1)[:16].tolist() == entry["indices_first"]
    np.testing.assert_allclose(quantized.loss, entry["loss_legacy"], rtol=1e-4)
    check_stats(nchw(apply(VQ, params, prequant, method="decode")), entry["decode"])


def test_discriminator_agrees_with_the_original():
    entry = GOLDEN["discriminator"]
    model = NLayerDiscriminator(channels=entry["ndf"], num_layers=entry["n_layers"])
    params, stats = filled_discriminator(model, 64, "")
    assert sum(a.size for a in jax.tree.leaves(params)) == entry["n_params"]
    x = image(2, 3, 64, 64)
    variables = {"params": params, "batch_stats": stats}
    check_stats(nchw(jax.jit(model.apply)(variables, x)), entry["eval_fresh_running_stats"])
    train = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))
    logits, updated = train(variables)
    check_stats(nchw(logits), entry["train_batch_stats"])
    first = updated["batch_stats"]["norm_1"]
    check_stats(first["mean"], entry["bn_running_mean_after_one_train_fwd"])
    check_stats(first["var"], entry["bn_running_var_after"])


def test_lpips_agrees_with_the_original(lpips_params):
    entry = GOLDEN["lpips"]
    assert sum(a.size for a in jax.tree.leaves(lpips_params)) == entry["n_params"]
    x = image(2, 3, 64, 64)
    target = image(2, 3, 64, 64, name="target")
    distance = jax.jit(lambda p, x, y: LPIPS().apply({"params": p}, x, y).reshape(-1))
    np.testing.assert_allclose(distance(lpips_params, x, target), entry["out"], rtol=1e-4)
    np.testing.assert_allclose(distance(lpips_params, x, x), entry["out_self"], atol=1e-12)


def both_losses(model, generator_loss, lpips_params, sample_args, disc_weight):
    """A function of the discriminator's factor.

    The metrics of both losses, in the order of the original's two optimizers.
    """
    disc = NLayerDiscriminator(channels=64, num_layers=2)
    disc_params, stats = filled_discriminator(disc, 32, "discriminator.")
    x = image(2, 3, 32, 32)

    @jax.jit
    def run(params, disc_params, lpips_params, stats, factor):
        def discriminate(stats, images):
            variables = {"params": disc_params, "batch_stats": stats}
            logits, updated = disc.apply(variables, images, train=True, mutable=["batch_stats"])
            return logits, updated["batch_stats"]

        x_rec, regularized, features = model.apply({"params": params}, x, *sample_args, return_features=True)
        last_layer, kernel = first_stage_loss.last_layer_of(model, params, features)
        _, (metrics, stats) = generator_loss(
            x,
            x_rec,
            regularized,
            perceptual=lambda a, b: LPIPS().apply({"params": lpips_params}, a, b),
            discriminate=discriminate,
            batch_stats=stats,
            last_layer=last_layer,
            kernel=kernel,
            disc_weight=disc_weight,
            disc_factor=factor,
        )
        _, (more, stats) = first_stage_loss.discriminator_loss(
            x, x_rec, discriminate=discriminate, batch_stats=stats, disc_factor=factor
        )
        return metrics | more

    params = filled(model)
    return lambda factor: run(params, disc_params, lpips_params, stats, factor)


def check_metrics(got, expected):
    assert {f"train/{name}" for name in got} == set(expected)
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[f"train/{name}"], rtol=1e-4, err_msg=name)


def test_kl_loss_agrees_with_the_original_before_and_after_the_discriminator_starts(lpips_params):
    run = both_losses(KL, first_stage_loss.generator_loss_kl, lpips_params, (None, False), 0.5)
    for when, step in (("before_start", 4), ("after_start", 5)):
        check_metrics(run(first_stage_loss.disc_factor(jnp.array(step), 5)), GOLDEN["kl_adv_loss"][when])


def test_vq_loss_agrees_with_the_original(lpips_params):
    run = both_losses(VQ, first_stage_loss.generator_loss_vq, lpips_params, (), 0.75)
    check_metrics(run(1.0), GOLDEN["vq_adv_loss"])
