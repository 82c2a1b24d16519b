"""A hole that is painted with a brush, filled by a prompt; everything else stays to the byte."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.tasks import run
from ldm_jax.web import given

TITLE, PLACE = "Inpainting", 3


def offered(page: Any) -> bool:
    return "prompts" in page.model.system.takes and run.can(page.model.system, "inpaint")


def draw(
    model: Any,
    image: np.ndarray,
    hole: np.ndarray,
    prompt: str,
    seeds: Sequence[int],
    guidance_scale: float | None,
    steps: int | None,
) -> np.ndarray:
    """[N, H, W, 3] uint8. image: [H, W, 3] uint8 of any size. hole: [H, W] bool of the same, True where it is filled.

    Raises: ValueError for a hole that is the whole picture, or vanishes at the model's size.
    """
    shape = model.system.image_shape
    known, mask = given.fitted(image, shape), given.fitted(hole, shape)
    if not mask.any() or mask.all():
        raise ValueError("the hole is nothing or all of the picture, expected a part of it")
    told: dict[str, Any] = dict(init_images=[known], fill_masks=[mask])
    if "masks" in model.system.takes:
        told = dict(images=[known] * len(seeds), masks=[mask] * len(seeds))
    return model.sample([prompt] * len(seeds), seeds, **told, **given.sampling(model, guidance_scale, steps))


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web import text
    from ldm_jax.web.page import canvas as canvas_of
    from ldm_jax.web.page import of_seeds

    draws = run.can(page.model.system, "text")
    with gr.Row():
        with gr.Column():
            canvas = canvas_of("Upload or draw a picture, and paint over what is to be filled")
            with gr.Row(visible=draws):
                first, first_seed = page.prompt("To begin with"), page.seed("Its seed")
            begin = gr.Button("Draw one to begin with", visible=draws)
        with gr.Column():
            prompt = page.prompt(value="a large green triangle")
            guidance, seed, number, steps = page.guidance(), page.seed(), page.number(), page.steps()
            button = gr.Button("Fill", variant="primary")
            pictures = page.gallery()

    def begun(prompt: str, seed: float):
        return given.enlarged(text.draw(page.model, prompt, "", given.seeds(seed, 1), None, None)[0])

    def drawn(canvas, prompt: str, seed: float, pictures: float, guidance_scale: float, steps: float):
        image, hole = given.background(canvas), given.painted(canvas)
        seeds = given.seeds(seed, pictures)
        return of_seeds(draw(page.model, image, hole, prompt, seeds, guidance_scale, int(steps)), seeds)

    if draws:
        page.on(begin, begun, [first, first_seed], canvas, "begin_to_paint")
    page.on(button, drawn, [canvas, prompt, seed, number, guidance, steps], pictures, "inpaint")
