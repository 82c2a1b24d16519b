"""LoRA: the sum in closed form, what it adapts, and what it refuses."""

import jax
import numpy as np
import pytest

from ldm_jax.params import flatten
from ldm_jax.personalization import base, lora

RNG = np.random.default_rng(0)
PARAMS = {
    "unet": {
        "attn": {
            "to_q": {"kernel": RNG.normal(size=(6, 4)).astype(np.float32)},
            "to_k": {"kernel": np.ones((5, 4), np.float32)},
        },
        "conv": {"kernel": np.ones((3, 3, 2, 2), np.float32)},
        "ff": {"kernel": np.ones((4, 4), np.float32), "bias": np.zeros(4, np.float32)},
    },
    "conditioner": {},
}


def test_merged_is_the_kernel_plus_the_scaled_product():
    delta = lora.init(jax.random.key(0), PARAMS, rank=2, targets=("to_q",))
    assert set(flatten(delta)) == {("unet", "attn", "to_q", "kernel", side) for side in ("down", "up")}
    down, up = RNG.normal(size=(6, 2)).astype(np.float32), RNG.normal(size=(2, 4)).astype(np.float32)
    delta["unet"]["attn"]["to_q"]["kernel"] = {"down": down, "up": up}
    merged = lora.merge(PARAMS, delta, weight=0.5, alpha=8.0)
    kernel = PARAMS["unet"]["attn"]["to_q"]["kernel"]
    np.testing.assert_allclose(
        merged["unet"]["attn"]["to_q"]["kernel"], kernel + 0.5 * 4 * down @ up, rtol=1e-5, atol=1e-5
    )
    for path, leaf in flatten(PARAMS).items():
        if "to_q" not in path:
            assert flatten(merged)[path] is leaf  # untouched
    assert merged["conditioner"] == {}


def test_down_is_uniform_as_torchs_linear_layers_and_up_is_zero():
    delta = lora.init(
        jax.random.key(1),
        {"unet": {"to_q": {"kernel": np.zeros((400, 300), np.float32)}}},
        rank=50,
        targets=("to_q",),
    )
    pair = delta["unet"]["to_q"]["kernel"]
    assert 0.99 * 400**-0.5 < np.abs(pair["down"]).max() <= 400**-0.5 and not np.any(pair["up"])
    np.testing.assert_allclose(np.std(pair["down"]), 400**-0.5 / 3**0.5, rtol=0.02)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(targets=("to_x",)), "the model has no linear layer 'to_x'; it has: ff, to_k, to_q"),
        (dict(rank=5, targets=("to_q",)), "rank is 5, expected 1 to 4 for unet/attn/to_q/kernel of 6 x 4"),
        (dict(rank=0, targets=("to_q",)), "rank is 0, expected 1 to 4"),
        (
            dict(rnk=2),
            "personalization 'lora' has no option 'rnk'; it has: alpha, rank, targets; did you mean 'rank'",
        ),
    ],
)
def test_errors(options, said):
    with pytest.raises(ValueError, match=said):
        base.init_delta(dict(name="lora", **options), jax.random.key(0), PARAMS)


def test_a_delta_of_another_base_is_named():
    delta = lora.init(jax.random.key(0), PARAMS, rank=1, targets=("to_q",))
    other = {"unet": {"attn": {"to_q": {"kernel": np.ones((7, 4), np.float32)}}}}
    with pytest.raises(
        ValueError,
        match=r"for unet/attn/to_q/kernel of \(6, 4\), and the model has \(7, 4\): it is of another base",
    ):
        lora.merge(other, delta)
