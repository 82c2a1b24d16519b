"""A picture drawn anew towards a prompt, from part of its noise on (SDEdit)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.tasks import run
from ldm_jax.web import given

TITLE, PLACE = "Image to image", 2


def offered(page: Any) -> bool:
    return run.can(page.model.system, "text") and run.can(page.model.system, "img2img")


def draw(
    model: Any,
    image: np.ndarray | None,
    prompt: str,
    strength: float,
    seeds: Sequence[int],
    guidance_scale: float | None,
    steps: int | None,
) -> np.ndarray:
    """[N, H, W, 3] uint8. image: [H, W, 3] uint8 of any size. Raises: ValueError where there is none."""
    if image is None:
        raise ValueError("there is no picture, expected one to be uploaded or drawn first")
    start = given.fitted(image, model.system.image_shape)
    options = given.sampling(model, guidance_scale, steps)
    return model.sample([prompt] * len(seeds), seeds, init_images=[start], strength=strength, **options)


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web import text
    from ldm_jax.web.page import of_seeds, picture

    with gr.Row():
        with gr.Column():
            image = picture("Picture")
            with gr.Row():
                first, first_seed = page.prompt("To begin with"), page.seed("Its seed")
            begin = gr.Button("Draw one to begin with")
            prompt = page.prompt(value="a large green triangle")
            strength = gr.Slider(0.05, 0.95, 0.6, step=0.05, label="Strength")
            guidance, seed, number, steps = page.guidance(), page.seed(), page.number(), page.steps()
            button = gr.Button("Draw", variant="primary")
        with gr.Column():
            pictures = page.gallery()

    def begun(prompt: str, seed: float):
        return text.draw(page.model, prompt, "", given.seeds(seed, 1), None, None)[0]

    def drawn(
        image, prompt: str, strength: float, seed: float, pictures: float, guidance_scale: float, steps: float
    ):
        seeds = given.seeds(seed, pictures)
        return of_seeds(draw(page.model, image, prompt, strength, seeds, guidance_scale, int(steps)), seeds)

    page.on(begin, begun, [first, first_seed], image, "begin")
    inputs = [image, prompt, strength, seed, number, guidance, steps]
    page.on(button, drawn, inputs, pictures, "image_to_image")
