"""Neighbors against an argsort over all products, by each search that is installed; files, exclusions, the source."""

import builtins
import importlib.util

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import neighbours, pipeline
from ldm_jax.data.neighbours import Neighbors

N, D = 300, 12
MODULES = {"faiss": "faiss", "scikit-learn": "sklearn", "numpy": "numpy"}
INSTALLED = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(N, D)) * RNG.uniform(0.1, 10, (N, 1))  # of many lengths
QUERIES = RNG.normal(size=(7, D)) * 5
UNIT = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
RANKED = np.argsort(-QUERIES @ UNIT.T, axis=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("db") / "db.npz"
    np.savez(path, embedding=EMBEDDINGS, img_id=np.arange(N) // 3, patch_coords=np.zeros((N, 4)))
    return path


def test_every_search_is_told_here():
    assert set(neighbours.SEARCHES) == set(MODULES)


@pytest.mark.parametrize("search", [*INSTALLED, None])
@pytest.mark.parametrize("k", [1, 11, N])
def test_the_nearest_are_those_of_an_argsort(file, search, k, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 64)  # in several pieces, of which the last is smaller
    monkeypatch.setattr(neighbours, "QUERIES", 3)
    database = Neighbors(file, search)
    indices, found = database.nearest(QUERIES, k)
    np.testing.assert_array_equal(indices, RANKED[:, :k])
    np.testing.assert_allclose(found, UNIT[RANKED[:, :k]], rtol=1e-5, atol=1e-6)
    assert indices.dtype == np.int64 and found.dtype == np.float32
    assert database.search == (search or INSTALLED[0]) and database.search in repr(database)
    assert (len(database), database.width) == (N, D)


@pytest.mark.parametrize("search", INSTALLED)
@pytest.mark.parametrize("k", [1, 5, N - 3])
def test_the_pictures_own_patches_are_left_out_and_no_others(file, search, k):
    database = Neighbors(file, search)
    own = np.array([0, 5, 99, 1000, 7, 7, 50])  # no row is of 1000
    indices, _ = database.nearest(QUERIES, k, exclude=own)
    for i in range(len(QUERIES)):
        np.testing.assert_array_equal(indices[i], [j for j in RANKED[i] if j // 3 != own[i]][:k])


def test_without_ids_each_row_is_its_own_picture(tmp_path):
    np.save(tmp_path / "db.npy", EMBEDDINGS.astype(np.float16))
    database = Neighbors(tmp_path / "db.npy")
    np.testing.assert_array_equal(database.nearest(EMBEDDINGS[:20], 1)[0][:, 0], np.arange(20))
    indices, _ = database.nearest(EMBEDDINGS, 3, exclude=np.arange(N))
    products = UNIT @ UNIT.T
    np.fill_diagonal(products, -2)
    chosen = np.take_along_axis(products, indices, 1)  # float16 may swap neighbors that are equally near
    np.testing.assert_allclose(chosen, -np.sort(-products, axis=1)[:, :3], atol=2e-3)
    assert not (indices == np.arange(N)[:, None]).any()


def test_a_folder_is_joined_in_the_order_of_names(tmp_path):
    ids = np.array([f"picture {i:03d}" for i in range(N)])
    for name, rows in {"b": slice(100, N), "a": slice(0, 100)}.items():
        np.savez(tmp_path / f"{name}.npz", embedding=EMBEDDINGS[rows], img_id=ids[rows])
    database = Neighbors(tmp_path)
    np.testing.assert_allclose(database.embeddings, UNIT, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(database.img_id, ids)
    first = RANKED[:, 0]
    np.testing.assert_array_equal(database.nearest(QUERIES, 1, exclude=ids[first])[0][:, 0], RANKED[:, 1])
    np.savez(tmp_path / "c.npz", embedding=EMBEDDINGS[:, :5])
    with pytest.raises(ValueError, match=r"embeddings of \[5, 12\] numbers, expected one width"):
        Neighbors(tmp_path)


def test_what_is_not_installed_is_passed_over(file, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] in ("faiss", "sklearn"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert Neighbors(file).search == "numpy"
    with pytest.raises(ValueError, match="search 'faiss' is not installed"):
        Neighbors(file, "faiss")


BAD = {
    "width.npz": dict(embedding=EMBEDDINGS[0]),
    "integers.npz": dict(embedding=np.ones((3, 4), int)),
    "empty.npz": dict(embedding=np.zeros((0, 4))),
    "none.npz": dict(embeddings=EMBEDDINGS),
    "ids.npz": dict(embedding=EMBEDDINGS, img_id=np.arange(5)),
    "pairs.npz": dict(embedding=EMBEDDINGS, img_id=np.zeros((N, 2))),
    "nan.npz": dict(embedding=np.where(np.arange(N)[:, None] == 5, np.nan, EMBEDDINGS)),
    "zero.npz": dict(embedding=np.where(np.arange(N)[:, None] > 297, 0, EMBEDDINGS)),
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.npz", "is not there, expected a .npz or .npy file"),
        ("width.npz", r"embeddings of shape \(12,\) and float64, expected \(N, D\) of floats"),
        ("integers.npz", "int64, expected"),
        ("empty.npz", r"shape \(0, 4\)"),
        ("none.npz", "has no array `embedding`, only embeddings"),
        ("ids.npz", r"img_id has shape \(5,\), expected one entry for each of 300"),
        ("pairs.npz", r"img_id has shape \(300, 2\), expected \(300,\)"),
        ("nan.npz", "nan.npz: row 5 is zero or not finite, as 1 of 300 are"),
        ("zero.npz", "row 298 is zero or not finite, as 2 of 300 are"),
        ("text.npz", "text.npz cannot be read as embeddings"),
        ("folder", "holds no .npz file"),
    ],
)
def test_files_that_are_no_data_base(tmp_path, name, message):
    if name in BAD:
        np.savez(tmp_path / name, **BAD[name])
    (tmp_path / "text.npz").write_text("embedding")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=message):
        Neighbors(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k=0), "k is 0, expected 1 to 300"),
        (dict(k=N + 1), "k is 301, expected 1 to 300"),
        (
            dict(k=N - 2, exclude=np.arange(7)),
            "expected 1 to 297, all of .* but for 3 of the query's own picture",
        ),
        (dict(exclude=np.arange(6)), r"exclude has shape \(6,\), expected \(7,\)"),
        (dict(queries=QUERIES[:, :5]), r"queries of shape \(7, 5\), expected \(batch, 12\)"),
        (dict(queries=QUERIES[:0]), r"queries of shape \(0, 12\)"),
        (dict(queries=QUERIES[0]), r"queries of shape \(12,\)"),
        (dict(queries=QUERIES * np.nan), "queries: row 0 is zero or not finite"),
    ],
)
def test_questions_that_have_no_answer(file, options, message):
    with pytest.raises(ValueError, match=message):
        Neighbors(file).nearest(**(dict(queries=QUERIES, k=2) | options))
    with pytest.raises(ValueError, match="search 'annoy' not found; there are: faiss"):
        Neighbors(file, "annoy")


# ---------------------------------------------------------------------------------------------------------- the source


@pytest.fixture
def pictures(tmp_path):
    """Four pictures in a folder, and unit vectors near the axes: 0 and 2 belong together, and 1 and 3."""
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    vectors = np.array([[1, 0, 0.1], [0, 1, 0.1], [1, 0, 0.2], [0, 1, 0.2]])
    np.save(tmp_path / "own.npy", vectors)
    np.savez(tmp_path / "db.npz", embedding=np.eye(3))
    return tmp_path, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_no_picture_is_its_own_neighbor(pictures):
    root, vectors = pictures
    source = pipeline.open_source("neighbours", "train", root=root, embeddings=root / "own.npy", k=1)
    for i, other in enumerate([2, 3, 0, 1]):
        example = source[i]
        assert example["image"][0, 0, 0] == i
        np.testing.assert_allclose(example["embeddings"], vectors[[other]], atol=1e-6)


def test_neighbors_come_from_another_data_base(pictures):
    root, _ = pictures
    options = dict(root=root, embeddings=root / "own.npy", database=root / "db.npz")
    source = pipeline.open_source("neighbours", "train", **options, k=2)
    for i, axes in enumerate([[0, 2], [1, 2], [0, 2], [1, 2]]):
        np.testing.assert_array_equal(source[i]["embeddings"], np.eye(3)[axes])
    fewer = pipeline.open_source("neighbours", "train", **options, k=1)
    assert source.fingerprint() != fewer.fingerprint()


def test_a_picture_that_stands_in_for_another_brings_its_own_neighbors(pictures):
    root, vectors = pictures
    (root / "1.png").write_bytes(b"damaged")
    source = pipeline.open_source("neighbours", "train", root=root, embeddings=root / "own.npy", k=1)
    example = source[1]
    assert example["image"][0, 0, 0] == 2
    np.testing.assert_allclose(example["embeddings"], vectors[[0]], atol=1e-6)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [("", "data.embeddings is empty"), ("db.npz", "has 3 rows, expected 4, one for each picture of folder")],
)
def test_a_source_whose_embeddings_are_not_the_pictures(pictures, embeddings, message):
    root, _ = pictures
    with pytest.raises(ValueError, match=message):
        neighbours.source("train", root=root, embeddings=root / embeddings if embeddings else "", k=1)
