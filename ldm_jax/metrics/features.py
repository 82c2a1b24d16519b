"""From images to feature vectors, on all devices, and from those to what the metrics need, in one pass.

Decides the arithmetic (float32 at the highest precision: no bfloat16 passes, no TF32) and the batches: every device
gets `batch_size` images at a time whatever their number, so that all run the same program; the last batch is filled
up with zeros, whose features are cut off again. Nothing is dropped, nothing is counted twice. Memory does not grow
with the number of images, unless features are kept; those can be kept in a file. It knows no metric's formula.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.metrics import moments
from ldm_jax.metrics.images import Images
from ldm_jax.metrics.inception_score import ScoreSums
from ldm_jax.metrics.moments import Moments
from ldm_jax.metrics.resize import convention
from ldm_jax.models.inception import SIZE, InceptionV3
from ldm_jax.types import Array, PyTree

INCEPTION = "InceptionV3 of 2015-12-05"


class Extractor(NamedTuple):
    """A measuring network.

    name, hash: recorded in statistics files. resize: its convention (resize.CONVENTIONS), or a word for another.
    params: its weights. prepare: (image [H, W, 3] uint8) -> array, on the host. apply: (params, batch of those)
    -> {layer: [B, D] float32}, jitted here.
    """

    name: str
    hash: str
    resize: str
    params: PyTree
    prepare: Callable[[np.ndarray], np.ndarray]
    apply: Callable[[PyTree, Array], dict[str, Array]]


def params_hash(params: PyTree) -> str:
    """Hex digest of the names, shapes and numbers of a tree of arrays (as float32)."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: str(item[0])):
        leaf = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
        digest.update(leaf)
    return digest.hexdigest()


def inception_extractor(params: PyTree, resize: str = "tf1") -> Extractor:
    """InceptionV3 with the layers `pool`, `spatial` and `logits` (models/inception.py).

    params: from convert/inception.py. resize: one of resize.CONVENTIONS, else ValueError.
    """
    how = convention(resize)

    def prepare(image: np.ndarray) -> np.ndarray:
        return how.on_host(image, SIZE) if how.on_host else image

    def apply(params: PyTree, batch: Array) -> dict[str, Array]:
        pixels = how.on_device(batch, SIZE) if how.on_device else batch
        return InceptionV3().apply({"params": params}, (pixels - how.shift) / how.shift)._asdict()

    return Extractor(INCEPTION, params_hash(params), resize, params, prepare, apply)


@functools.lru_cache(maxsize=8)
def _compiled(
    apply: Callable, name: str, layers: tuple[str, ...], devices: tuple[jax.Device, ...]
) -> Callable:
    """(params, batch) -> {layer: features}: the batch is shared among the devices, what comes out is on all of them."""
    mesh = Mesh(np.array(devices), ("images",))
    split, whole = NamedSharding(mesh, PartitionSpec("images")), NamedSharding(mesh, PartitionSpec())

    def forward(params: PyTree, batch: Array) -> dict[str, Array]:
        out = apply(params, batch)
        missing = [layer for layer in layers if layer not in out]
        if missing:
            raise ValueError(f"{name}: layer {missing[0]!r} not found; there are: {', '.join(out)}")
        return {layer: out[layer].astype(jnp.float32) for layer in layers}

    run = jax.jit(forward, in_shardings=(whole, split), out_shardings=whole)

    def call(params: PyTree, local: np.ndarray) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            return run(params, jax.make_array_from_process_local_data(split, local))

    return call


def placed(extractor: Extractor, devices: Sequence[jax.Device] | None = None) -> Extractor:
    """The extractor with its weights on the devices (all there are), so that several passes need not move them."""
    mesh = Mesh(np.array(jax.devices() if devices is None else devices), ("images",))
    return extractor._replace(params=jax.device_put(extractor.params, NamedSharding(mesh, PartitionSpec())))


def _load(
    images: Images, extractor: Extractor, indices: range, rows: int, pool: ThreadPoolExecutor
) -> np.ndarray:
    """The prepared images, with zeros behind them up to `rows`."""

    def read(index: int) -> np.ndarray:
        image = images[index]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"{images.name(index)} is {image.dtype} {image.shape}, expected uint8 [H, W, 3]")
        return extractor.prepare(image)

    prepared = list(pool.map(read, indices))
    # a process whose share of the last batch is empty still needs the shape
    like = prepared[0] if prepared else extractor.prepare(images[0])
    for index, image in zip(indices, prepared, strict=True):
        if image.shape != like.shape:
            name = images.name(index)
            raise ValueError(
                f"{name} has the shape {image.shape}, expected {like.shape} like those before it"
            )
    blank = [np.zeros_like(like)] * (rows - len(prepared))
    return np.stack(prepared + blank)


def _check_finite(images: Images, start: int, features: dict[str, np.ndarray]) -> None:
    for layer, values in features.items():
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise ValueError(f"features ({layer}) of {images.name(start + int(bad[0]))} are not finite")


def extract(
    images: Images,
    extractor: Extractor,
    *,
    layers: Sequence[str] = ("pool",),
    batch_size: int = 32,
    start: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields (indices [n] int64, {layer: [n, D] float32}) for images start, start + 1, ..., each once, in order.

    batch_size: images on each device. devices: all there are by default; their number moves nothing but the speed.
    With several processes each reads its share of every batch, and every one of them is given all the features.
    Raises: ValueError that names the image, for one that cannot be read or whose features are not finite; and for
    a layer that the extractor does not have.
    """
    devices = jax.devices() if devices is None else list(devices)
    run = _compiled(extractor.apply, extractor.name, tuple(layers), tuple(devices))
    params = placed(extractor, devices).params
    size = batch_size * len(devices)
    mine = batch_size * sum(d.process_index == jax.process_index() for d in devices)
    offset = batch_size * sum(d.process_index < jax.process_index() for d in devices)
    with ThreadPoolExecutor(8) as workers, ThreadPoolExecutor(1) as ahead:

        def load(first: int) -> np.ndarray:
            here = range(min(first + offset, len(images)), min(first + offset + mine, len(images)))
            return _load(images, extractor, here, mine, workers)

        starts = range(start, len(images), size)
        coming = ahead.submit(load, start) if starts else None
        for first in starts:
            local = coming.result()
            if first + size < len(images):
                coming = ahead.submit(load, first + size)
            out = run(params, local)
            n = min(size, len(images) - first)
            features = {layer: np.asarray(values.addressable_data(0))[:n] for layer, values in out.items()}
            _check_finite(images, first, features)
            yield np.arange(first, first + n), features


class Collected(NamedTuple):
    """What one pass over a set of images leaves.

    count: images. moments: {layer: Moments}. inception_score: mean and standard deviation, or None. kept: {layer:
    [N, D] float32}, in memory or mapped from a file.
    """

    count: int
    moments: dict[str, Moments]
    inception_score: tuple[float, float] | None
    kept: dict[str, np.ndarray]


def collect(
    images: Images,
    extractor: Extractor,
    *,
    gaussians: Sequence[str] = ("pool",),
    keep: Sequence[str] = (),
    keep_in: str | Path | None = None,
    splits: int | None = None,
    batch_size: int = 32,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Collected:
    """One pass over all images.

    gaussians: layers whose mean and covariance are gathered. keep: layers whose vectors are kept, which KID, precision
    and recall need; keep_in: a folder for them, as one .npy per layer that stays mapped (each
        process needs its own); None keeps them in memory.
    splits: of an Inception score from the layer `logits`; None computes none. progress: called with the number of
    images done, and of all.
    Raises: ValueError as `extract`.
    """
    count = len(images)
    sums = ScoreSums(count, splits) if splits else None
    found: dict[str, Moments] = {}
    kept: dict[str, np.ndarray] = {}
    layers = tuple(dict.fromkeys((*gaussians, *keep, *(("logits",) if splits else ()))))
    for indices, features in extract(
        images, extractor, layers=layers, batch_size=batch_size, devices=devices
    ):
        for layer in gaussians:
            batch = moments.of(features[layer])
            found[layer] = found[layer].merge(batch) if layer in found else batch
        for layer in keep:
            if layer not in kept:
                kept[layer] = _store(keep_in, layer, (count, features[layer].shape[1]))
            kept[layer][indices] = features[layer]
        if sums:
            sums.update(indices, features["logits"])
        progress(int(indices[-1]) + 1, count)
    return Collected(count, found, sums.result() if sums else None, kept)


def _store(folder: str | Path | None, layer: str, shape: tuple[int, int]) -> np.ndarray:
    if folder is None:
        return np.empty(shape, np.float32)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{layer}.npy", "w+", np.float32, shape)
