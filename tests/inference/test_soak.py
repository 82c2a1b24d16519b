"""A service for a while: 1,000 calls from 8 threads, of several sizes and numbers of pictures, among them one for which
there is no memory and one that is interrupted. Every picture is that of the same call alone, nothing is compiled once
each kind of call was drawn, and memory does not grow.

    python -m pytest -n 0 -m slow -s tests/inference/test_soak.py
"""

import _thread
import gc
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.system import make_system
from tests.tiny_models import random_params

CALLS, THREADS = 1000, 8
WORDS = ["a", "red", "blue", "circle", "square"]
CONFIG = dict(
    task="diffusion", image_size=16, first_stage=dict(name="identity"),
    model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1, 2], num_res_blocks=1, num_heads=2,
               attention_levels=[1], transformer_depth=1, context_dim=8, num_groups=4),
    conditioning=dict(name="text", width=8, num_layers=1, max_length=6, num_heads=2, head_dim=4,
                      tokenizer=dict(name="word_level", words=WORDS, max_length=6)),
    schedule=dict(name="linear", num_timesteps=1000), prediction_type="v",
)  # fmt: skip


def exhaust(done: int, total: int) -> None:
    """The progress of a call, in the middle of which there is no memory: 4 terabytes."""
    jnp.zeros((2**21, 2**21), jnp.uint8).block_until_ready()


def requests(number: int) -> list[dict]:
    """Calls of every kind in turn, each with a prompt, seeds and a guidance scale of its own."""
    found = []
    for i in range(number):
        count = (1, 2, 3, 4)[i % 4]
        prompts = [f"a {WORDS[1 + (i + j) % 2]} {WORDS[3 + (i // 2 + j) % 2]}" for j in range(count)]
        options = dict(
            image_shape=((16, 16), (16, 24), (24, 16))[i % 3], sampler=("ddim", "euler")[i // 12 % 2]
        )
        found.append(
            dict(
                prompts=prompts,
                seeds=list(range(i, i + count)),
                num_steps=2,
                guidance_scale=1.5 + i % 5,
                **options,
            )
        )
    return found


def resident() -> float:
    """MiB that this process holds."""
    gc.collect()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return LatentDiffusion(system, random_params(system), 1.0, CONFIG)


class Service:
    """Threads that take calls from one list until it is empty."""

    def __init__(self, model, calls: list[tuple[dict, np.ndarray]]):
        self.model, self.left, self.lock = model, list(calls), threading.Lock()
        self.drawn, self.wrong, self.interrupted = 0, [], 0

    def work(self) -> None:
        while True:
            with self.lock:
                if not self.left:
                    return
                call, expected = self.left.pop()
            try:
                picture = self.model.sample(**call)
            except KeyboardInterrupt:  # what it was drawing is drawn once more
                self.interrupted += 1
                with self.lock:
                    self.left.append((call, expected))
                continue
            except Exception as error:  # noqa: BLE001 - told of below
                self.wrong.append(repr(error))
                continue
            with self.lock:
                self.drawn += 1
            if not np.array_equal(picture, expected):
                self.wrong.append(f"another picture for {call}")

    def run(self, beside) -> None:
        """All calls, one of the threads being this one; `beside` runs in another thread."""
        threads = [threading.Thread(target=self.work) for _ in range(THREADS - 1)]
        threads.append(threading.Thread(target=beside, args=(self,)))
        for thread in threads:
            thread.start()
        self.work()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_service_draws_what_each_call_draws_alone(model):
    kinds = [(call, model.sample(**call)) for call in requests(48)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED|[Mm]emory"):
        model.sample(**kinds[0][0], progress=exhaust)
    calls = [kinds[i % len(kinds)] for i in range(CALLS)]
    Service(model, calls[:100]).run(lambda service: None)
    compiled, before, failed = model.num_compiled, resident(), []

    def faults(service: Service) -> None:
        while service.drawn < CALLS // 4 and not service.wrong:
            time.sleep(0.001)
        try:
            model.sample(**kinds[0][0], progress=exhaust)
        except jax.errors.JaxRuntimeError as error:
            failed.append(str(error))
        while service.drawn < CALLS // 2 and not service.wrong:
            time.sleep(0.001)
        _thread.interrupt_main()

    service, start = Service(model, calls), time.time()
    service.run(faults)
    after = resident()
    print(
        f"\n| calls | threads | s | other pictures | no memory | interrupted | compiled since | MiB before | after |"
        f"\n|---|---|---|---|---|---|---|---|---|\n| {service.drawn} | {THREADS} | {time.time() - start:.0f} | "
        f"{len(service.wrong)} | {len(failed)} | {service.interrupted} | {model.num_compiled - compiled} | "
        f"{before:.0f} | {after:.0f} |"
    )
    assert not service.wrong and service.drawn == CALLS
    assert len(failed) == 1 and service.interrupted == 1
    assert model.num_compiled == compiled
    assert abs(after - before) < 0.05 * before
