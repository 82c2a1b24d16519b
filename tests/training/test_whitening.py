"""Latents whose directions weigh alike: what is decoded stays, what the latents vary by is as asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import whiten
from ldm_jax.first_stage import make_first_stage
from ldm_jax.models.unet import UNet
from ldm_jax.training import whitening
from ldm_jax.types import Cond

STD = np.array([3.0, 0.5, 0.1])
MEAN = np.array([1.0, -2.0, 0.5])
FIRST_STAGE = dict(
    name="kl", channels=4, channel_mult=[1, 1], num_res_blocks=1, z_channels=3, embed_dim=3, num_groups=2,
    attn_type="none",
)  # fmt: skip


def latents(seed=0):
    """[4000, 3] with these deviations along directions that are no axes."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return MEAN + rng.normal(size=(4000, 3)) * STD @ axes.T


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_deviations_are_their_power_with_the_same_variance_in_all(power):
    z = latents()
    white = whitening.whitening(*whitening.moments_of(z), power)
    np.testing.assert_allclose(white.std, STD, rtol=0.05)
    new = (z - white.mean) @ white.forward.T
    covariance = np.cov(new.T, bias=True)
    expected = white.std ** (2 - 2 * power)
    expected *= (white.std**2).sum() / expected.sum()
    np.testing.assert_allclose(covariance, np.diag(expected), atol=1e-9)
    np.testing.assert_allclose(new.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(white.turn @ white.turn.T, np.eye(3), atol=1e-12)


def test_an_autoencoder_decodes_what_it_encodes_as_before():
    first_stage = make_first_stage(FIRST_STAGE)
    params = first_stage.init(jax.random.key(0))
    params["quant_conv"]["bias"] = jnp.array([1.0, -2.0, 0.5, -1.0, -2.0, -3.0])
    params["post_quant_conv"]["bias"] = jnp.array([0.3, -0.2, 0.1])
    images = jax.random.uniform(jax.random.key(1), (8, 16, 16, 3), minval=-1.0)
    encode, decode = jax.jit(first_stage.encode), jax.jit(first_stage.decode)
    mean, log_variance = np.split(np.asarray(encode(params, images)), 2, axis=-1)
    white = whitening.whitening(*whitening.moments_of(mean), 1.0)
    variance = np.exp(log_variance).mean((0, 1, 2))
    new = whitening.whitened_first_stage(params, white, variance)
    new_mean, new_log_variance = np.split(np.asarray(encode(new, images)), 2, axis=-1)
    np.testing.assert_allclose(new_mean, (mean - white.mean) @ white.forward.T, atol=1e-4)
    np.testing.assert_allclose(np.exp(new_log_variance[0, 0, 0]), white.forward**2 @ variance, rtol=1e-5)
    assert np.ptp(new_log_variance, axis=(0, 1, 2)).max() == 0
    np.testing.assert_allclose(decode(new, new_mean), decode(params, mean), atol=1e-5)
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, params)


def test_a_network_predicts_the_same_of_latents_that_are_turned():
    unet = UNet(
        in_channels=7, out_channels=3, channels=8, channel_mult=(1, 2), num_res_blocks=1, num_groups=4,
        attention_levels=(1,), head_dim=8,
    )  # fmt: skip
    x, concat = jax.random.normal(jax.random.key(0), (2, 2, 8, 8, 4))
    x, t = x[..., :3], jnp.array([3, 700])
    apply = jax.jit(lambda p, x, concat: unet.apply({"params": p}, x, t, Cond(concat=concat)))
    params = jax.jit(unet.init)(jax.random.key(1), x, t, Cond(concat=concat))["params"]
    drawn = jax.random.normal(jax.random.key(2), params["conv_out"]["kernel"].shape)  # it begins as zero
    params["conv_out"] = dict(kernel=drawn, bias=jnp.array([0.5, -0.5, 1.0]))
    white = whitening.whitening(*whitening.moments_of(latents()), 0.7)
    turned = whitening.turned_network(params, white, at=[0, 4])
    mask, known = concat[..., :1], concat[..., 1:]
    turn = jnp.asarray(white.turn, jnp.float32)
    got = apply(turned, x @ turn.T, jnp.concatenate([mask, known @ turn.T], -1))
    np.testing.assert_allclose(got, apply(params, x, concat) @ turn.T, atol=2e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: whitening.whitening(MEAN, np.eye(3), 1.5),
            r"power is 1.5, expected 0 \(turned alone\) to 1",
        ),
        (
            lambda: whitening.whitening(MEAN, np.diag([4.0, 1.0, 0.0]), 0.5),
            "variances along their principal directions are 4, 1, 0, expected each to be at least 1e-06 of the first",
        ),
        (
            lambda: turned(at=[0, 5]),
            "a latent of 3 channels at input channel 5, expected one within the network's 7",
        ),
        (lambda: turned(given=6), "the network gives 6 channels, expected those of a latent, 3"),
    ],
)
def test_what_cannot_be_whitened_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def turned(at=(0,), given=3):
    params = dict(
        conv_in=dict(kernel=np.zeros((3, 3, 7, 8)), bias=np.zeros(8)),
        conv_out=dict(kernel=np.zeros((3, 3, 8, given)), bias=np.zeros(given)),
    )
    return whitening.turned_network(params, whitening.whitening(MEAN, np.eye(3), 1.0), at)


def test_the_command_whitens_the_shipped_model(tmp_path, capsys):
    args = ["shapes_inpaint", "--num_images", "60", "--latents_at", "5", "--power", "1"]
    whiten.main([*args, "--out", str(tmp_path / "white")])
    before, after = bundle.read(bundle.shipped("shapes_inpaint", "it")), bundle.read(tmp_path / "white")
    first_stage = make_first_stage(before.config["first_stage"])
    images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-1.0)
    pairs = [(m.params["first_stage"], m.config["scale_factor"]) for m in (before, after)]
    old, new = (first_stage.decode(p, first_stage.mode(p, images)) for p, _ in pairs)
    np.testing.assert_allclose(new, old, atol=1e-4)
    # one over the deviation of all channels about their means
    assert pairs[1][1] == pytest.approx(1 / 2.4, rel=0.1)
    said = capsys.readouterr().out
    assert "along the principal directions, now 2." in said
    kept = {k: v for k, v in before.config.items() if k != "scale_factor"}
    assert {k: v for k, v in after.config.items() if k != "scale_factor"} == kept


@pytest.mark.parametrize(
    ("changes", "data", "number", "message"),
    [
        (dict(name="vq", n_embed=8), {}, 10, "of kind 'vq', expected 'kl', whose latents nothing rounds"),
        ({}, {}, 10, "does not say what pictures it was trained on, expected --config"),
        ({}, dict(data={}), 0, "--num_images is 0, expected at least 1"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(changes, data, number, message):
    model = bundle.Bundle(dict(task="first_stage", first_stage=FIRST_STAGE | changes), {})
    with pytest.raises(ValueError, match=message):
        whiten.whitened(model, data, 0.5, number, [])
