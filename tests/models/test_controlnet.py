"""ControlNets beside a network: a fresh one adds nothing, several add up, and each counts when it is told to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Control
from ldm_jax.models import controlnet
from ldm_jax.models.unet import UNet, apply_unet
from ldm_jax.types import Cond

FIELDS = dict(in_channels=4, out_channels=4, channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(0,),
              num_heads=2, transformer_depth=1, context_dim=24, num_groups=8)  # fmt: skip
WIDTHS = (4, 8)
RNG = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, T, CONTEXT = draw(2, 8, 8, 4), jnp.array([100, 900]), draw(2, 5, 24)
IMAGES = jnp.asarray(RNG.uniform(size=(2, 2, 16, 16, 3)), jnp.float32)


def cond(number=2, scales=(1.0, 0.5), starts=(0.0, 0.0), stops=(1.0, 1.0)):
    rows = {
        k: jnp.tile(jnp.array(v[:number]), (2, 1))
        for k, v in dict(scales=scales, starts=starts, stops=stops).items()
    }
    return Cond(CONTEXT, hints={"images": IMAGES[:, :number], "T": jnp.full(2, 1000.0)} | rows)


@pytest.fixture(scope="module")
def unet():
    return UNet(**FIELDS)


@pytest.fixture(scope="module")
def params(unet):
    """Of the network and two nets beside it, none of them zero."""
    shapes = jax.eval_shape(lambda: unet.init(jax.random.key(0), X, T, Cond(CONTEXT))["params"])
    rng = np.random.default_rng(1)
    whole = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.1, shapes)
    for i in range(2):
        net = controlnet.of_encoder(whole, jax.random.key(i), WIDTHS, 3)
        whole = whole | {f"controlnet_{i}": jax.tree.map(lambda l: l + 0.1 * rng.normal(size=l.shape), net)}  # noqa: E741
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), whole)


@pytest.fixture(scope="module")
def network(unet):
    return jax.jit(
        lambda params, cond, control=None: controlnet.apply_network(unet, params, X, T, cond, control)
    )


def test_a_fresh_net_and_a_scale_of_zero_change_nothing_to_the_bit(unet, params, network):
    without, _ = jax.jit(lambda p: apply_unet(unet, p, X, T, Cond(CONTEXT)))(params)
    fresh = params | {
        f"controlnet_{i}": controlnet.of_encoder(params, jax.random.key(i), WIDTHS, 3) for i in range(2)
    }
    np.testing.assert_array_equal(network(fresh, cond())[0], without)
    np.testing.assert_array_equal(network(params, cond(scales=(0.0, 0.0)))[0], without)
    assert np.abs(network(params, cond())[0] - without).max() > 1e-2


def test_several_add_up_and_each_counts_in_its_own_part_of_the_noise(params, network):
    both = network(params, cond(scales=(1.0, 0.5)))[0]
    early = network(params, cond(stops=(0.5, 1.0)))[0]  # of t = 900 a tenth is gone, of t = 100 nine tenths
    second = network(params, cond(scales=(0.0, 0.5)))[0]
    np.testing.assert_array_equal(early[1], both[1])
    np.testing.assert_array_equal(early[0], second[0])
    late = network(params, cond(starts=(0.5, 0.0)))[0]
    np.testing.assert_array_equal(late[0], both[0])
    np.testing.assert_array_equal(late[1], second[1])
    assert network._cache_size() == 1


class Skips(Control):
    """Records every skip."""

    def touches(self, site):
        return site.kind == "skip"

    def record(self, site, value):
        return value


def test_a_control_of_a_users_sees_the_sums(params, network):
    taps = network(params, cond(), Skips())[1]
    plain = network(params, cond(scales=(0.0, 0.0)), Skips())[1]
    assert taps.keys() == plain.keys() and len(taps) == 4
    assert all(np.abs(taps[name] - plain[name]).max() > 1e-3 for name in taps)


def test_the_base_has_no_gradient_of_its_own_from_a_net(unet, params):
    def loss(net):
        out, _ = controlnet.apply_network(unet, params | {"controlnet_0": net}, X, T, cond(1))
        return jnp.mean(out**2)

    net = controlnet.of_encoder(params, jax.random.key(0), WIDTHS, 3)
    found = jax.jit(jax.grad(loss))(net)
    zero = [name for name in found if name.startswith("zero_")]
    assert len(zero) == 5 and all(np.abs(found[name]["kernel"]).max() > 0 for name in zero)
    assert np.abs(found["conv_in"]["kernel"]).max() == 0  # behind zeros, before the first step


def test_a_picture_of_another_size_is_said(params, unet):
    wrong = cond(1)
    wrong = wrong.replace(hints=wrong.hints | {"images": jnp.zeros((2, 1, 32, 32, 3))})
    with pytest.raises(ValueError, match="ControlNet: its picture is 32 x 32, expected 16 x 16"):
        controlnet.apply_network(unet, params, X, T, wrong)
