"""The UNet: the Control seam, what a Cond may be, and the errors. Sizes and sites: test_unet_sizes.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Control
from ldm_jax.models.layers import cast
from ldm_jax.models.unet import UNet, apply_unet, coordinates, site_table
from ldm_jax.types import Cond

SMALL = dict(
    in_channels=3, out_channels=3, channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(1,)
)
SMALL |= dict(num_heads=2, transformer_depth=1, context_dim=6, num_groups=4)
UNET = UNet(**SMALL)
TINY = SMALL | dict(channel_mult=(1,), attention_levels=())  # attention in the middle alone
RNG = np.random.default_rng(0)


def random_params(unet, *args):
    """Normal draws in the shapes of the parameters: nothing is zero, unlike in a fresh network."""
    shapes = jax.eval_shape(unet.init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) * 0.3, jnp.float32), shapes)


X = jnp.asarray(RNG.normal(size=(2, 8, 8, 3)), jnp.float32)
T = jnp.array([3, 977])
COND = Cond(context=jnp.asarray(RNG.normal(size=(2, 5, 6)), jnp.float32))
PARAMS = random_params(UNET, X, T, COND)
apply = jax.jit(apply_unet, static_argnums=0)


class Identity(Control):
    pass


class Strength(Control):
    """Scales the logits of cross-attention and the skips, and records the head mean of the cross probs."""

    strength: jax.Array

    def touches(self, site):
        return site.kind in ("cross", "skip")

    def logits(self, site, s):
        return s * self.strength

    def features(self, site, x):
        return x * self.strength

    def record(self, site, value):
        return value.mean(axis=1) if site.kind == "cross" else None


@pytest.fixture(scope="module")
def plain():
    out, taps = apply(UNET, PARAMS, X, T, COND)
    assert taps == {}
    return np.asarray(out)


def test_a_fresh_unet_gives_exactly_zero():
    # a cheap random generator: compiling threefry for every parameter takes longer than all the rest
    unet = UNet(**TINY)
    out, variables = jax.jit(unet.init_with_output)(jax.random.key(0, impl="unsafe_rbg"), X, T, COND)
    assert np.asarray(variables["params"]["conv_in"]["kernel"]).std() > 0
    np.testing.assert_array_equal(out, np.zeros_like(out))


def test_the_identity_control_is_no_control(plain):
    out, taps = apply(UNET, PARAMS, X, T, COND, Identity())
    assert taps == {}
    np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def test_two_strengths_are_one_trace_and_the_neutral_one_is_no_control(plain):
    traces = []

    @jax.jit
    def call(params, control):
        traces.append(1)
        return apply_unet(UNET, params, X, T, COND, control)

    neutral, taps_1 = call(PARAMS, Strength(jnp.float32(1)))
    off, taps_0 = call(PARAMS, Strength(jnp.float32(0)))
    assert len(traces) == 1
    np.testing.assert_allclose(neutral, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    assert not np.allclose(off, plain, rtol=1e-2)
    assert set(taps_1) == {f"{n}/cross" for n in ("down_1.attn_0", "mid.attn", "up_0.attn_0", "up_0.attn_1")}
    for name in taps_1:
        assert taps_1[name].shape == (2, 16, 5)
        np.testing.assert_allclose(taps_1[name].sum(-1), 1, rtol=1e-5)
        np.testing.assert_allclose(taps_0[name], 1 / 5, rtol=1e-6)  # logits of 0: uniform
        assert np.ptp(taps_1[name]) > 1e-3


def test_rematerialized_blocks_take_controls_record_and_have_the_same_gradient():
    params = random_params(UNet(**TINY), X, T, COND)

    def loss(strength, unet):
        out, taps = apply_unet(unet, params, X, T, COND, Strength(strength))
        return jnp.sum(jnp.square(out)), taps

    def both(unet):
        return jax.jit(jax.value_and_grad(partial(loss, unet=unet), has_aux=True))(jnp.float32(1))

    (expected, expected_taps), expected_grad = both(UNet(**TINY))
    for policy in (True, "loop"):
        (value, taps), grad = both(UNet(**TINY, remat=policy))
        assert set(taps) == set(expected_taps) == {"mid.attn/cross"}
        np.testing.assert_allclose(taps["mid.attn/cross"], expected_taps["mid.attn/cross"], rtol=1e-5)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-4)
        assert grad != 0


def test_a_record_that_would_be_lost_is_an_error():
    with pytest.raises(ValueError, match="taps"):
        jax.eval_shape(lambda p: UNET.apply({"params": p}, X, T, COND, Strength(jnp.float32(1))), PARAMS)


def test_every_hook_is_called_where_it_should_be():
    called = {}

    class Spy(Control):
        def _note(self, hook, site, *arrays):
            called.setdefault(hook, {})[site] = tuple(a.shape for a in arrays)
            return arrays if len(arrays) > 1 else arrays[0]

        def hidden(self, site, h):
            return self._note("hidden", site, h)

        def qkv(self, site, q, k, v):
            return self._note("qkv", site, q, k, v)

        def logits(self, site, s):
            return self._note("logits", site, s)

        def probs(self, site, p):
            return self._note("probs", site, p)

        def features(self, site, x):
            return self._note("features", site, x)

    jax.eval_shape(lambda p: apply_unet(UNET, p, X, T, COND, Spy()), PARAMS)
    sites = [site for site, _ in site_table(UNET, X.shape, COND)]
    attention = {s for s in sites if s.kind in ("self", "cross")}
    for hook in ("hidden", "qkv", "logits", "probs"):
        assert set(called[hook]) == attention
    assert set(called["features"]) == set(sites) - attention
    assert "mid.out" in {s.name for s in called["features"]}
    (cross,) = (s for s in attention if s.name == "mid.attn" and s.kind == "cross")
    assert called["hidden"][cross] == ((2, 16, 16),)
    assert called["qkv"][cross] == ((2, 16, 2, 8), (2, 5, 2, 8), (2, 5, 2, 8))
    assert called["logits"][cross] == called["probs"][cross] == ((2, 2, 16, 5),)


def test_the_trunk_and_the_stream_are_sites_and_projections_are_read():
    """Trunk: what is joined with each skip, and the head's input; stream: what passes from self- to cross-attention."""
    table = dict((f"{s.name}/{s.kind}", shape) for s, shape in site_table(UNET, X.shape, COND))
    skips = [name for name in table if name.endswith("/skip")]
    assert [n for n in table if n.endswith("/trunk")] == [n.replace("skip", "trunk") for n in skips] + [
        "head/trunk"
    ]
    assert table["head/trunk"] == (2, 8, 8, UNET.channels) and table["mid.attn/stream"] == (2, 16, 16)

    class Read(Control):
        def touches(self, site):
            return site.kind == "cross" or site.name == "head"

        def record_projections(self, site, h, q, k):
            return {"h": h, "q": q, "k": k}

        def features(self, site, x):
            return jnp.zeros_like(x)

    out, taps = jax.jit(lambda p: apply_unet(UNET, p, X, T, COND, Read()))(PARAMS)
    assert {n: v.shape for n, v in taps["mid.attn/cross/projections"].items()} == {
        "h": (2, 16, 16), "q": (2, 16, 2, 8), "k": (2, 5, 2, 8),
    }  # fmt: skip
    # with nothing in the trunk before the head, every cell far from the border is the same
    np.testing.assert_allclose(
        out[:, 2:-2, 2:-2], np.broadcast_to(out[:, 3:4, 3:4], out[:, 2:-2, 2:-2].shape), atol=1e-6
    )


def test_blocks_of_a_deeper_transformer_have_sites_of_their_own():
    unet = UNet(**(SMALL | dict(transformer_depth=(1, 3), transformer_depth_middle=2)))
    table = site_table(unet, X.shape, COND)
    names = [f"down_1.attn_0.{d}" for d in range(3)] + ["mid.attn.0", "mid.attn.1"]
    names += [f"up_0.attn_{j}.{d}" for j in range(2) for d in range(3)]
    for kind in ("self", "cross"):
        assert [s.name for s, _ in table if s.kind == kind] == names
        assert [s.index for s, _ in table if s.kind == kind] == list(range(len(names)))


def test_attention_in_some_of_a_levels_blocks():
    unet = UNet(**(SMALL | dict(num_res_blocks=(1, 2), num_attention_blocks=(0, 1))))
    names = [s.name for s, _ in site_table(unet, X.shape, COND) if s.kind == "self"]
    assert names == ["down_1.attn_0", "mid.attn", "up_0.attn_0"]


def test_one_context_per_site_and_one_for_keys_and_one_for_values(plain):
    out = jax.jit(lambda context: apply_unet(UNET, PARAMS, X, T, Cond(context=context))[0])
    close = dict(rtol=1e-5, atol=1e-5 * np.abs(plain).max())
    other = COND.context + 1
    per_site = jnp.stack([COND.context] * 3 + [other])
    replicated = jnp.stack([COND.context] * 4)
    mixed = np.asarray(out((replicated, per_site)))
    np.testing.assert_allclose(out((replicated, replicated)), plain, **close)
    assert not np.allclose(mixed, plain, rtol=1e-2)  # other values at the last site
    np.testing.assert_allclose(out((COND.context, per_site)), mixed, **close)


def test_concat_comes_after_x(plain):
    out, _ = apply(UNET, PARAMS, X[..., :1], T, COND.replace(concat=X[..., 1:]))
    np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def test_bfloat16_computes_near_float32_and_returns_the_inputs_dtype(plain):
    out, _ = apply(UNet(**SMALL, dtype=jnp.bfloat16), PARAMS, X, T, COND)
    assert out.dtype == X.dtype
    error = np.linalg.norm(out - plain) / np.linalg.norm(plain)
    assert 1e-5 < error < 0.1


def test_codebook_head_gives_logits():
    out = jax.eval_shape(lambda: UNet(**SMALL, n_embed=11).init_with_output(jax.random.key(0), X, T, COND)[0])
    assert out.shape == (2, 8, 8, 11)


@pytest.mark.parametrize("num_classes", [10, "continuous"])
def test_dropout_and_vectors(num_classes):
    unet = UNet(**(TINY | dict(transformer_depth=0, context_dim=None)), dropout=0.5, num_classes=num_classes)
    cond = Cond(vector=jnp.array([1, 2]))
    params = random_params(unet, X, T, cond)
    dropped = jax.jit(lambda cond, key: apply_unet(unet, params, X, T, cond, None, key)[0])
    key = jax.random.key(1)
    np.testing.assert_array_equal(dropped(cond, key), dropped(cond, key))
    first = dropped(Cond(vector=jnp.array([1, 5])), key)
    np.testing.assert_array_equal(first[0], dropped(cond, key)[0])
    assert not np.allclose(first[1], dropped(cond, key)[1])
    assert not np.allclose(dropped(cond, key), dropped(cond, jax.random.key(2)))


@pytest.mark.parametrize(
    ("fields", "cond", "message"),
    [
        ({}, Cond(), "context is missing"),
        ({}, Cond(context=jnp.zeros((2, 5, 7))), r"expected \(2, L, 6\)"),
        ({}, Cond(context=jnp.zeros((1, 5, 6))), r"expected \(2, L, 6\)"),
        ({}, Cond(context=jnp.zeros((3, 2, 5, 6))), "3 contexts, expected 4"),
        ({}, COND.replace(vector=jnp.zeros(2, int)), "num_classes=None"),
        ({"num_classes": 10}, COND, "vector is missing"),
        ({"num_classes": 10}, COND.replace(vector=jnp.zeros(2)), "int32 labels below 10"),
        ({"vector_dim": 4}, COND.replace(vector=jnp.zeros((2, 5))), r"expected \(2, 4\)"),
        ({"in_channels": 4}, COND, "in_channels=4"),
        ({}, COND.replace(concat=jnp.zeros((2, 4, 4, 1))), "concat has shape"),
        ({"context_dim": None, "transformer_depth": 0}, COND, "context is given"),
        ({"channel_mult": (1, 1, 1, 1, 1)}, COND, "multiples of 16"),
        ({"head_dim": 8}, COND, "exactly one"),
        ({"num_heads": 3}, COND, "multiple of num_heads=3"),
        ({"attention_levels": (2,)}, COND, r"levels in 0\.\.1"),
        ({"num_res_blocks": (1,)}, COND, "one value for each of the 2 levels"),
        ({"num_classes": 3, "vector_dim": 3}, COND, "at most one"),
        ({"num_classes": "sequential"}, COND, "'continuous' or None"),
    ],
)
def test_errors(fields, cond, message):
    with pytest.raises(ValueError, match=message):
        unet = UNet(**(SMALL | fields))
        jax.eval_shape(lambda: unet.init(jax.random.key(0), X, T, cond))


def test_coordinates_tell_each_cell_its_place():
    """Two channels more, from -1 to 1 whatever the size; with their weights zero, the network without them."""
    unet = UNet(**TINY | dict(coordinates=True))
    plain = UNet(**TINY)
    params = random_params(plain, X, T, COND)
    kernel = params["conv_in"]["kernel"]
    extended = dict(params, conv_in=dict(params["conv_in"]))

    def run(more):
        extended["conv_in"]["kernel"] = jnp.concatenate([kernel, more], axis=2)
        return np.asarray(jax.jit(apply_unet, static_argnums=0)(unet, extended, X, T, COND)[0])

    more = jnp.zeros((3, 3, 2, kernel.shape[-1]))
    without = np.asarray(jax.jit(apply_unet, static_argnums=0)(plain, params, X, T, COND)[0])
    np.testing.assert_allclose(run(more), without, rtol=0, atol=1e-5 * np.abs(without).max())
    assert np.abs(run(more.at[1, 1].set(1.0)) - without).max() > 1e-3
    y, x = np.moveaxis(np.asarray(coordinates(jnp.zeros((1, 2, 4, 3))))[0], -1, 0)
    np.testing.assert_allclose(y, [[-0.5] * 4, [0.5] * 4])
    np.testing.assert_allclose(x, [[-0.75, -0.25, 0.25, 0.75]] * 2)


def test_parameters_in_the_compute_dtype_change_nothing_but_rounding():
    unet = UNet(**(SMALL | dict(num_classes=7, dtype=jnp.bfloat16)))
    cond = Cond(context=COND.context, vector=jnp.array([1, 2]))
    params = random_params(unet, X, T, cond)
    rounded = cast(params, jnp.bfloat16)
    kinds = {path[-1].key: leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(rounded)}
    assert kinds["kernel"] == jnp.bfloat16 and kinds["scale"] == kinds["embedding"] == jnp.float32
    predict = jax.jit(lambda params: apply_unet(unet, params, X, T, cond)[0])
    difference = np.asarray(predict(rounded)) - predict(params)
    assert np.linalg.norm(difference) < 0.01 * np.linalg.norm(predict(params))
