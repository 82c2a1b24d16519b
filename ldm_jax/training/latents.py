"""The latents of a data set: the factor that scales them, and a file of all their moments.

Statistics are over all examples, accumulated in float64, so that they depend on neither batch nor host. A file of
moments records the first stage and the data that it was made from.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax import atomic
from ldm_jax.atomic import write_json
from ldm_jax.data import pipeline
from ldm_jax.models.latent_scale import LatentScale

log = logging.getLogger(__name__)


# What a workdir's latents.json says, by which it is told from a damaged one.
RECORD = {"first_stage": str, "data": str, "mean": list, "std": list, "scale_factor": (int, float)}


class LatentStatistics(NamedTuple):
    """scale_factor: 1 / std of all latents together. mean, std: per channel. number: of examples."""

    scale_factor: float
    mean: list[float]
    std: list[float]
    number: int


def used(config: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """{'scale_factor'}, and 'latents_mean' and 'latents_std' [c] where there is a scale per channel: what the config
    gives, and of what it does not give, what is measured.

    measured: the fields of LatentStatistics. With config.per_channel_latents those of the channels are taken, and the
    factor is 1 unless the config gives one, which is then the latents' deviation.
    """
    factor = config.get("scale_factor")
    if config.get("latents_mean") is not None:
        mean, std = config["latents_mean"], config.get("latents_std")
    elif config.get("per_channel_latents"):
        mean, std = measured["mean"], measured["std"]
    else:
        return {"scale_factor": factor or measured["scale_factor"]}
    return {"scale_factor": factor or 1.0, "latents_mean": mean, "latents_std": std}


def scale_shapes(config: Mapping[str, Any], channels: int) -> LatentScale:
    """The LatentScale of a run, of jax.ShapeDtypeStructs: before anything is measured."""
    each = None
    if config.get("per_channel_latents") or config.get("latents_mean") is not None:
        each = jax.ShapeDtypeStruct((channels,), np.float32)
    return LatentScale(jax.ShapeDtypeStruct((), np.float32), each, each)


class _Sums:
    """Streaming sums of z = mean + std * noise, whose variance the posterior's own is part of."""

    def __init__(self):
        self.count, self.number, self.first, self.second = 0, 0, 0.0, 0.0

    def add(self, encoded: np.ndarray, has_variance: bool) -> None:
        values = encoded.astype(np.float64)
        mean, variance = values, 0.0
        if has_variance:
            mean, logvar = np.split(values, 2, axis=-1)
            variance = np.exp(np.clip(logvar, -30.0, 20.0))
        self.number += len(mean)
        self.count += mean[..., 0].size
        self.first = self.first + mean.sum((0, 1, 2))
        self.second = self.second + (mean**2 + variance).sum((0, 1, 2))

    def statistics(self) -> LatentStatistics:
        mean = self.first / self.count
        std = np.sqrt(self.second / self.count - mean**2)
        total = np.sqrt((self.second / self.count).mean() - mean.mean() ** 2)
        return LatentStatistics(float(1.0 / total), mean.tolist(), std.tolist(), self.number)


def measure(batches: Iterable[dict], encode: Callable, has_variance: bool) -> LatentStatistics:
    """LatentStatistics of encode(images [B,H,W,C]) over `batches` of 'image' and 'valid' [B] bool.

    encode: -> moments [B,h,w,2c] if has_variance, else latents [B,h,w,c].
    """
    sums = _Sums()
    for batch in batches:
        sums.add(np.asarray(encode(batch["image"]))[batch["valid"]], has_variance)
    return sums.statistics()


def precompute(
    path: Path, batches: Iterable[dict], number: int, encode: Callable, has_variance: bool, made_of: dict
) -> LatentStatistics:
    """Writes what `encode` gives for `number` images, in order, as float32 to path (.npy) and `made_of` and the
    statistics to path with .json. Both are renamed into place when they are whole."""
    sums, done, start, stored = _Sums(), 0, time.time(), None
    with atomic.writing(path) as partial:
        for i, batch in enumerate(batches):
            encoded = np.asarray(encode(batch["image"]))[batch["valid"]]
            if stored is None:
                needed, free = number * encoded[0].nbytes, shutil.disk_usage(partial.parent).free
                if needed > free:
                    raise OSError(
                        f"no space left: {path} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
                    )
                stored = np.lib.format.open_memmap(partial, "w+", np.float32, (number, *encoded.shape[1:]))
            stored[done : done + len(encoded)] = encoded
            sums.add(encoded, has_variance)
            done += len(encoded)
            if i % 50 == 0:
                log.info("encoded %d of %d images, %.0f images/s", done, number, done / (time.time() - start))
        stored.flush()
    statistics = sums.statistics()
    write_json(path.with_suffix(".json"), dict(made_of, **statistics._asdict()))
    return statistics


class MomentsSource:
    """A source of examples with `moments` [h,w,2c] float32 and the given `fields` of the examples of `source`.

    Random captions and the fingerprint come from `source`. Its examples are read only if a field is needed that random
    captions do not replace.
    """

    def __init__(self, source, moments: np.ndarray, fields: Iterable[str] = ()):
        if len(source) != len(moments):
            raise ValueError(
                f"{len(moments)} stored latents, expected {len(source)}, one per example of {source!r}"
            )
        self.source, self.moments = source, moments
        self.fields = set(fields)
        can = pipeline.abilities(source)
        self.caption, self.described, self.segments = can.caption, can.described, can.segments
        if can.caption:
            self.fields -= {"caption"}

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return f"moments of {self.source!r}"

    def __getitem__(self, index: int) -> dict:
        moments = {"moments": np.asarray(self.moments[index])}
        if not self.fields:
            return moments
        return moments | {k: v for k, v in self.source[index].items() if k in self.fields}

    def fingerprint(self) -> str:
        return self.source.fingerprint()
