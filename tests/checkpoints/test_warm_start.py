"""Starting from another model: what is taken, what is extended, and that the extended model predicts the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints.warm_start import start_from
from ldm_jax.convert.tensor import Tensor
from ldm_jax.models.unet import UNet
from ldm_jax.params import unflatten
from ldm_jax.types import Cond

X = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
EXTRA = np.random.default_rng(1).normal(size=(2, 8, 8, 5)).astype(np.float32) * 100
T = np.array([3, 700], np.int32)


def unet(in_channels: int) -> UNet:
    return UNet(
        in_channels, 4, 8, (1, 2), 1, attention_levels=(1,), num_heads=2, num_groups=4, conv_resample=False
    )


def random_like(tree, seed=0):
    """Every parameter random: a fresh UNet gives zero whatever it sees."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), tree)


@pytest.fixture(scope="module")
def models():
    """(the parameters of a model of 4 channels, fresh ones of one that sees 5 more)."""
    small = jax.eval_shape(unet(4).init, jax.random.key(0), X, T)["params"]
    wide = jax.eval_shape(unet(9).init, jax.random.key(0), X, T, Cond(concat=EXTRA))["params"]
    return {"unet": random_like(small)}, {"unet": random_like(wide, 1)}


def test_a_wider_unet_predicts_what_the_other_did_whatever_the_new_channels_hold(models):
    """What the new channels hold changes no bit. Against the narrow UNet, another program, there is rounding."""
    opened, fresh = models
    params, notes = start_from(fresh, opened)
    before = jax.jit(unet(4).apply)({"params": opened["unet"]}, X, T)
    after = jax.jit(unet(9).apply)
    assert np.abs(before).max() > 0.1
    outs = [after({"params": params["unet"]}, X, T, Cond(concat=c)) for c in (np.zeros_like(EXTRA), EXTRA)]
    np.testing.assert_array_equal(*outs)  # one program, and every weight that could tell them apart is zero
    np.testing.assert_allclose(outs[0], before, rtol=0, atol=1e-5 * np.abs(before).max())
    count = len(jax.tree.leaves(fresh))
    assert (
        notes
        == f"{count - 1} parameters taken; unet/conv_in/kernel (4 to 9 input channels) extended by zeros"
    )


def test_gradients_reach_the_new_channels(models):
    params, _ = start_from(models[1], models[0])

    def loss(p):
        return jnp.sum(unet(9).apply({"params": p}, X, T, Cond(concat=EXTRA)) ** 2)

    gradient = jax.jit(jax.grad(loss))(params["unet"])["conv_in"]["kernel"]
    assert (np.abs(gradient[:, :, 4:]).max(axis=(0, 1, 3)) > 1e-3).all()


def tree(**shapes):
    """{'unet/a': shape} as a tree of float32 arrays, each filled with its own number."""
    flat = {tuple(name.split("/")): shape for name, shape in shapes.items()}
    return unflatten(
        {path: np.full(shape, i + 1, np.float32) for i, (path, shape) in enumerate(flat.items())}
    )


def test_what_does_not_fit_stays_fresh_and_is_named():
    fresh = tree(**{f"unet/{name}": (2, 2) for name in "abcde"})
    opened = tree(**{"unet/a": (2, 2), "unet/b": (2, 3), "unet/unknown": (1,), "first_stage/c": (2, 2)})
    params, notes = start_from(fresh, opened)
    np.testing.assert_array_equal(params["unet"]["a"], 1)
    for i, name in enumerate("bcde"):
        np.testing.assert_array_equal(params["unet"][name], fresh["unet"][name])
        assert fresh["unet"][name][0, 0] == i + 2
    assert notes == "1 parameters taken; 4 left fresh: unet/b, unet/c, unet/d and 1 more"


@pytest.mark.parametrize("theirs", [(3, 3, 9, 8), (1, 1, 4, 8), (3, 3, 4, 16)])
def test_only_more_input_channels_are_an_extension(theirs):
    fresh = tree(**{"unet/conv_in/kernel": (3, 3, 5, 8), "unet/conv_in/bias": (8,)})
    opened = tree(**{"unet/conv_in/bias": (8,), "unet/conv_in/kernel": theirs})
    params, notes = start_from(fresh, opened)
    np.testing.assert_array_equal(params["unet"]["conv_in"]["kernel"], 1)
    assert notes == "1 parameters taken; 1 left fresh: unet/conv_in/kernel"


def test_another_kernel_with_more_channels_is_not_extended():
    fresh = tree(**{"unet/conv_out/kernel": (3, 3, 9, 8), "unet/b": (1,)})
    _, notes = start_from(fresh, tree(**{"unet/conv_out/kernel": (3, 3, 4, 8), "unet/b": (1,)}))
    assert notes.endswith("1 left fresh: unet/conv_out/kernel")


def test_a_kind_is_found_by_its_name_where_it_stands_alone_and_among_others():
    alone = tree(**{"conditioner/text/embedding/kernel": (5, 2)})
    among = tree(**{"conditioner/other/scale": (3,), "conditioner/text/embedding/kernel": (5, 2)})
    among["conditioner"]["inpaint"] = {}
    params, _ = start_from(among, alone)
    np.testing.assert_array_equal(params["conditioner"]["text"]["embedding"]["kernel"], 1)
    assert params["conditioner"]["inpaint"] == {}  # the structure is the fresh one's
    params, _ = start_from(alone, among)
    np.testing.assert_array_equal(params["conditioner"]["text"]["embedding"]["kernel"], 2)


def test_what_two_kinds_call_the_same_is_each_one_s_own():
    params, notes = start_from(
        tree(**{"unet/c": (1,), "conditioner/a/table": (5, 2)}),
        tree(**{"conditioner/b/table": (5, 2), "unet/c": (1,)}),
    )
    assert notes == "1 parameters taken; 1 left fresh: conditioner/a/table"


def test_only_what_fits_is_read_and_dtypes_are_the_fresh_ones():
    def refuse():
        raise AssertionError("read")

    half = Tensor((2,), np.dtype("float16"), lambda: np.full(2, 0.5, np.float16))
    opened = {"unet": {"a": half}, "first_stage": {"b": Tensor((2,), np.dtype("float32"), refuse)}}
    params, _ = start_from(tree(**{"unet/a": (2,), "unet/b": (2,)}), opened)
    assert params["unet"]["a"].dtype == np.float32
    np.testing.assert_array_equal(params["unet"]["a"], 0.5)


@pytest.mark.parametrize("opened", [{}, tree(**{"unet/b": (2,), "first_stage/a": (1,)})])
def test_nothing_at_all_that_fits_is_an_error(opened):
    with pytest.raises(ValueError, match="nothing to start from: none of the 1 parameters, such as unet/a"):
        start_from(tree(**{"unet/a": (2,)}), opened)


def test_what_is_frozen_may_not_stay_random():
    fresh = {"unet": {"a": np.zeros(2, np.float32)}, "conditioner": {"clip": {"b": np.zeros(3, np.float32)}}}
    opened = {"unet": {"a": np.ones(2)}}
    assert "1 left fresh: conditioner/clip/b" in start_from(fresh, opened)[1]
    with pytest.raises(
        ValueError,
        match="1 frozen parameters, such as conditioner/clip/b, are not in what the model starts from",
    ):
        start_from(fresh, opened, ["conditioner/clip"])
    start_from(fresh, opened | {"conditioner": {"clip": {"b": np.ones(3)}}}, ["conditioner/clip"])
