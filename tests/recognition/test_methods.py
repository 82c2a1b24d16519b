"""What each method makes of maps and features that are known."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.find import find, names
from ldm_jax.recognition import clusters, correspondence, daam, diffseg, label_efficient
from ldm_jax.recognition.base import Found, Shown

SIDE = 8  # cells; pictures have 2 pixels for each


def shown(number=1, **told):
    return Shown(np.zeros((number, 2 * SIDE, 2 * SIDE, 3), np.float32), **told)


@pytest.mark.parametrize("name", names("recognition"))
def test_every_file_has_what_the_seam_asks_for(name):
    module = find("recognition", name)
    assert module.LEVELS and all(0 <= level <= 1 for level in module.LEVELS)
    if hasattr(module, "solve"):
        own, asked = (
            [p.name for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY]
            for f in (module.given, module.recognize)
        )
        assert own == asked
        return
    for shape in ((16, 16, 4), (64, 96, 4)):
        assert module.NOISES >= 1 and module.reads(shape) == module.reads(shape)


# -------------------------------------------------------------------------------------------------------- DiffSeg


def blocks() -> np.ndarray:
    """[SIDE * SIDE] int: four quarters of a picture."""
    half = np.arange(SIDE) >= SIDE // 2
    return (2 * half[:, None] + half).ravel()


def planted() -> np.ndarray:
    """[1, 1, SIDE, SIDE, SIDE, SIDE]: each cell looks at the cells of its own quarter, all alike."""
    same = (blocks()[:, None] == blocks()).astype(np.float32)
    return (same / same.sum(1, keepdims=True)).reshape(1, 1, SIDE, SIDE, SIDE, SIDE)


def test_planted_segments_are_found():
    labels = diffseg.recognize({"attention": planted()}, shown(), threshold=0.5).labels[0]
    truth = blocks().reshape(SIDE, SIDE).repeat(2, 0).repeat(2, 1)
    pairs = set(zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True))
    assert labels.shape == truth.shape and len(pairs) == 4


@pytest.mark.parametrize(("threshold", "number"), [(np.inf, 1), (0.0, SIDE * SIDE)])
def test_all_is_one_segment_or_each_anchor_is_its_own(threshold, number):
    apart = np.eye(SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE, SIDE, SIDE)
    labels = diffseg.recognize({"attention": apart}, shown(), threshold=threshold).labels
    assert len(np.unique(labels)) == number


def test_the_divergence_is_the_mean_of_both_directions():
    a, b = np.random.default_rng(0).dirichlet(np.ones(5), (2, 3))
    table = [[((p - q) * np.log(p / q)).sum() / 2 for q in b] for p in a]
    np.testing.assert_allclose(diffseg.divergence(a, b), table, rtol=1e-6)


def test_maps_of_several_sizes_become_one():
    rng = np.random.default_rng(0)
    fine, coarse = (jnp.asarray(rng.dirichlet(np.ones(n), (2, n)), jnp.float32) for n in (16, 4))
    found = diffseg.gather({"a/self": fine, "b/self": coarse}, (8, 8, 4))["attention"]
    assert found.shape == (2, 4, 4, 4, 4)
    np.testing.assert_allclose(found.sum((3, 4)), 1, rtol=1e-5)
    alone = diffseg.gather({"a/self": fine}, (8, 8, 4))["attention"]
    np.testing.assert_allclose(alone.reshape(2, 16, 16), fine, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- DAAM


def test_the_map_of_a_word_is_the_mean_of_its_tokens():
    read = np.zeros((1, 2, SIDE, SIDE, 4), np.float32)
    read[:, :, 2:4, 5:7, 1], read[:, :, 2:4, 5:7, 2] = 0.2, 0.4
    told = dict(words=[[("circle", [1, 2]), ("cut", [])]], find=lambda i, word: {"circle": [1, 2]}[word])
    ((name, values),) = daam.recognize({"maps": read}, shown(**told)).maps[0]
    assert name == "circle"
    np.testing.assert_allclose(values[2:4, 5:7], 0.3, rtol=1e-6)
    labels = daam.recognize({"maps": read}, shown(**told), word="circle").labels[0]
    truth = np.zeros((SIDE, SIDE), int)
    truth[2:4, 5:7] = 1
    large = truth.repeat(2, 0).repeat(2, 1)
    assert (labels[4:8, 10:14] == 1).all() and labels.sum() <= 1.6 * large.sum()  # bicubic enlarges softly


def test_cross_attention_of_several_sizes_becomes_one():
    fine, coarse = jnp.full((1, 64, 3), 0.2), jnp.full((1, 16, 3), 0.6)
    found = daam.gather({"a/cross": fine, "b/cross": coarse}, (8, 8, 4))["maps"]
    np.testing.assert_allclose(found, np.full((1, 8, 8, 3), 0.4), rtol=1e-5)


def test_a_threshold_out_of_range():
    with pytest.raises(ValueError, match="daam: threshold is 2, expected a number from 0 to 1"):
        daam.recognize({"maps": np.zeros((1, 1, 4, 4, 2))}, shown(), threshold=2)


# ------------------------------------------------------------------------------------------------ correspondence


def test_points_are_found_where_their_features_went():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(SIDE, SIDE, 32)).astype(np.float32)
    moved = np.roll(first, (1, 2), (0, 1))
    points = [(5.0, 7.0), (9.0, 3.0)]  # middles of cells, which have 2 pixels
    read = {"features": np.stack([first, moved])[:, None]}
    found = correspondence.recognize(read, shown(2), points=points).points
    np.testing.assert_array_equal(found[0], points)
    np.testing.assert_allclose(found[1] - found[0], [(4, 2), (4, 2)], atol=1)  # a pixel's middle


def test_features_between_cells_are_linear():
    y, x = np.meshgrid(np.arange(4.0), np.arange(6.0), indexing="ij")
    features = np.stack([x, y], -1)  # of 4 x 6 cells, of a picture of 16 x 24
    points = np.asarray([(2.0, 2.0), (9.0, 5.0), (22.0, 14.0)])
    found = correspondence.at_points(features, points, (16, 24))
    np.testing.assert_allclose(found, points / 4 - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "said"),
    [([], "expected pairs"), ([(1, 2, 3)], "expected pairs"), ([(3, 16)], r"\(3.0, 16.0\) lies outside")],
)
def test_points_that_cannot_be(points, said):
    with pytest.raises(ValueError, match=f"correspondence: .*{said}"):
        correspondence.recognize({"features": np.ones((1, 1, 4, 4, 2))}, shown(), points=points)


# ----------------------------------------------------------------------------------------------- label-efficient


def test_what_features_tell_apart_is_learned_from_one_picture():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (3, SIDE, SIDE))
    features = (np.eye(3)[truth] + 0.05 * rng.normal(size=(3, SIDE, SIDE, 3))).astype(np.float32)
    told = Shown(np.zeros((3, SIDE, SIDE, 3), np.float32))
    read = {"a/trunk": features[:, None], "b/trunk": features[:, None, ::2, ::2]}
    found = label_efficient.recognize(read, told, labels=[truth[0]], num_steps=150).labels
    assert found.shape == truth.shape and (found == truth).mean() > 0.97


def test_undecided_pixels_are_told_apart_with_a_penalty_of_entropy():
    """Its values are the formula's, and a pool of pixels between two classes ends on one side."""
    logits = np.asarray([[0.0, 0.0], [2.0, 0.0]])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    h = -(p * np.log(p)).sum(1) / np.log(2)
    np.testing.assert_allclose(label_efficient.undecided(jnp.asarray(logits)), (h**2 + 1e-6) ** 2, rtol=1e-5)
    rng = np.random.default_rng(0)
    x, y = np.repeat([[-1.0], [1.0]], 50, 0) + 0.1 * rng.normal(size=(100, 1)), np.repeat([0, 1], 50)
    free = (0.1 + 0.3 * rng.normal(size=(60, 1))).astype(np.float32)

    def left(entropy):
        voters = label_efficient.train(x.astype(np.float32), y, 2, 100, 0, free, entropy)
        return float(
            jax.vmap(lambda w: label_efficient.undecided(clusters.apply(w, free)).mean())(voters).mean()
        )

    assert left(1.0) < 0.7 * left(0.0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "got labels of 0 pictures, expected those of the first 1 to 1"),
        ([np.zeros((4, 4), int)], r"labels of picture 0 are int64 of \(4, 4\), expected integers"),
        ([np.full((16, 16), -1)], "expected integers of 0 or more"),
        ([np.zeros((16, 16), int)], "the labels know one class alone"),
    ],
)
def test_labels_that_cannot_be(labels, said):
    with pytest.raises(ValueError, match=f"label_efficient: .*{said}"):
        label_efficient.recognize({"a/trunk": np.ones((1, 1, 4, 4, 2))}, shown(), labels=labels)


def test_a_result_has_what_the_method_is_for():
    assert Found().maps is Found().labels is Found().points is None
