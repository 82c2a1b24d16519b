"""Nearest neighbors in a user's file of embeddings, and the source `neighbours`: pictures with those of each.

Decides what a data base file is, that it is searched exactly and by what: faiss where it is installed (`pip install
faiss-cpu`), else scikit-learn, else numpy. It embeds nothing: what the numbers are of, CLIP's or another's, is the
user's
business. Source: Blattmann et al. 2022 (arXiv:2204.11824); CompVis/latent-diffusion@a506df5 scripts/knn2img.py and
scripts/train_searcher.py, whose files these are. The original searches larger data bases approximately (ScaNN's tree
and asymmetric hashing from 20,000 entries on); here all of them are compared, which takes longer and misses none.
"""

import hashlib
import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ldm_jax.data import folder

ROWS, QUERIES = 16384, 1024  # compared at a time by numpy: 64 MB of products
Search = Callable[[np.ndarray, int], np.ndarray]  # (queries [B, D], k) -> indices [B, k], best first

log = logging.getLogger(__name__)


class Neighbors:
    """A data base of embeddings.

    embeddings: [N, D] float32, each of length 1. img_id: [N], the picture that each is of (its row where the file does
    not say). search: which of SEARCHES compares them.
    """

    def __init__(self, path: str | Path, search: str | None = None):
        """path: a .npz with `embedding` [N, D] of floats and perhaps img_id [N] (other arrays, as the original's
        patch_coords, are not read), a .npy that is the first, or a folder of such .npz files, joined in the order of
        their names.
        search: a key of SEARCHES; None takes the first that is installed.

        Raises: ValueError for a file that is not there, has no `embedding`, or has a row that is zero or not finite.
        """
        self.path, found = path, _load(path)
        self.embeddings = found["embedding"]
        self.img_id = found.get("img_id", np.arange(len(self)))
        self.search, self._search = _make_search(self.embeddings, search)
        log.info("%r", self)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        return f"neighbours({str(self.path)!r}, {len(self)} embeddings, compared by {self.search})"

    @property
    def width(self) -> int:
        return self.embeddings.shape[1]

    def nearest(
        self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k embeddings of the largest inner product with each query, best first; equal ones in any order.

        queries: [B, width], of any length but zero. exclude: [B], the img_id that is no neighbor of a query: its own,
        in training, with all patches of the picture.
        Returns: (indices [B, k] int64, embeddings [B, k, width] float32).
        Raises: ValueError for no queries or those of another width, queries that are zero or not finite, or a k that
        there are not.
        """
        queries = np.asarray(queries)
        if queries.ndim != 2 or not len(queries) or queries.shape[1] != self.width:
            raise ValueError(f"queries of shape {queries.shape}, expected (batch, {self.width}) as {self!r}")
        queries = _unit(queries, "queries")
        own = np.zeros(len(queries), int) if exclude is None else self._occurrences(exclude, len(queries))
        most = int(own.max())
        if not 1 <= k <= len(self) - most:
            left = f" but for {most} of the query's own picture" if most else ""
            raise ValueError(f"k is {k}, expected 1 to {len(self) - most}, all of {self!r}{left}")
        indices = self._search(queries, k + most).astype(np.int64)
        if most:  # among the best k + most there are k that are not excluded; a stable sort keeps their order
            others = self.img_id[indices] != np.asarray(exclude)[:, None]
            indices = np.take_along_axis(indices, np.argsort(~others, axis=1, kind="stable")[:, :k], axis=1)
        return indices, self.embeddings[indices]

    def _occurrences(self, exclude: np.ndarray, number: int) -> np.ndarray:
        """How many rows each of `exclude` is the img_id of. Raises: ValueError if there is not one per query."""
        exclude = np.asarray(exclude)
        if exclude.shape != (number,):
            raise ValueError(
                f"exclude has shape {exclude.shape}, expected ({number},), one img_id for each query"
            )
        ids, counts = np.unique(self.img_id, return_counts=True)
        at = np.minimum(np.searchsorted(ids, exclude), len(ids) - 1)
        return np.where(ids[at] == exclude, counts[at], 0)


# ----------------------------------------------------------------------------------------------------------- the files


def _load(path: str | Path) -> dict[str, np.ndarray]:
    """{'embedding': [N, D] float32 of length 1, and 'img_id' where every file of `path` has it}."""
    parts = [_read(file) for file in _files(Path(path).expanduser())]
    widths = sorted({part["embedding"].shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(f"{path}: embeddings of {widths} numbers, expected one width in all files")
    everywhere = set.intersection(*map(set, parts))
    found = {name: np.concatenate([part[name] for part in parts]) for name in everywhere}
    return found | {"embedding": _unit(found["embedding"], str(path))}


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(
            f"{path} is not there, expected a .npz or .npy file of embeddings, or a folder of .npz files"
        )
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"folder {path} holds no .npz file")
    return files


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are known here."""
    try:
        with open(path, "rb") as file:
            opened = np.load(file)
            if isinstance(opened, np.ndarray):
                found = {"embedding": opened}
            else:
                known = ("embedding", "img_id")
                found = {name: opened[name] for name in known if name in opened.files}
                if "embedding" not in found:
                    raise ValueError(
                        f"it has no array `embedding`, only {', '.join(opened.files) or 'nothing'}"
                    )
        embedding = found["embedding"]
        if embedding.ndim != 2 or not embedding.size or embedding.dtype.kind != "f":
            raise ValueError(
                f"embeddings of shape {embedding.shape} and {embedding.dtype}, expected (N, D) of floats"
            )
        for name, array in found.items():
            if array.ndim == 0 or len(array) != len(embedding):
                raise ValueError(
                    f"{name} has shape {array.shape}, expected one entry for each of {len(embedding)} embeddings"
                )
        if "img_id" in found and found["img_id"].ndim != 1:
            raise ValueError(f"img_id has shape {found['img_id'].shape}, expected ({len(embedding)},)")
    except Exception as error:  # noqa: BLE001 - a damaged file makes numpy raise nearly anything
        raise ValueError(f"{path} cannot be read as embeddings: {error}") from error
    return found


def _unit(rows: np.ndarray, what: str) -> np.ndarray:
    """rows [B, D], each brought to length 1, float32. Raises: ValueError for one that is zero or not finite."""
    rows = np.ascontiguousarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if wrong.size:
        raise ValueError(f"{what}: row {wrong[0]} is zero or not finite, as {wrong.size} of {len(rows)} are")
    return rows / lengths


# ---------------------------------------------------------------------------------------------------------- the search


def _faiss(embeddings: np.ndarray) -> Search:
    import faiss

    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings)
    return lambda queries, k: index.search(queries, k)[1]


def _sklearn(embeddings: np.ndarray) -> Search:
    """By Euclidean distance, which between vectors of length 1 is in the order of inner products."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(algorithm="brute", metric="euclidean").fit(embeddings)
    return lambda queries, k: index.kneighbors(queries, k, return_distance=False)


def _numpy(embeddings: np.ndarray) -> Search:
    def best(queries: np.ndarray, k: int) -> np.ndarray:
        scores, found = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(embeddings), ROWS):
            products = queries @ embeddings[start : start + ROWS].T
            index = np.broadcast_to(start + np.arange(products.shape[1]), products.shape)
            scores, found = np.concatenate([scores, products], 1), np.concatenate([found, index], 1)
            if scores.shape[1] > k:
                keep = np.argpartition(scores, -k, axis=1)[:, -k:]
                scores, found = (np.take_along_axis(a, keep, 1) for a in (scores, found))
        return np.take_along_axis(found, np.argsort(-scores, axis=1, kind="stable"), 1)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        parts = [best(queries[start : start + QUERIES], k) for start in range(0, len(queries), QUERIES)]
        return np.concatenate(parts)

    return search


SEARCHES = {"faiss": _faiss, "scikit-learn": _sklearn, "numpy": _numpy}


def _make_search(embeddings: np.ndarray, name: str | None) -> tuple[str, Search]:
    """(its name, the search). Raises: ValueError for one that is unknown or not installed."""
    if name is not None and name not in SEARCHES:
        raise ValueError(f"search {name!r} not found; there are: {', '.join(SEARCHES)}")
    for candidate in SEARCHES if name is None else (name,):
        try:
            return candidate, SEARCHES[candidate](embeddings)
        except ImportError as error:
            missing = error
    raise ValueError(f"search {name!r} is not installed ({missing}); leave it out to take one that is")


# ---------------------------------------------------------------------------------------------------------- the source


class NeighborsSource:
    """The pictures of a folder, each with `embeddings` [k, D] float32: those of its nearest neighbors, best first."""

    def __init__(self, pictures: folder.FolderSource, database: Neighbors, indices: np.ndarray):
        self.pictures, self.database, self.indices = pictures, database, indices

    def __len__(self) -> int:
        return len(self.pictures)

    def __repr__(self) -> str:
        return f"{self.pictures!r} with {self.indices.shape[1]} of {self.database!r}"

    def __getitem__(self, index: int) -> dict:
        """Raises: as FolderSource."""
        example = self.pictures[index]
        while self.pictures.is_missing(index):  # the next one stood in for it
            index = (index + 1) % len(self)
        return example | {"embeddings": self.database.embeddings[self.indices[index]]}

    def unreadable_files(self) -> list[folder.Entry]:
        return self.pictures.unreadable_files()

    def fingerprint(self) -> str:
        """Hex digest of the pictures' and of which neighbors each has, with their embeddings."""
        digest = hashlib.sha256(self.pictures.fingerprint().encode())
        digest.update(self.indices.tobytes())
        digest.update(memoryview(self.database.embeddings).cast("B"))
        return digest.hexdigest()


def source(
    split: str,
    *,
    root: str | Path,
    embeddings: str | Path,
    database: str | Path | None = None,
    k: int = 4,
    min_side: int | None = None,
    holdout: float = 0.0,
    split_folders: bool | None = None,
    known: Sequence[folder.Entry] = (),
) -> NeighborsSource:
    """The pictures of a folder with the neighbors that a retrieval-augmented model is trained with.

    split, root, min_side, holdout, split_folders, known: as of data/folder.py.
    embeddings: a file as Neighbors takes, with one row for each picture of the split, in the order of their paths.
    database: where the neighbors come from; None or '' is `embeddings` itself, and then no picture is its own
    neighbor.
    k: how many; 4 is the paper's. All are found when the source is opened, by len(source) * len(database) comparisons.

    Raises: as folder.source and Neighbors; ValueError for another number of rows than pictures.
    """
    listing = dict(min_side=min_side, holdout=holdout, split_folders=split_folders, known=known)
    pictures = folder.source(split, root=root, **listing)
    if not str(embeddings):
        raise ValueError("data.embeddings is empty, expected a file with one embedding for each picture")
    base = Neighbors(database or embeddings)
    queries = _load(embeddings)["embedding"] if database else base.embeddings
    if len(queries) != len(pictures):
        raise ValueError(
            f"{embeddings} has {len(queries)} rows, expected {len(pictures)}, one for each picture of {pictures!r}"
        )
    indices, _ = base.nearest(queries, k, exclude=None if database else base.img_id)
    return NeighborsSource(pictures, base, indices)


if __name__ == "__main__":  # the command is of a room above this one
    importlib.import_module("ldm_jax.commands.neighbours").console()
