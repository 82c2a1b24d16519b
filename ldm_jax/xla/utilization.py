"""Model FLOPs utilization (MFU): model FLOPs per second (without rematerialization) over the devices' peak.

It decides which devices have a known peak; without one, as on a CPU, no MFU is given. The FLOPs of a step are counted
by dry_run.training_flops. Source: Chowdhery et al. 2022 (PaLM), appendix B.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ldm_jax.xla.tpu_slices import CHIPS

log = logging.getLogger(__name__)

# What a jax device's device_kind says, as libtpu and CUDA name them -> bfloat16 FLOP/s, dense, of one device.
PEAKS = {
    "TPU v4": CHIPS["v4"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5e": CHIPS["v5e"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
    "TPU v6e": CHIPS["v6e"].peak_flops,
    # NVIDIA's data sheets, half of the figures with sparsity.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989.5e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA H200": 989.5e12,
}


def peak_flops(devices: Sequence[Any]) -> float | None:
    """bfloat16 FLOP/s of all devices together; None where one of them is not among PEAKS."""
    peaks = [PEAKS.get(device.device_kind) for device in devices]
    return None if None in peaks else sum(peaks)


class Utilization:
    """(steps per second) -> MFU, 0 to 1, or None where it is not known, or not yet.

    count: () -> FLOPs of one step over the whole batch. Tracing a large model takes seconds, so that a thread counts
    them, once,
    from the first call on. devices: all that train.
    """

    def __init__(self, count: Callable[[], float], devices: Sequence[Any] | None = None):
        self._count, self._flops, self._thread = count, None, None
        self._peak = peak_flops(jax.devices() if devices is None else devices)

    def __call__(self, steps_per_second: float) -> float | None:
        if self._peak is None:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="flops")
            self._thread.start()
        return self._flops and self._flops * steps_per_second / self._peak

    def _work(self) -> None:
        try:
            self._flops = self._count()
        except Exception as error:  # noqa: BLE001 - a figure less, and no reason to stop a run
            log.warning("no MFU, as the FLOPs of a step cannot be counted: %s", error)
