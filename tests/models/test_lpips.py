import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ldm_jax.convert import lpips as lpips_weights
from ldm_jax.models import lpips


def test_unit_channels_is_safe_where_a_feature_is_zero():
    f = jnp.array([[3.0, 4.0], [0.0, 0.0]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(lpips.unit_channels(f).reshape(2, 2), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    grad = jax.grad(lambda f: lpips.unit_channels(f)[..., 0].sum())(f).reshape(2, 2)
    np.testing.assert_allclose(grad, [[16 / 125, -12 / 125], [0.0, 0.0]], rtol=1e-5)


def test_max_pool_agrees_with_torch():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    expected = torch.nn.functional.max_pool2d(torch.tensor(np.asarray(x)).movedim(-1, 1), 2).movedim(1, -1)
    np.testing.assert_array_equal(lpips.max_pool_2x(x), expected)


def test_parameters_are_those_that_the_weight_files_fill():
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(lambda x: lpips.LPIPS().init(jax.random.key(0), x, x), x)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, lpips_weights.template())


def test_shapes_it_cannot_compare_are_refused():
    for x, y in (
        ((1, 16, 16, 3), (1, 16, 18, 3)),
        ((1, 8, 8, 3), (1, 8, 8, 3)),
        ((1, 16, 16, 1), (1, 16, 16, 1)),
    ):
        with pytest.raises(ValueError, match="LPIPS"):
            jax.eval_shape(lambda x=x, y=y: lpips.LPIPS().init(jax.random.key(0), jnp.zeros(x), jnp.zeros(y)))
