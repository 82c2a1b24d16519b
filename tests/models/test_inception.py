"""InceptionV3 against torch-fidelity's, with the same random weights, from pixels to features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import inception, state_dict
from ldm_jax.metrics import moments
from ldm_jax.metrics.features import extract, inception_extractor
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.inception_score import inception_score
from ldm_jax.metrics.kid import kid
from ldm_jax.metrics.precision_recall import precision_recall
from ldm_jax.models.inception import InceptionV3, average_pool
from tests.metrics import fidelity


@pytest.fixture(scope="module")
def template():
    x = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    return jax.eval_shape(lambda x: InceptionV3().init(jax.random.key(0), x), x)["params"]


def random_params(template):
    """Weights that keep the signal's size from layer to layer, and statistics that are not neutral."""
    rng = np.random.default_rng(0)

    def draw(path, a):
        name = path[-1].key
        if name == "kernel":
            return (rng.normal(size=a.shape) * np.sqrt(2 / np.prod(a.shape[:-1]))).astype(np.float32)
        low, high = {"var": (0.5, 1.5), "scale": (0.8, 1.2)}.get(name, (-0.2, 0.2))
        return rng.uniform(low, high, a.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, template)


@pytest.fixture(scope="module")
def both(template):
    """What torch-fidelity's network and ours give for the same 8 images: two {layer: [8, D] float32}."""
    torch = pytest.importorskip("torch")
    params = random_params(template)
    state = state_dict.to_torch(params, inception.entries(template))
    network = fidelity.inception(["2048", "logits_unbiased"], {n: torch.tensor(a) for n, a in state.items()})
    spatial = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: spatial.append(out[:, :7]))
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (8, 64, 48, 3), np.uint8) // rng.integers(1, 5, (8, 1, 1, 1), np.uint8)
    with torch.no_grad():
        pool, logits = network(torch.tensor(images).movedim(-1, 1))
    theirs = {
        "pool": pool.numpy(),
        "logits": logits.numpy(),
        "spatial": spatial[0].movedim(1, -1).reshape(8, -1).numpy(),
    }
    layers = tuple(theirs)
    batches = [
        f for _, f in extract(ArrayImages(images), inception_extractor(params), layers=layers, batch_size=4)
    ]
    return theirs, {layer: np.concatenate([batch[layer] for batch in batches]) for layer in layers}


def test_features_are_torch_fidelitys(both):
    for layer, theirs in both[0].items():
        ours, scale = both[1][layer], np.abs(theirs).max()
        assert ours.shape == theirs.shape and theirs.std() > 0.01 * scale
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * scale, rtol=0, err_msg=layer)


def test_metrics_are_torch_fidelitys_from_pixels_on(both):
    """Its arithmetic on its features against ours on ours, within its own tolerances."""
    torch = pytest.importorskip("torch")
    theirs, ours = both
    x, y = (torch.tensor(part) for part in np.split(theirs["pool"], 2))
    metric = fidelity.load("metric_fid")
    # some of the features: the eigenvalues of a 2048 x 2048 matrix take a minute
    statistics = [metric.fid_features_to_statistics(part[:, :256]) for part in (x, y)]
    expected = metric.fid_statistics_to_metric(*statistics, False)
    gaussians = [moments.of(part).gaussian() for part in np.split(ours["pool"][:, :256], 2)]
    assert fid(*gaussians, allow_few=True) == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    expected = fidelity.load("metric_kid").kid_features_to_metric(
        x, y, kid_subsets=5, kid_subset_size=3, verbose=False
    )
    found, _ = kid(*np.split(ours["pool"], 2), num_subsets=5, subset_size=3)
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    expected = fidelity.load("metric_isc").isc_features_to_metric(torch.tensor(theirs["logits"]), splits=2)
    found, _ = inception_score(ours["logits"], splits=2)
    assert found == pytest.approx(expected["inception_score_mean"], rel=1e-3)
    expected = fidelity.load("metric_prc").prc_features_to_metric(x, y, verbose=False)
    assert precision_recall(*np.split(ours["pool"], 2)) == pytest.approx(
        (expected["precision"], expected["recall"])
    )


def test_parameters_and_layers_are_the_published_ones(template):
    assert sum(np.prod(a.shape) for a in jax.tree.leaves(template)) == 23_885_392
    out = jax.eval_shape(
        lambda p, x: InceptionV3().apply({"params": p}, x), template, jnp.zeros((3, 299, 299, 3))
    )
    assert (out.pool.shape, out.spatial.shape, out.logits.shape) == ((3, 2048), (3, 2023), (3, 1008))


def test_average_pool_does_not_count_borders():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    pooled = average_pool(x)[0, :, :, 0]
    assert pooled[0, 0] == np.mean([0, 1, 3, 4]) and pooled[1, 1] == 4 and pooled[0, 1] == np.mean(range(6))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"got \(1, 256, 256, 3\), expected \[B, 299, 299, 3\]"):
        jax.eval_shape(lambda x: InceptionV3().init(jax.random.key(0), x), jnp.zeros((1, 256, 256, 3)))
