"""LoKr: the Kronecker product in closed form, and how sides are split."""

import jax
import numpy as np
import pytest

from ldm_jax.personalization import lokr

RNG = np.random.default_rng(0)
PARAMS = {"unet": {"to_q": {"kernel": RNG.normal(size=(12, 32)).astype(np.float32)}}, "conditioner": {}}


@pytest.mark.parametrize(
    "side, factor, expected",
    [(512, -1, (16, 32)), (1024, -1, (32, 32)), (320, 8, (8, 40)), (12, 5, (3, 4)), (7, -1, (1, 7))],
)
def test_sides(side, factor, expected):
    assert lokr.split(side, factor) == expected


@pytest.mark.parametrize("rank", [1, 8])
def test_merged_is_the_kronecker_product(rank):
    delta = lokr.init(jax.random.key(0), PARAMS, rank=rank, targets=("to_q",))
    f = delta["unet"]["to_q"]["kernel"]
    last = "lokr_w2" if rank == 8 else "lokr_w2_b"  # whole where the rank reaches half of its side
    assert last in f and not np.any(f[last]) and f["lokr_w1"].shape == (4, 3)
    f[last] = RNG.normal(size=f[last].shape).astype(np.float32)
    w2 = f[last] if rank == 8 else f["lokr_w2_a"] @ f["lokr_w2_b"]
    merged = lokr.merge(PARAMS, delta, weight=0.5, alpha=3.0)["unet"]["to_q"]["kernel"]
    step = np.kron(f["lokr_w1"], w2).T * (1 if rank == 8 else 3 / rank)
    np.testing.assert_allclose(merged, PARAMS["unet"]["to_q"]["kernel"] + 0.5 * step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [dict(rank=0), dict(factor=0)])
def test_errors(options):
    with pytest.raises(ValueError, match=r"lokr: rank is .* and factor .*, expected at least 1"):
        lokr.init(jax.random.key(0), PARAMS, targets=("to_q",), **options)
