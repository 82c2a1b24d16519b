"""LoHa: the elementwise product in closed form, its rank, and its rank's bound."""

import jax
import numpy as np
import pytest

from ldm_jax.personalization import loha

RNG = np.random.default_rng(0)
PARAMS = {"unet": {"to_q": {"kernel": RNG.normal(size=(12, 10)).astype(np.float32)}}, "conditioner": {}}


def test_merged_is_the_product_of_two_products():
    delta = loha.init(jax.random.key(0), PARAMS, rank=2, targets=("to_q",))
    f = delta["unet"]["to_q"]["kernel"]
    assert not np.any(f["hada_w2_a"])
    f["hada_w2_a"] = RNG.normal(size=(10, 2)).astype(np.float32)
    merged = loha.merge(PARAMS, delta, weight=0.5, alpha=4.0)["unet"]["to_q"]["kernel"]
    step = ((f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])).T
    np.testing.assert_allclose(
        merged, PARAMS["unet"]["to_q"]["kernel"] + 0.5 * 2 * step, rtol=1e-4, atol=1e-5
    )
    assert np.linalg.matrix_rank(np.asarray(step), tol=1e-4) == 4  # the square of the rank


def test_errors():
    with pytest.raises(
        ValueError, match="loha: rank is 11, expected 1 to 10 for unet/to_q/kernel of 12 x 10"
    ):
        loha.init(jax.random.key(0), PARAMS, rank=11, targets=("to_q",))
