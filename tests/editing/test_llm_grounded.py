"""LLM-grounded diffusion: its energy by hand, what a run takes over, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import llm_grounded as method
from ldm_jax.inference import pipeline
from ldm_jax.samplers.base import StepInfo
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

B, K, H, L, D = 2, 2, 6, 5, 3
MASKS = np.zeros((B, K, H, H), np.float32)
MASKS[:, 0, :3, :3] = MASKS[:, 1, 3:, 3:] = 1
TOKENS = np.zeros((B, K, 2, L), np.float32)
TOKENS[:, 0, :, 1] = TOKENS[:, 1, 0, 1] = TOKENS[:, 1, 1, 3] = 1
SITE = Site("mid.attn", "mid", "cross", H, 0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=((K + 1) * B, H, H, D)), jnp.float32)


def test_the_energy_is_the_papers():
    read, mask = RNG.random((1, 2, 1, 20)).astype(np.float32), np.zeros((1, 1, 20), np.float32)
    mask[..., :10] = 1
    inside, outside = (
        np.sort(part)[..., -2:].mean(-1) for part in (read[..., :10], read[..., 10:])
    )  # 20 % of 10
    got = method.energy(jnp.asarray(read), jnp.asarray(mask))
    np.testing.assert_allclose(got, 1 - inside + 4 * outside, rtol=1e-5)


def test_maps_of_a_thing_by_itself_transfer_as_shares_of_its_box():
    read = RNG.random((B, 2, K, H * H)).astype(np.float32)
    cells = jnp.asarray(MASKS.reshape(B, K, -1))
    np.testing.assert_allclose(method.transfer(read, 3 * read, cells), 0, atol=1e-6)
    assert (np.asarray(method.transfer(read, read[::-1], cells)) > 0.05).all()


def edit(scale=40.0, compose=True, most=1, masks=MASKS):
    """A network that is one cross-attention of two heads."""
    context = jnp.asarray(RNG.normal(size=((K + 1) * B, L, D)), jnp.float32)

    def network(x, t, cond, control):
        logits = jnp.einsum("bhwd,bld->bhwl", x, cond.context).reshape(len(x), 1, H * H, L)
        p = jax.nn.softmax(jnp.concatenate([logits, 2 * logits], 1))
        return x, {"mid.attn/cross": control.record(SITE, p)}

    steps = jnp.arange(4)[::-1]
    one = Denoiser(network, Cond(context=context), None, make_schedule("linear", 100), "eps", steps, K + 1)
    made = method.edit(
        one, masks=jnp.asarray(masks), tokens=jnp.asarray(TOKENS), scale=jnp.float32(scale),
        most=jnp.full(4, most), compose=jnp.full(4, compose),
    )  # fmt: skip
    return made, one


INFO = StepInfo(jnp.int32(0), jnp.int32(50), jnp.int32(40), jax.random.key(0), 4)


def test_small_steps_draw_attention_into_the_boxes():
    def of(x, one, tokens):
        _, taps = one.conditional(x, jnp.zeros(len(x)), method.HeadMaps(jnp.asarray(tokens)))
        read = taps["mid.attn/cross"]
        return np.asarray(method.energy(read, jnp.asarray(MASKS.reshape(B, K, -1))))

    made, one = edit(scale=0.5, most=4)
    moved = made.before(made.init(X), X, INFO, None)[1]
    last = one._replace(cond=Cond(context=one.cond.context[-B:]))
    before, after = (of(x[-B:], last, TOKENS[:, :, 1]) for x in (X, moved))
    assert (after.mean((1, 2)) < before.mean((1, 2))).all()
    still, _ = edit(scale=0.0)
    np.testing.assert_array_equal(still.before(still.init(X), X, INFO, None)[1], X)
    none, _ = edit(most=0)
    np.testing.assert_array_equal(none.before(none.init(X), X, INFO, None)[1], X)


def test_the_picture_takes_each_thing_from_its_own_row():
    made, one = edit()
    taps = one.conditional(X, jnp.zeros(len(X)), made.control(made.init(X), INFO))[1]
    looked, x = made.after(made.init(X), X, taps, INFO)
    np.testing.assert_array_equal(x[: K * B], X[: K * B])
    inside = np.asarray(made.shows(looked)["mask"])
    assert inside.max() == 1 and (inside <= MASKS.max(1)).all()
    for i in range(B):
        for j in range(K):
            mine = (inside[i] * MASKS[i, j]).astype(bool)
            assert mine.any()
            np.testing.assert_array_equal(np.asarray(x)[K * B + i][mine], X[j * B + i][mine])
        np.testing.assert_array_equal(np.asarray(x)[K * B + i][inside[i] == 0], X[K * B + i][inside[i] == 0])
    late, _ = edit(compose=False)
    np.testing.assert_array_equal(late.after(late.init(X), X, taps, INFO)[1], X)


def test_a_slot_that_is_not_used_moves_nothing():
    masks = MASKS.copy()
    masks[:, 1] = 0
    made, _ = edit(masks=masks, most=2)
    moved = made.before(made.init(X), X, INFO, None)[1]
    np.testing.assert_array_equal(moved[B : 2 * B], X[B : 2 * B])
    assert np.isfinite(moved).all() and (np.asarray(moved) != X).any()


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(scale=-1), "scale is -1 and compose is 0.5, expected 0 or more, and 0 to 1"),
        (dict(layout={}), "llm_grounded: layout has no object with a list 'objects', expected"),
        (dict(layout={"objects": [{"phrase": "square", "box": [0, 0, 1, 1]}]}), "phrase 'square' is not in the prompt"),
        (dict(layout={"objects": [{"phrase": "circle", "box": [0, 0, 2, 1]}]}), r"box \[0, 0, 2, 1\] of 'circle'"),
        (dict(endpoint="http://127.0.0.1:1/v1"), "endpoint .* does not answer"),
    ],
)  # fmt: skip
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], edit={"llm_grounded": options}, num_steps=2)


def test_a_prompt_without_things_and_another_edit_with_branches(model):
    with pytest.raises(ValueError, match="nothing to lay out in the prompt '', expected a noun phrase"):
        model.sample("", [0], edit="llm_grounded", num_steps=2)
    both = ["llm_grounded", ("masactrl", dict(source="a blue circle"))]
    with pytest.raises(ValueError, match="llm_grounded and masactrl cannot be combined"):
        model.sample("a red circle", [0], edit=both, num_steps=2)
