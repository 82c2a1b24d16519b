"""The metrics, what each needs, and their values with confidence intervals, computed from one row per image.

A row is what an extractor's layer, the shapes oracle or CLIP gives for one image; rows lie in arrays named
'extractor.layer' (store.py), mapped from a file, and are read in blocks. It knows no file and no checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.metrics import bootstrap, moments, precision_recall
from ldm_jax.metrics.fid import check_enough, distance_to, warning
from ldm_jax.metrics.inception_score import ScoreSums
from ldm_jax.metrics.kid import kid
from ldm_jax.metrics.moments import Gaussian

BLOCK = 4096  # rows at a time
ENOUGH_SHAPES = 5000  # rendered scenes measure 5.1 with 72 of them, 1.4 with 300; the bias falls as 1 / N


class Metric(NamedTuple):
    """rows: the array it is made of. dim: of a row whose covariance is needed, else 0. reference: 'statistics' where a
    mean and a covariance do, 'images' where every row is needed, None. prompts: whether images need their captions."""

    rows: str
    dim: int = 0
    reference: str | None = None
    prompts: bool = False


METRICS = {
    "fid": Metric("inception.pool", 2048, "statistics"),
    "sfid": Metric("inception.spatial", 2023, "statistics"),
    "is": Metric("inception.logits"),
    "kid": Metric("inception.pool", reference="images"),
    "precision": Metric("inception.pool", reference="images"),
    "recall": Metric("inception.pool", reference="images"),
    "clip_score": Metric("clip.embedding", prompts=True),
    "shapes_fid": Metric("shapes.pool", 64, "statistics"),
    "accuracy": Metric("oracle.right", prompts=True),
}


def parse(text: str | Sequence[str]) -> tuple[str, ...]:
    """'fid,is' -> ('fid', 'is'). Raises: ValueError for an unknown metric; it lists the known ones."""
    names = text.split(",") if isinstance(text, str) else text
    names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metric {name!r} not found; there are: {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"metrics: got none; there are: {', '.join(METRICS)}")
    return names


def layers(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{extractor: its layers} that the metrics are made of."""
    found: dict[str, list[str]] = {}
    for name in names:
        extractor, layer = METRICS[name].rows.split(".")
        found.setdefault(extractor, []).append(layer)
    return {extractor: tuple(dict.fromkeys(of)) for extractor, of in found.items()}


def check_counts(names: Sequence[str], count: int, allow_few: bool) -> None:
    """Raises: ValueError before anything is drawn, for a number of images that a metric cannot be made of."""
    for name in names:
        if METRICS[name].dim and not allow_few:
            check_enough(name, "generated", count, METRICS[name].dim)


class Settings(NamedTuple):
    """What the numbers depend on beside the rows.

    splits: of the Inception score. k: the neighbor of precision and recall. kid_subsets, kid_size: the random subsets
    of
    KID. resamples: of the bootstrap, 0 for none. seed: of all that is drawn. allow_few: a covariance of too few rows.
    """

    splits: int = 10
    k: int = 3
    kid_subsets: int = 100
    kid_size: int = 1000
    resamples: int = 50
    seed: int = 0
    allow_few: bool = False


def _blocks(rows: np.ndarray, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(indices), BLOCK):
        chosen = indices[start : start + BLOCK]
        yield chosen, np.asarray(rows[chosen])


def gaussian(rows: np.ndarray, indices: np.ndarray | None = None) -> Gaussian:
    """The mean and covariance of rows [N, D], or of those that indices [n] name, with repetitions."""
    indices = np.arange(len(rows)) if indices is None else np.sort(indices)
    return moments.accumulate(block for _, block in _blocks(rows, indices)).gaussian()


def _score(logits: np.ndarray, indices: np.ndarray, splits: int) -> tuple[float, float]:
    sums = ScoreSums(len(indices), splits)
    for start in range(0, len(indices), BLOCK):
        chosen = indices[start : start + BLOCK]
        sums.update(np.arange(start, start + len(chosen)), logits[chosen])
    return sums.result()


def _with_interval(of: Callable[[np.ndarray], float], count: int, settings: Settings) -> dict[str, float]:
    """{'value', and 'low', 'high', 'standard_error' where a bootstrap was asked for}."""
    if not settings.resamples:
        return {"value": float(of(np.arange(count)))}
    found = bootstrap.interval(of, count, settings.resamples, seed=settings.seed)
    return {name: v for name, v in found._asdict().items() if name != "level"}


def _mean(values: np.ndarray, settings: Settings) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    return _with_interval(lambda indices: values[indices].mean(), len(values), settings)


def _frechet(name: str, rows: np.ndarray, reference: Gaussian, settings: Settings) -> dict[str, float]:
    dim = len(reference.mean)
    if rows.shape[1] != dim:
        raise ValueError(
            f"{name}: {rows.shape[1]} features against {dim}, the reference's statistics are of another extractor"
        )
    if not settings.allow_few:
        check_enough(name, "generated", len(rows), dim)
        check_enough(name, "reference", reference.count, dim)
    distance = distance_to(reference)
    found = _with_interval(lambda indices: distance(gaussian(rows, indices)), len(rows), settings)
    return found | {"num_images": len(rows), "num_reference": reference.count}


def _balls(name: str, generated: np.ndarray, reference: np.ndarray, k: int) -> np.ndarray:
    """Whether each generated row lies on the reference's manifold ('precision'), or the other way round ('recall')."""
    queries, centers = (generated, reference) if name == "precision" else (reference, generated)
    return precision_recall.coverage(queries, centers, precision_recall.squared_radii(centers, k))


class Reference(NamedTuple):
    """gaussians: {'inception.pool': …}, for each array whose statistics are known. rows: {'inception.pool': [M, D]}
    where there are images, else {}. name: for messages."""

    gaussians: Mapping[str, Gaussian]
    rows: Mapping[str, np.ndarray]
    name: str


def check_reference(names: Sequence[str], reference: Reference | None, has_images: bool) -> None:
    """Raises: ValueError for a metric that needs a reference, or more of it than there is. has_images: whether it will
    have rows once they are gathered."""
    for name in names:
        metric = METRICS[name]
        if metric.reference is None or has_images:
            continue
        if reference is None:
            raise ValueError(
                f"metric {name!r} compares with a reference: name a folder or statistics with --reference"
            )
        if metric.reference == "images":
            raise ValueError(
                f"metric {name!r} needs the reference's images, and {reference.name} is a file of "
                f"statistics: name a folder"
            )
        if metric.rows not in reference.gaussians:
            raise ValueError(
                f"metric {name!r} needs statistics of {metric.rows}, and {reference.name} has: "
                f"{', '.join(reference.gaussians) or 'none'}"
            )


def compute(
    names: Sequence[str],
    rows: Mapping[str, np.ndarray],
    reference: Reference | None,
    settings: Settings,
    captions: np.ndarray | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, float]]:
    """{metric: {'value', …}}, what else is known of each beside it (low, high, standard_error, standard deviation, N).

    rows: {'inception.pool': [N, D]} and so on. captions: [N, D], CLIP's embeddings of the images' captions.
    Raises: ValueError for a metric that cannot be made of these.
    """
    from ldm_jax.metrics.clip_score import clip_scores

    found: dict[str, dict[str, float]] = {}
    for name in names:
        progress(name)
        own = rows[METRICS[name].rows]
        if METRICS[name].reference == "statistics":
            found[name] = _frechet(name, own, reference.gaussians[METRICS[name].rows], settings)
        elif name == "is":
            splits = min(settings.splits, len(own))
            value = _with_interval(lambda i, own=own, s=splits: _score(own, i, s)[0], len(own), settings)
            found[name] = value | {
                "std_over_splits": _score(own, np.arange(len(own)), splits)[1],
                "splits": splits,
            }
        elif name == "kid":
            other = reference.rows[METRICS[name].rows]
            size = min(settings.kid_size, len(own), len(other))
            mean, std = kid(own, other, settings.kid_subsets, size)
            found[name] = {"value": mean, "std_over_subsets": std, "subset_size": size}
        elif name in ("precision", "recall"):
            inside = _balls(name, own, reference.rows[METRICS[name].rows], settings.k)
            found[name] = _mean(inside, settings) | {"k": settings.k}
        elif name == "clip_score":
            found[name] = _mean(clip_scores(own, captions), settings)
        else:
            found[name] = _mean(own, settings)
    return found


def by_number(name: str, rows: np.ndarray, reference: Gaussian) -> list[tuple[float, float]]:
    """(N, Frechet distance of the first N rows), N doubling up to all: how much of the number is the bias of few
    images."""
    distance = distance_to(reference)
    sizes = [len(rows) // part for part in (8, 4, 2, 1) if len(rows) // part > METRICS[name].dim]
    return [(float(n), distance(gaussian(rows, np.arange(n)))) for n in sizes]


def warnings(names: Sequence[str], count: int) -> list[str]:
    """Warnings to print beside the values for `count` images."""
    said = [warning(count).replace("FID", name, 1) for name in names if name in ("fid", "sfid")]
    if "shapes_fid" in names and count < ENOUGH_SHAPES:
        said.append(f"shapes_fid of {count} images: biased upwards, compares at equal N only")
    return [text for text in said if text]
