"""Pictures of a prompt, one for each seed, and where in the first of them each word is seen."""

from typing import Any

import numpy as np

from ldm_jax.tasks import run, sheet
from ldm_jax.web import given

TITLE, PLACE = "Text", 0


def offered(page: Any) -> bool:
    return run.can(page.model.system, "text")


def draw(
    model: Any, prompt: str, negative: str, seeds: Any, guidance_scale: float | None, steps: int | None
) -> np.ndarray:
    """[N, H, W, 3] uint8, what LatentDiffusion.sample draws. negative: what guidance leads away from; '' is nothing."""
    away = [negative] * len(seeds) if negative and given.is_guided(model) else None
    return model.sample(
        [prompt] * len(seeds), seeds, negative_prompts=away, **given.sampling(model, guidance_scale, steps)
    )


def seen(model: Any, image: np.ndarray, prompt: str, seed: int) -> list[tuple[np.ndarray, str]]:
    """[(a picture [H, W, 3] uint8 with the map of a word over it, the word)] by DAAM; none of a model without
    cross-attention, and of a prompt without words."""
    if not model.system.unet.context_dim or not prompt.strip():
        return []
    found = model.analyze(image, prompt, "daam", [seed]).found
    return [(sheet.heat(values, image), word) for word, values in found.maps[0]]


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web.page import of_seeds

    with gr.Row():
        with gr.Column():
            prompt, negative = page.prompt(), page.prompt("Without", "")
            guidance, seed = page.guidance(), page.seed()
            number, steps = page.number(), page.steps()
            button = gr.Button("Draw", variant="primary")
        with gr.Column():
            pictures = page.gallery()
            words = page.gallery("Where each word is seen in the first picture")

    def drawn(prompt: str, without: str, seed: float, pictures: float, guidance_scale: float, steps: float):
        seeds = given.seeds(seed, pictures)
        images = draw(page.model, prompt, without, seeds, guidance_scale, int(steps))
        return of_seeds(images, seeds), seen(page.model, images[0], prompt, seeds[0])

    page.on(button, drawn, [prompt, negative, seed, number, guidance, steps], [pictures, words], "text")
