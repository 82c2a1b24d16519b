"""Adapters that the command was given, each with a slider for its weight, and the model without them beside.

Decides that a weight is merged into the parameters before a picture is drawn, which compiles nothing.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.checkpoints import adapters as adapter_files
from ldm_jax.checkpoints.bundle import Bundle
from ldm_jax.inference import pipeline
from ldm_jax.personalization.base import new_conditions
from ldm_jax.tasks import run
from ldm_jax.web import given, text

TITLE, PLACE = "Adapters", 6
MOST = 1.5  # weight on a slider


class Adapted:
    """A model with adapters whose weights change from call to call. asked: 'PATH' or 'PATH:WEIGHT' each. executables:
    as of pipeline.from_bundle.

    Raises: ValueError for what is no adapter of this model, and for one that is told a picture, which the page has no
    place for.
    """

    def __init__(self, bundle: Bundle, asked: Sequence[str], executables: str | Path | None = None):
        parsed = [adapter_files.parse(one) for one in asked]
        self.bundle, self.names = bundle, [path for path, _ in parsed]
        self.adapters = [adapter_files.read(path, model=bundle) for path, _ in parsed]
        for path, adapter in zip(self.names, self.adapters, strict=True):
            if new_conditions(adapter.section):
                raise ValueError(
                    f"adapter {path} is told a picture, which the page has no place for: see sample.py"
                )
        self.weights = tuple(weight for _, weight in parsed)
        self.model = pipeline.from_bundle(self._merged(self.weights), executables)
        self._now, self._lock = self.weights, threading.Lock()

    def _merged(self, weights: Sequence[float]) -> Bundle:
        return adapter_files.applied(self.bundle, list(zip(self.adapters, weights, strict=True)))

    def draw(self, weights: Sequence[float], *asked) -> np.ndarray:
        """[N, H, W, 3] uint8: text.draw with these weights; asked: its arguments after the model."""
        weights = tuple(map(float, weights))
        with self._lock:
            if weights != self._now:
                self.model.place(self.model.system.in_compute_dtype(self._merged(weights).params))
                self._now = weights
            return text.draw(self.model, *asked)


def offered(page: Any) -> bool:
    return page.adapted is not None and run.can(page.adapted.model.system, "text")


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web.page import of_seeds

    adapted = page.adapted
    with gr.Row():
        with gr.Column():
            prompt = page.prompt()
            sliders = [
                gr.Slider(-MOST, max(MOST, weight), weight, step=0.05, label=f"Weight of {name}")
                for name, weight in zip(adapted.names, adapted.weights, strict=True)
            ]
            guidance, steps = page.guidance(adapted.model), page.steps(adapted.model)
            seed, number = page.seed(), page.number()
            button = gr.Button("Draw", variant="primary")
        with gr.Column():
            pictures, plain = page.gallery("With the adapters"), page.gallery("Without")

    def drawn(prompt: str, seed: float, pictures: float, guidance_scale: float, steps: float, *weights):
        seeds = given.seeds(seed, pictures)
        asked = (prompt, "", seeds, guidance_scale, int(steps))
        none = [0.0] * len(weights)
        return [of_seeds(adapted.draw(each, *asked), seeds) for each in (weights, none)]

    page.on(button, drawn, [prompt, seed, number, guidance, steps, *sliders], [pictures, plain], "adapters")
