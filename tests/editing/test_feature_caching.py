"""DeepCache: a run against a loop written out, what the network computes with a kept trunk, and what it costs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control import rows
from ldm_jax.control.base import Site, chain
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import feature_caching
from ldm_jax.inference import pipeline
from ldm_jax.models.hooks import touched
from ldm_jax.models.unet import UNet, apply_unet, site_table
from ldm_jax.samplers import base, ddim
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL, Cond
from ldm_jax.xla import flops
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SITE = Site("up_0.trunk_1", "up", "trunk", 4, 0)
SCHEDULE = make_schedule("linear", 1000)
VISITED = np.array([900, 700, 500, 300, 100], np.int32)


def deep(x, t):
    return jnp.tanh(x + 0.001 * t[:, None, None, None])


def shallow(x, trunk):
    return 0.5 * trunk + 0.1 * x


def network(x, t, cond, control=None):
    """A network of two parts, the first of which ends at SITE."""

    def call(control):
        trunk, taps = deep(x, t) + cond.vector[:, None, None, None], {}
        if touched(control, SITE):
            trunk = control.features(SITE, trunk)
            record = control.record(SITE, trunk)
            taps = {} if record is None else {"up_0.trunk_1/trunk": record}
        return shallow(x, trunk), taps

    return call(None) if control is None else control.network(call)


def by_hand(x, cond, uncond, interval):
    """DDIM's steps with the trunk of every `interval`-th step in the steps after it."""
    kept = None
    sampler = ddim.sampler(SCHEDULE)
    infos = base.step_infos(VISITED, jax.random.key(0, impl=KEY_IMPL))
    for i in range(len(VISITED)):
        info = jax.tree.map(lambda leaf, i=i: leaf[i], infos)
        t = base.batch_t(info.t, x)
        if i % interval == 0:
            kept = [deep(x, t) + c[:, None, None, None] for c in (uncond, cond)]
        u, c = (shallow(x, trunk) for trunk in kept)
        eps = u + 3 * (c - u)
        _, x, _ = sampler.step(lambda *_, eps=eps, **__: (eps, {}), (), x, info)
    return x


@pytest.mark.parametrize("interval", [2, 3])
def test_a_run_is_the_loop_written_out(interval):
    x = jax.random.normal(jax.random.key(1, impl=KEY_IMPL), (2, 4, 4, 3))
    cond, uncond = jnp.array([0.3, -0.2]), jnp.zeros(2)
    denoiser = Denoiser(
        network, Cond(vector=cond), Cond(vector=uncond), SCHEDULE, "eps", jnp.asarray(VISITED)
    )

    def eps_fn(x, t, control=None):
        conds = rows.join_conds(denoiser.uncond, denoiser.cond)
        out, taps = denoiser.network(rows.join_halves(x, x), rows.join_halves(t, t), conds, control)
        u, c = rows.split_halves(out)
        return u + 3 * (c - u), taps

    edit = feature_caching.edit(denoiser, interval=jnp.float32(interval), at="up_0.trunk_1")
    key = jax.random.key(0, impl=KEY_IMPL)
    run = partial(base.sample, eps_fn, ddim.sampler(SCHEDULE))
    drawn, _, _ = run(x, VISITED, key, edit)
    np.testing.assert_allclose(drawn, by_hand(x, cond, uncond, interval), rtol=1e-5, atol=1e-5)
    plain, _, _ = run(x, VISITED, key)
    np.testing.assert_allclose(plain, by_hand(x, cond, uncond, 1), rtol=1e-5, atol=1e-5)
    assert np.abs(drawn - plain).max() > 1e-3


@pytest.fixture(scope="module")
def unet():
    """(network, params) of two levels with attention, three blocks each on the way up."""
    net = UNet(3, 3, 8, (1, 2), num_res_blocks=2, attention_levels=(0, 1), num_heads=2, num_groups=4)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, jnp.int32))
    rng = np.random.default_rng(0)
    return net, jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), s.dtype), shapes["params"])


def trunk_of(net, branch):
    call = type("Call", (), {"decoder": net.decoder})
    return feature_caching.prepare(call, interval=3, branch=branch)["at"]


def test_which_trunk_is_kept(unet):
    """Branch b computes the last b + 1 blocks; with the last branch there is nothing but the middle to keep."""
    net, _ = unet
    assert [trunk_of(net, b) for b in (0, 2, 3, 5)] == [
        "up_1.trunk_2", "up_1.trunk_0", "up_0.trunk_2", "up_0.trunk_0",
    ]  # fmt: skip
    sites = {site.name: shape for site, shape in site_table(net, (1, 8, 8, 3)) if site.kind == "trunk"}
    assert {trunk_of(net, b) for b in range(6)} <= set(sites)


def test_a_kept_trunk_takes_the_place_of_what_is_deeper(unet):
    """With its own trunk the network's answer is the same; with another's, that of neither, and time has no part in the
    trunk any more."""
    net, params = unet
    at = trunk_of(net, 1)
    x = jax.random.normal(jax.random.key(0, impl=KEY_IMPL), (2, 8, 8, 3))

    @jax.jit
    def whole(x, t):
        return apply_unet(net, params, x, t, control=feature_caching.Trunk(None, at))

    @jax.jit
    def short(x, t, kept):
        return apply_unet(net, params, x, t, control=feature_caching.Trunk(kept, at))

    t = jnp.array([400, 20])
    first, taps = whole(x, t)
    (kept,) = taps.values()
    np.testing.assert_allclose(short(x, t, kept)[0], first, rtol=1e-4, atol=1e-5)
    other, others = whole(x[::-1], t)
    mixed = short(x, t, others[f"{at}/trunk"])[0]
    assert min(np.abs(mixed - first).max(), np.abs(mixed - other).max()) > 1e-3


def test_what_it_costs_is_what_xla_computes(unet):
    """The deep part is neither counted nor compiled."""
    net, params = unet
    x, t = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)

    def call(params, x, t, kept):
        return apply_unet(net, params, x, t, control=feature_caching.Trunk(kept, trunk_of(net, 0)))[0]

    kept = jnp.zeros((1, 8, 8, 8))
    counted = flops.count(call, params, x, t, kept)
    whole = flops.count(lambda params, x, t: apply_unet(net, params, x, t)[0], params, x, t)
    assert counted < 0.25 * whole
    compiled = jax.jit(call).lower(params, x, t, kept).compile().cost_analysis()["flops"]
    assert counted < compiled < 1.35 * counted  # with elementwise work


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(cache=dict(interval=0)), "interval is 0, expected a whole number from 1 to 1000"),
        (dict(cache=dict(interval=2.5)), "interval is 2.5, expected a whole number"),
        (dict(cache=dict(branch=2)), "branch is 2, expected a whole number from 0 to 1"),
        (
            dict(cache=dict(intervall=2)),
            "feature_caching has no option 'intervall'; .*did you mean 'interval'",
        ),
        (dict(cache=3), "got 3 for feature_caching, expected {option: value}"),
        (dict(cache={}, guidance="self_attention"), "feature_caching and self_attention cannot be combined"),
        (dict(cache={}, output="edited"), "feature_caching: got it where maps are recorded"),
        (
            dict(merge={}, edit=dict(masactrl=dict(source="a"))),
            "token_merging and masactrl cannot be combined: it goes with classifier_free, feature_caching, interval",
        ),
        (dict(merge=dict(ratio=0.8)), "token_merging: ratio is 0.8, expected a number from 0 to 0.75"),
        (dict(merge=dict(downsample=0)), "downsample is 0, expected a whole number from 1"),
        (dict(merge={}, tile=8), "token_merging acts inside the network, which sees one tile at a time"),
    ],
)
def test_what_cannot_be_asked_for_is_said(model, asked, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a circle", num_steps=2, image_shape=(16, 24), **asked)


def test_both_at_once_and_by_their_other_names(model):
    asked = dict(prompts="a red circle", seeds=[0, 1], num_steps=4, output="latents")
    plain = model.sample(**asked)
    before = model.num_compiled
    neutral = model.sample(**asked, cache=dict(interval=1), merge=dict(ratio=0.0))
    np.testing.assert_array_equal(neutral, plain)
    assert model.num_compiled == before
    both = model.sample(**asked, cache=dict(interval=2), merge=dict(ratio=0.5))
    named = [dict(feature_caching=dict(interval=2)), ("token_merging", dict(ratio=0.5))]
    np.testing.assert_array_equal(model.sample(**asked, edit=named), both)
    assert model.num_compiled == before + 1
    assert np.isfinite(both).all() and np.abs(both - plain).max() > 1e-3


def test_a_chain_hands_the_choice_to_the_network():
    """The control of caching may stand anywhere among others."""
    kept, seen = jnp.zeros((1, 4, 4, 3)), []

    def call(control):
        seen.append(control.controls)
        return jnp.zeros(()), {}

    cached = feature_caching.Cached(kept, SITE.name, jnp.array(True))
    chain([feature_caching.Trunk(None, "other"), cached]).network(call)
    assert sorted(controls[1].kept is None for controls in seen) == [False, True]
    assert all(type(control) is feature_caching.Trunk for controls in seen for control in controls)
