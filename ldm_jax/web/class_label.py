"""Pictures of a class, for models that are told one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.tasks import labels, run
from ldm_jax.web import given

TITLE, PLACE = "Class", 7


def offered(page: Any) -> bool:
    return run.can(page.model.system, "class") and "prompts" not in page.model.system.takes


def draw(
    model: Any, class_label: str, seeds: Sequence[int], guidance_scale: float | None, steps: int | None
) -> np.ndarray:
    """[N, H, W, 3] uint8. class_label: a name of the model's config, a number, or 'red circle:0.5,blue square:0.5'.

    Raises: ValueError for a name that it does not have.
    """
    label = labels.class_label(class_label, model.config.get("class_names"))
    options = given.sampling(model, guidance_scale, steps)
    return model.sample(seeds=seeds, class_labels=[label] * len(seeds), **options)


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web.page import of_seeds

    with gr.Row():
        with gr.Column():
            label = page.class_label()
            guidance, seed, number, steps = page.guidance(), page.seed(), page.number(), page.steps()
            button = gr.Button("Draw", variant="primary")
        with gr.Column():
            pictures = page.gallery()

    def drawn(class_label: str, seed: float, pictures: float, guidance_scale: float, steps: float):
        seeds = given.seeds(seed, pictures)
        return of_seeds(draw(page.model, class_label, seeds, guidance_scale, int(steps)), seeds)

    page.on(button, drawn, [label, seed, number, guidance, steps], pictures, "class")
