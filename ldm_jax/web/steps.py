"""The film strip of one picture: what the network takes for the clean picture at steps of the run."""

from typing import Any

import numpy as np

from ldm_jax import grid
from ldm_jax.tasks import run
from ldm_jax.web import given

TITLE, PLACE = "Denoising", 5
SHOWN = 8  # of a run's steps


def offered(page: Any) -> bool:
    return run.can(page.model.system, "text")


def strip(
    model: Any, prompt: str, seed: int, guidance_scale: float | None, steps: int | None
) -> list[tuple[np.ndarray, str]]:
    """[(picture [H, W, 3] uint8, caption)]: SHOWN predictions of the clean picture, evenly over the steps, and what is
    drawn in the end."""
    seen: dict[int, tuple[float, np.ndarray]] = {}

    def watch(step) -> None:
        seen[step.index] = step.t, step.x_start[0]

    options = given.sampling(model, guidance_scale, steps)
    last = model.sample([prompt], [seed], callback=watch, batch_size=1, **options)[0]
    at = sorted(seen)
    at = [at[i] for i in np.linspace(0, len(at) - 1, SHOWN).round().astype(int)]
    shown = grid.to_uint8(model.decode(np.stack([seen[i][1] for i in at])))
    strip = {i: (image, f"step {i + 1}, t = {seen[i][0]:g}") for i, image in zip(at, shown, strict=True)}
    return [*strip.values(), (last, "drawn")]


def tab(page: Any) -> None:
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1):
            prompt, guidance, seed, steps = page.prompt(), page.guidance(), page.seed("Seed"), page.steps()
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2):
            pictures = page.gallery("From noise to the picture", columns=3)

    def drawn(prompt: str, seed: float, guidance_scale: float, steps: float):
        return strip(page.model, prompt, given.seeds(seed, 1)[0], guidance_scale, int(steps))

    page.on(button, drawn, [prompt, seed, guidance, steps], pictures, "denoising")
