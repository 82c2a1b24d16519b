"""Trains next to nothing, alone or beside other processes, with a fault of its own: a process of
tests/commands/test_train_faults.py and tests/test_faults.py.

python -m tests.faulty_process data --config tests/tiny_first_stage.py --workdir /tmp/x --coordinator … --process_id 1
"""

import os
import resource
import signal
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints import train_state
from ldm_jax.commands import train
from ldm_jax.data import shapes
from ldm_jax.training import first_stage_job, loop
from ldm_jax.training.examples import open_source
from ldm_jax.training.state import TrainState

EXAMPLES = 40  # that are read before data or the machine fail
BYTES = 100_000  # of the largest file that a full disk has room for
PACE = 0.05  # seconds that a batch takes, where somebody watches
SAVING = 3.0  # seconds that a slow save takes

pace = {"seconds": 0.0}


def job(config, workdir, placement) -> loop.TrainingJob:
    """A model of numbers that say nothing, of which each process writes a part that cannot be compressed."""
    source, crop = open_source(config), first_stage_job.image_transform(config)

    def step(state, frozen, batch, seed):
        loss = placement.average(batch["image"].mean())
        return state.replace(step=state.step + 1, params={"x": state.params["x"] + loss}), {"loss": loss}

    x = np.random.default_rng(0).normal(size=2**17).astype(np.float32)
    return loop.TrainingJob(
        state=TrainState(jnp.zeros((), jnp.int32), {"x": jnp.asarray(x)}, None, None),
        step=step,
        frozen={},
        batches=paced(
            first_stage_job.batches_of(config, source, lambda e, rng: {"image": crop(e["image"], rng)})
        ),
        drawn=lambda state: state.params,
        preview=lambda params: {},
        learning_rate=lambda step: 1.0,
        fingerprint=source.fingerprint(),
    )


def paced(batches):
    def given(start):
        for batch in batches(start):
            time.sleep(pace["seconds"])
            yield batch

    return given


def watched() -> None:
    pace["seconds"] = PACE


def slow_saves() -> None:
    watched()
    result = train_state._Told.result

    def slowly(self, timeout=None):
        time.sleep(SAVING)
        return result(self, timeout)

    train_state._Told.result = slowly


def when_read(fail) -> None:
    """fail() is called in a thread of the loader, after EXAMPLES."""
    read, count = shapes.ShapesSource.__getitem__, iter(range(10**9))

    def failing(self, index):
        if next(count) >= EXAMPLES:
            fail()
        return read(self, index)

    shapes.ShapesSource.__getitem__ = failing


def compiles_for_minutes() -> None:
    """The step has a thousand sorts of its own."""

    def long(config, workdir, placement) -> loop.TrainingJob:
        made = job(config, workdir, placement)

        def step(state, frozen, batch, seed):
            x = batch["image"].reshape(-1)[:4000]
            for i in range(1000):
                x = jnp.sort(x * (i + 1), stable=bool(i % 2)) - x[::-1]
            state, metrics = made.step(state, frozen, batch, seed)
            return state, metrics | {"loss": metrics["loss"] + placement.average(x.mean())}

        return made._replace(step=step)

    train.JOBS["first_stage"] = long


def disk_on_fire() -> None:
    raise OSError("disk on fire")


FAULTS = {
    "none": lambda: None,
    "watched": watched,
    "compiling": compiles_for_minutes,
    "slow saves": slow_saves,
    "data": lambda: when_read(disk_on_fire),
    "disk": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES)),
    "killed": lambda: when_read(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "late": lambda: time.sleep(10**6),
}


def main() -> None:
    train.JOBS["first_stage"] = job
    FAULTS[sys.argv.pop(1)]()
    ended = threading.Timer(
        280, os._exit, (77,)
    )  # a hang: jax notices within two minutes that a process is gone
    ended.daemon = True
    ended.start()
    nothing = SimpleNamespace(write_scalars=lambda *_: None, write_images=lambda *_: None, close=lambda: None)
    train.writers.make = lambda config, workdir: nothing
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    cli.console(train.main)


if __name__ == "__main__":
    main()
