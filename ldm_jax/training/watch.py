"""Monitoring of a run: where its time goes, norms of its state, and losses by timestep over many steps.

None of it makes the training loop wait for the devices: times are taken on the host, sums stay on the devices until
they are logged, and metrics of the whole state are computed only then. Figures are written elsewhere.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import grid
from ldm_jax.distributed import parallel
from ldm_jax.training.state import TrainState, global_norm
from ldm_jax.types import Array, PyTree

APART = ("compile", "pictures", "evaluation", "profile")  # not counted in the speed of training
GIB = 2**30
SHOWN = ("loss", "total_loss", "rec_loss")  # of the metrics, on the console
SLOW_DATA = 0.1  # the share of time above which waiting for data is worth a word
log = logging.getLogger(__name__)


def preview(images: np.ndarray) -> np.ndarray:
    """[..., C] float in [-1, 1] -> uint8, as grid.to_uint8, but black where a number is not finite: a run that draws
    such a preview may well go on, and is stopped by its metrics if it may not."""
    finite = np.isfinite(images)
    if not finite.all():
        log.warning("what is previewed is not finite, and black there")
    return grid.to_uint8(np.where(finite, images, -1.0))


class Times(NamedTuple):
    """steps done, and the seconds that went by meanwhile, by what they went into; together they are the wall time."""

    steps: int
    seconds: Mapping[str, float]

    @property
    def training(self) -> float:
        """Seconds without those of APART: the devices' work, waiting for data, saving, logging."""
        return sum(seconds for what, seconds in self.seconds.items() if what not in APART)

    @property
    def steps_per_second(self) -> float:
        """Of the seconds that were spent on training."""
        return self.steps / max(self.training, 1e-9)

    def share(self, what: str) -> float:
        """The part of the seconds spent on training that went into `what`, 0 to 1."""
        return self.seconds.get(what, 0.0) / max(self.training, 1e-9)

    def per_step(self) -> dict[str, float]:
        """{'seconds_per_step/data': …} for everything that took time; their sum is the wall time per step."""
        return {f"seconds_per_step/{what}": value / self.steps for what, value in self.seconds.items()}


class Stopwatch:
    """Adds up seconds by what they went into. now: a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now, self._since, self._seconds = now, now(), {}

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """The block's time goes into `what`. Blocks are not nested."""
        start = self._now()
        try:
            yield
        finally:
            self._seconds[what] = self._seconds.get(what, 0.0) + self._now() - start

    def lap(self, steps: int) -> Times:
        """The times since the last lap, during which `steps` were done; time outside all blocks is 'other'."""
        now = self._now()
        seconds, whole = self._seconds, now - self._since
        self._since, self._seconds = now, {}
        return Times(steps, seconds | {"other": whole - sum(seconds.values())})


class Sums:
    """Sums over steps of those metrics that are tables [2, N] of sums and counts, added up on the devices."""

    def __init__(self):
        self._sums: dict[str, Array] = {}
        self._add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def add(self, metrics: Mapping[str, Array]) -> None:
        tables = {name: value for name, value in metrics.items() if value.ndim}
        self._sums = self._add(self._sums, tables) if self._sums else tables

    def take(self) -> dict[str, Array]:
        """The sums since it was last called."""
        sums, self._sums = self._sums, {}
        return sums


def means(name: str, table: Any) -> dict[str, float]:
    """{'name/0.0': the mean in the first of N bins, …}, named by where a bin begins; one without an example is left
    out.

    table: [2, N], sums and counts.
    """
    sums, counts = table
    bins = len(sums)
    return {f"{name}/{i / bins:.1f}": float(sums[i] / counts[i]) for i in range(bins) if counts[i] > 0}


def averaged(state: TrainState) -> PyTree:
    """The parameters that state.ema_params are the average of: the autoencoder's of a first stage, all of a second."""
    return state.params.get("autoencoder", state.params)


def state_metrics(state: TrainState) -> dict[str, Array]:
    """param_norm: the euclidean norm of `averaged`. ema_distance: that of ema_params - params, in units of it. Both []
    float32; the second only where there is an average."""
    params = averaged(state)
    found = {"param_norm": global_norm(params)}
    if state.ema_params is not None:
        apart = jax.tree.map(lambda e, p: e - p.astype(jnp.float32), state.ema_params, params)
        found["ema_distance"] = global_norm(apart) / jnp.maximum(found["param_norm"], 1e-30)
    return found


def compile_state_metrics(placement: parallel.Placement) -> Callable[[TrainState], dict[str, Array]]:
    """`state_metrics` of a state placed by `placement`, as its own program. All processes have to call it."""
    return jax.jit(state_metrics, out_shardings=placement.replicated)


def memory(devices: Any = None) -> dict[str, float]:
    """GiB of the fullest of this host's devices: memory/in_use_gib now, memory/peak_gib at most so far,
    memory/limit_gib.

    {} where a backend does not say, as the CPU's. It asks the allocator, and waits for nothing.
    """
    names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}
    told = [device.memory_stats() or {} for device in (jax.local_devices() if devices is None else devices)]
    return {
        f"memory/{name}_gib": max(stats[key] for stats in told) / GIB
        for name, key in names.items()
        if all(key in stats for stats in told)
    }


def scalars(
    config: Mapping[str, Any], values: Mapping[str, float], times: Times, mfu: float | None
) -> dict[str, float]:
    """values, and what is known of the run's speed: images_per_second, mfu (0 to 1), seconds_per_step/…, and
    time/data_wait, the part of the time in which the devices had no batch."""
    speed = {
        "images_per_second": times.steps_per_second * config["batch_size"],
        "time/data_wait": times.share("data"),
    }
    if mfu is not None:
        speed["mfu"] = mfu
    return {**values, **speed, **times.per_step()}


def line(
    config: Mapping[str, Any], done: int, values: Mapping[str, float], times: Times, mfu: float | None
) -> str:
    """The step, the loss, images/s, MFU where it is known, the share of waiting for data where it is large, and the
    time left."""
    total = config["total_steps"]
    parts = [f"step {done}/{total}", *(f"{name} {values[name]:.4g}" for name in SHOWN if name in values)]
    parts.append(f"{times.steps_per_second * config['batch_size']:.1f} images/s")
    if mfu is not None:
        parts.append(f"MFU {100 * mfu:.1f} %")
    if times.share("data") > SLOW_DATA:
        parts.append(f"waiting for data {100 * times.share('data'):.0f} %")
    minutes, seconds = divmod(int((total - done) / times.steps_per_second), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return "  ".join([*parts, f"{left} left"])
