"""Pictures of a layout whose boxes are painted on a canvas, for models that are told one.

Decides that a box is what goes around a stroke, and that the layout is JSON that a user may also write.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.tasks import boxes, labels, run
from ldm_jax.web import given

TITLE, PLACE = "Layout", 8


def offered(page: Any) -> bool:
    return run.can(page.model.system, "layout")


def read(text: str) -> dict[str, Any]:
    """{'boxes': [[x0, y0, w, h], …], 'labels': [name or number, …]} of JSON. Raises: ValueError for anything else."""
    try:
        layout = json.loads(text or "{}")
    except ValueError:
        layout = None
    known = isinstance(layout, Mapping) and set(layout) <= {"boxes", "labels"}
    found = (layout.get("boxes", []), layout.get("labels", [])) if known else (None, None)
    if not all(isinstance(each, list) for each in found) or len(found[0]) != len(found[1]):
        raise ValueError(
            'the layout is no JSON of as many boxes as labels: {"boxes": [[x, y, w, h]], "labels": ["cat"]}'
        )
    return {"boxes": found[0], "labels": found[1]}


def added(text: str, box: Sequence[float], label: str) -> str:
    """The layout as JSON, with a box more."""
    layout = read(text)
    return json.dumps({"boxes": [*layout["boxes"], list(box)], "labels": [*layout["labels"], label]})


def draw(
    model: Any, text: str, seeds: Sequence[int], guidance_scale: float | None, steps: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """(pictures [N, H, W, 3] uint8, the first [512, 512, 3] with the boxes that the model was told of).

    Raises: ValueError for a layout that the model cannot be told.
    """
    names = model.config.get("class_names")
    layout = labels.layout(read(text), names)
    options = given.sampling(model, guidance_scale, steps)
    drawn = model.sample(seeds=seeds, layouts=[layout] * len(seeds), **options)
    return drawn, boxes.draw(drawn[0], labels.told(model.system, layout, names), names)


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web.page import canvas as canvas_of
    from ldm_jax.web.page import of_seeds

    blank = np.full((512, 512, 3), 40, np.uint8)
    with gr.Row():
        with gr.Column():
            canvas = canvas_of("Paint one thing, choose its class, add its box; then the next", 30, blank)
            label = page.class_label()
            add = gr.Button("Add its box")
            text = gr.Textbox("", label="Layout, as JSON", lines=3)
        with gr.Column():
            guidance, seed, number, steps = page.guidance(), page.seed(), page.number(), page.steps()
            button = gr.Button("Draw", variant="primary")
            pictures = page.gallery()
            shown = gr.Image(label="The first, with its boxes", format="png", interactive=False)

    def boxed(canvas, layout: str, class_label: str):
        return added(layout, given.box(given.painted(canvas)), class_label), blank

    def drawn(layout: str, seed: float, pictures: float, guidance_scale: float, steps: float):
        seeds = given.seeds(seed, pictures)
        images, first = draw(page.model, layout, seeds, guidance_scale, int(steps))
        return of_seeds(images, seeds), first

    page.on(add, boxed, [canvas, text, label], [text, canvas], "add_box")
    page.on(button, drawn, [text, seed, number, guidance, steps], [pictures, shown], "layout")
