"""Latents that turn and shrink with the picture: what is done to them, and what a step holds it against."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ldm_jax.first_stage import make_first_stage
from ldm_jax.training import equivariance, first_stage_loss, first_stage_step

SMALL = dict(
    name="kl", channels=4, channel_mult=[1, 1], num_res_blocks=1, z_channels=2, embed_dim=2, num_groups=2,
    attn_type="none",
)  # fmt: skip
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1.0)


@pytest.mark.parametrize("scale", equivariance.SCALES)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_it_is_torchs_interpolation_and_quarters_of_a_turn(scale, turns):
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    small = torch.nn.functional.interpolate(
        torch.tensor(x).permute(0, 3, 1, 2), scale_factor=scale, mode="bilinear", align_corners=False
    )
    expected = torch.rot90(small, k=turns, dims=[-2, -1]).permute(0, 2, 3, 1)
    got = equivariance.shrunk_and_turned(jnp.asarray(x), scale, jnp.int32(turns))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def make(views):
    first_stage = make_first_stage(SMALL)
    txs = {"autoencoder": optax.adam(0.0)}  # the parameters stay: what is looked at is the loss
    state = first_stage_step.init_state(jax.random.key(0), first_stage.init, None, (16, 16, 3), txs, None)
    step = first_stage_step.make_step(
        first_stage_loss.generator_loss_kl, first_stage.module, None, txs, kl_weight=0.0, views=views
    )
    return first_stage, state, step


def test_a_step_holds_the_decoded_view_of_the_latents_against_the_view_of_the_picture():
    """At a share of 1, of one scale: its loss is that of one of the three turns, worked out apart; each occurs."""
    first_stage, state, step = make((1.0, (0.5,)))
    params, module = state.params["autoencoder"], first_stage.module
    batch = {"image": IMAGES, "position": jnp.arange(2)}

    @functools.partial(jax.jit, static_argnums=1)
    def apart(keys, turns):
        def view(x):
            half = (x[:, ::2] + x[:, 1::2]) / 2  # what bilinear interpolation is at a half
            return jnp.rot90((half[:, :, ::2] + half[:, :, 1::2]) / 2, turns, axes=(1, 2))

        def loss(params):
            z = first_stage.sample_of(first_stage.encode(params, IMAGES), keys)
            x_rec = module.apply({"params": params}, view(z), method="decode")
            return jnp.abs(view(IMAGES) - x_rec).mean()

        value, grads = jax.value_and_grad(loss)(params)
        numbers = 8 * 8 * 3  # in each picture: the step's loss is of their sum
        return value, optax.global_norm(grads) * numbers

    run, found = jax.jit(step), []
    for number in range(8):
        now = state.replace(step=jnp.int32(number))
        metrics = run(now, {}, batch, jnp.uint32(0))[1]
        own = first_stage_step.example_keys(jnp.uint32(0), number, jnp.arange(2))
        keys = jax.vmap(jax.random.split)(own)[:, 0]
        expected = [apart(keys, turns) for turns in (1, 2, 3)]
        got = float(metrics["rec_loss"]), float(metrics["gradient_norm"])
        off = [max(abs(g / e - 1) for g, e in zip(got, one, strict=True)) for one in expected]
        assert min(off) < 1e-4, (got, expected)
        found.append(int(np.argmin(off)))
    assert set(found) == {0, 1, 2}


def test_the_share_of_batches_and_of_scales():
    views = (0.5, equivariance.SCALES)

    def side(key):
        return equivariance.seen(
            lambda view: jnp.int32((IMAGES if view is None else view(IMAGES)).shape[1]), *views, key
        )

    sides = np.asarray(jax.jit(jax.vmap(side))(jax.random.split(jax.random.key(0), 2000)))
    shares = [np.mean(sides == s) for s in (16, 4, 8, 12)]
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.05)


def test_without_a_share_the_step_is_the_plain_one():
    batch = {"image": IMAGES, "position": jnp.arange(2)}
    assert equivariance.check(None, 16, 8) == (0.0, ())  # whose latents no scale leaves whole cells of
    views = (0.0, ()), equivariance.check(dict(share=0), 16, 2), (0.5, equivariance.SCALES)
    steps = [(step, state) for _, state, step in map(make, views)]
    plain, off, on = (jax.jit(step).lower(state, {}, batch, jnp.uint32(0)).as_text() for step, state in steps)
    assert plain == off != on


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(shar=1), "loss.equivariance has no option 'shar'; it has: share, scales"),
        (dict(share=2), "share is 2, expected a share, 0 to 1"),
        (
            dict(scales=[0.3]),
            "scale 0.3 of 16 x 16 latents, expected a number between 0 and 1 that leaves whole cells",
        ),
        (dict(scales=[1.0]), "scale 1.0 of 16 x 16 latents"),
    ],
)
def test_what_is_refused(section, message):
    with pytest.raises(ValueError, match=message):
        equivariance.check(section, 64, 4)
