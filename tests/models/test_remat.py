"""Rematerialization changes what is kept, and no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import remat
from ldm_jax.models.autoencoder import AutoencoderKL
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 4, 4, 4)), jnp.float32)
COND = Cond(context=jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32))
UNET = UNet(
    in_channels=4, out_channels=4, channels=8, channel_mult=(1,), num_res_blocks=1, num_heads=2, num_groups=4,
    transformer_depth=1, context_dim=6,
)  # fmt: skip
FIRST_STAGE = AutoencoderKL(
    channels=8, channel_mult=(1,), num_res_blocks=1, z_channels=2, embed_dim=2, in_channels=4, out_channels=4,
    num_groups=4,
)  # fmt: skip


def forward(model, params):
    if isinstance(model, UNet):
        return model.apply({"params": params}, X, jnp.array([3, 977]), COND)
    return model.apply({"params": params}, X, sample_posterior=False)[0]


def drawn(model):
    args = (X, jnp.array([3, 977]), COND) if isinstance(model, UNet) else (X, jax.random.key(0))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) * 0.3, jnp.float32), shapes)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(UNET, id="unet", marks=pytest.mark.slow),
        pytest.param(FIRST_STAGE, id="autoencoder", marks=pytest.mark.slow),
    ],
)
def test_the_same_gradients_under_every_policy(model):
    params = drawn(model)

    def gradients(**options):
        loss = lambda p: jnp.square(forward(model.clone(**options), p)).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    plain = gradients()
    for policy in remat.POLICIES:
        for got, expected in zip(
            jax.tree.leaves(gradients(remat=policy)), jax.tree.leaves(plain), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-8)


def recomputed(model, policy) -> dict[str, int]:
    """How often each primitive is in the backward pass of a block that is computed again."""
    counts = {}

    def visit(jaxpr, inside):
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            if inside:
                counts[name] = counts.get(name, 0) + 1
            for value in equation.params.values():
                for leaf in value if isinstance(value, tuple | list) else (value,):
                    leaf = getattr(leaf, "jaxpr", leaf)
                    if hasattr(leaf, "eqns"):
                        visit(leaf, inside or name in ("remat2", "checkpoint"))

    loss = lambda p: forward(model.clone(remat=policy), p).sum()  # noqa: E731
    visit(jax.make_jaxpr(jax.grad(loss))(drawn(model)).jaxpr, False)
    return counts


def test_what_a_policy_computes_again():
    full, dots, attention = (recomputed(UNET, p) for p in ("full", "dots", "attention"))
    assert recomputed(UNET, None) == {}
    assert recomputed(UNET, True) == full
    assert dots["conv_general_dilated"] < full["conv_general_dilated"]
    assert dots["dot_general"] < full["dot_general"]
    assert "conv_general_dilated" not in attention and attention["dot_general"] > 0


def test_an_unknown_policy_lists_those_there_are():
    with pytest.raises(
        ValueError, match="remat: got 'blocks', expected one of full, dots, attention, loop, or False"
    ):
        UNET.clone(remat="blocks")
    with pytest.raises(ValueError, match="full, dots, attention, loop"):
        drawn(FIRST_STAGE.clone(remat="blocks"))
