"""What a run says of the steps that it has done: figures for TensorBoard, and one line for the console. Nothing is
written here."""

from collections.abc import Mapping
from typing import Any

from ldm_jax.training.watch import Times

SHOWN = ("loss", "total_loss", "rec_loss")  # of the metrics, on the console
SLOW_DATA = 0.1  # the share of time above which waiting for data is worth a word


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
