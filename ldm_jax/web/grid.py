"""One prompt with several guidance scales and seeds: a row for each scale, a column for each seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax.tasks import run, sheet
from ldm_jax.web import given

TITLE, PLACE = "Seeds by guidance", 1
MOST = 6  # scales


def offered(page: Any) -> bool:
    return run.can(page.model.system, "text") and given.is_guided(page.model)


def scales(text: str) -> list[float]:
    """'1.5, 3, 5' as numbers. Raises: ValueError for others than 1 to MOST numbers from 1 to 100."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not 1 <= len(found) <= MOST or not all(1 <= scale <= 100 for scale in found):
        raise ValueError(
            f"the scales are {text!r}, expected 1 to {MOST} numbers from 1 to 100, such as 1.5, 3, 5"
        )
    return found


def draw(
    model: Any, prompt: str, seeds: Sequence[int], scales: Sequence[float], steps: int | None
) -> np.ndarray:
    """[H, W, 3] uint8, a sheet of all pictures; one call, as every picture may have a scale of its own."""
    each = [scale for scale in scales for _ in seeds]
    images = model.sample(
        [prompt] * len(each), list(seeds) * len(scales), guidance={"classifier_free": {"scale": each}},
        **given.sampling(model, None, steps),
    ).reshape(len(scales), len(seeds), *model.system.image_shape, 3)  # fmt: skip
    rows = [
        sheet.Row(
            f"guidance scale {scale:g}",
            [sheet.Tile(image, f"seed {seed}") for image, seed in zip(row, seeds, strict=True)],
        )
        for row, scale in zip(images, scales, strict=True)
    ]
    return sheet.contact_sheet(rows)


def tab(page: Any) -> None:
    import gradio as gr

    with gr.Row():
        with gr.Column(scale=1):
            prompt = page.prompt()
            values = gr.Textbox("1.5, 3, 5, 8", label="Guidance scales")
            seed, number, steps = page.seed(), page.number(), page.steps()
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2):
            shown = gr.Image(label="A row for each scale", format="png", interactive=False)

    def drawn(prompt: str, guidance_scales: str, seed: float, pictures: float, steps: float):
        return draw(page.model, prompt, given.seeds(seed, pictures), scales(guidance_scales), int(steps))

    page.on(button, drawn, [prompt, values, seed, number, steps], shown, "grid")
