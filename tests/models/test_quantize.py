import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import quantize

CODEBOOK = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
Z = jnp.array([[0.9, 0.2], [0.1, 0.7], [0.2, -0.1], [1.2, -0.1]]).reshape(1, 2, 2, 2)
NEAREST = jnp.array([1, 2, 0, 1]).reshape(1, 2, 2)


def quantizer(**fields):
    return quantize.VectorQuantizer(4, 2, **fields), {"params": {"embedding": CODEBOOK}}


def test_distances_and_nearest_codes_are_those_of_the_definition():
    direct = np.square(np.asarray(Z)[..., None, :] - np.asarray(CODEBOOK)).sum(-1)
    np.testing.assert_allclose(quantize.squared_distances(Z, CODEBOOK), direct, atol=1e-5)
    np.testing.assert_array_equal(quantize.nearest_code(Z, CODEBOOK), NEAREST)


def test_the_first_code_wins_a_tie():
    twice = jnp.concatenate([CODEBOOK, CODEBOOK])
    np.testing.assert_array_equal(quantize.nearest_code(Z, twice), NEAREST)


def test_module_returns_codes_loss_and_indices():
    model, variables = quantizer()
    out = model.apply(variables, Z)
    np.testing.assert_array_equal(out.indices, NEAREST)
    np.testing.assert_allclose(out.z_q, CODEBOOK[NEAREST], atol=1e-6)
    np.testing.assert_allclose(out.loss, 1.25 * np.mean(np.square(Z - CODEBOOK[NEAREST])), rtol=1e-5)


def test_gradients_pass_straight_through_the_codes():
    model, variables = quantizer()
    weight = jax.random.normal(jax.random.key(0), Z.shape)

    def objective(variables, z):
        return (weight * model.apply(variables, z).z_q).sum()

    to_codebook, to_z = jax.grad(objective, (0, 1))(variables, Z)
    np.testing.assert_allclose(to_z, weight, rtol=1e-6)
    np.testing.assert_array_equal(to_codebook["params"]["embedding"], 0.0)


@pytest.mark.parametrize("legacy, on_z, on_code", [(True, 1.0, 0.25), (False, 0.25, 1.0)])
def test_gradients_of_the_loss_in_closed_form(legacy, on_z, on_code):
    """d mean((z - e)^2) = 2 (z - e) / numel, weighed by beta on the codebook's side (legacy) or on the
    encoder's."""
    model, variables = quantizer(legacy=legacy)
    to_codebook, to_z = jax.grad(lambda v, z: model.apply(v, z).loss, (0, 1))(variables, Z)
    pull = 2 * np.asarray(Z - CODEBOOK[NEAREST]) / Z.size
    np.testing.assert_allclose(to_z, on_z * pull, rtol=1e-5, atol=1e-7)
    expected = np.zeros((4, 2))
    np.add.at(expected, np.asarray(NEAREST), -on_code * pull)
    np.testing.assert_allclose(to_codebook["params"]["embedding"], expected, rtol=1e-5, atol=1e-7)


def test_fresh_codes_lie_in_the_original_range():
    embedding = quantize.VectorQuantizer(16, 3).init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"][
        "embedding"
    ]
    assert (
        embedding.shape == (16, 3)
        and np.abs(embedding).max() <= 1 / 16
        and np.abs(embedding).max() > 0.9 / 16
    )


def test_remap_renumbers_and_unmap_undoes_it():
    used = (3, 1, 7)
    indices = jnp.array([[1, 3], [7, 3]])
    places = quantize.remap_to_used(indices, used, 8, "extra")
    np.testing.assert_array_equal(places, [[1, 0], [2, 0]])
    np.testing.assert_array_equal(quantize.unmap_to_all(places, used, 8), indices)


def test_codes_out_of_use_follow_unknown_index():
    used, indices = (3, 1, 7), jnp.array([0, 1, 2])
    np.testing.assert_array_equal(quantize.remap_to_used(indices, used, 8, "extra"), [3, 1, 3])
    np.testing.assert_array_equal(quantize.remap_to_used(indices, used, 8, 2), [2, 1, 2])
    np.testing.assert_array_equal(quantize.unmap_to_all(jnp.array([3]), used, 8), [3])
    many = quantize.remap_to_used(jnp.zeros(300, jnp.int32), used, 8, "random", jax.random.key(0))
    assert set(np.unique(many)) == {0, 1, 2}


def test_module_with_remap_looks_its_own_indices_up_again():
    model, variables = quantizer(remap=(2, 0, 1), unknown_index="extra")
    out = model.apply(variables, Z)
    np.testing.assert_array_equal(out.indices, jnp.array([2, 0, 1, 2]).reshape(1, 2, 2))
    codes = model.apply(variables, out.indices, method="get_codebook_entry")
    np.testing.assert_allclose(codes, out.z_q, atol=1e-6)
    flat = model.apply(variables, out.indices.reshape(-1), (1, 2, 2, 2), method="get_codebook_entry")
    np.testing.assert_array_equal(flat, codes)


@pytest.mark.parametrize("used, unknown", [((1, 1), 0), ((0, 8), 0), ((0, 1), "other"), ((0, 1), "random")])
def test_remap_refuses_what_makes_no_sense(used, unknown):
    with pytest.raises(ValueError, match="remap"):
        quantize.remap_to_used(jnp.zeros(3, jnp.int32), used, 8, unknown)


def test_perplexity_counts_codes_in_use():
    assert np.allclose(quantize.perplexity(jnp.array([0, 1, 2, 3]), 8), (4.0, 4.0))
    assert np.allclose(quantize.perplexity(jnp.zeros((2, 3), jnp.int32), 8), (1.0, 1.0))
    p = np.array([0.75, 0.25])
    assert np.allclose(quantize.perplexity(jnp.array([5, 5, 5, 0]), 8), (np.exp(-(p * np.log(p)).sum()), 2.0))
