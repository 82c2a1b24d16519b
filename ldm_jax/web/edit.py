"""Methods of the editing room, each with its own sliders: of a picture that the model draws, or of an uploaded one.

Decides which methods are shown, and how far a slider goes: not to where a method changes nothing, which is another
program (inference/methods.py), so that no slider compiles.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.inference.edits import Edited
from ldm_jax.tasks import run
from ldm_jax.web import given

TITLE, PLACE = "Edits", 4


class Option(NamedTuple):
    """A number of a method, from `least` to `most`."""

    name: str
    least: float
    most: float
    value: float


class Method(NamedTuple):
    """A file of editing/. of_picture: it edits uploaded pictures alone."""

    name: str
    said: str
    options: tuple[Option, ...]
    of_picture: bool = False


METHODS = (
    Method(
        "prompt_to_prompt",
        "keeps the layout: for a share of the steps, words look where the source's looked",
        (Option("cross_steps", 0.02, 1.0, 0.8), Option("self_steps", 0.0, 1.0, 0.4)),
    ),
    Method(
        "masactrl", "keeps the looks, from a share of the steps on, in another pose", (Option("start", 0.0, 0.98, 0.1),)
    ),
    Method(
        "plug_and_play",
        "keeps the structure: features and attention of the source for a share of the steps",
        (Option("features", 0.02, 1.0, 0.8), Option("attention", 0.0, 1.0, 0.5)),
    ),
    Method("pix2pix_zero", "moves along a direction, held to the source's maps", (Option("amount", 0.01, 0.5, 0.1),)),
    Method(
        "ledits_pp",
        "changes an uploaded picture where the prompt's words are seen",
        (Option("threshold", 0.02, 0.98, 0.9), Option("amount", -2.0, 2.0, 1.0)),
        of_picture=True,
    ),
    Method(
        "diffedit",
        "changes an uploaded picture where two prompts differ",
        (Option("level", 0.1, 0.9, 0.5), Option("threshold", 0.02, 0.98, 0.5)),
        of_picture=True,
    ),
)  # fmt: skip


def offered(page: Any) -> bool:
    return run.can(page.model.system, "edit") and bool(page.model.system.unet.context_dim)


def draw(
    model: Any,
    method: str,
    source: str,
    prompt: str,
    seeds: Sequence[int],
    options: Mapping[str, float],
    guidance_scale: float | None,
    steps: int | None,
    image: np.ndarray | None = None,
) -> Edited:
    """What LatentDiffusion.edit draws. image: an uploaded picture [H, W, 3] uint8 that `source` is said of, or None.

    Raises: ValueError for a method that needs one.
    """
    if image is None and next(m.of_picture for m in METHODS if m.name == method):
        raise ValueError(f"{method} changes a picture that is uploaded, and there is none")
    shown = None if image is None else [given.fitted(image, model.system.image_shape)] * len(seeds)
    return model.edit(
        [source] * len(seeds), [prompt] * len(seeds), method, seeds, image=shown, options=dict(options),
        **given.sampling(model, guidance_scale, steps),
    )  # fmt: skip


def tab(page: Any) -> None:
    import gradio as gr

    from ldm_jax.web.page import captioned, picture

    with gr.Row():
        with gr.Column():
            source = page.prompt("Source: what is drawn first, or what the picture shows")
            prompt = page.prompt("Edited", "a small green circle above a large blue square")
            guidance, seed, steps = page.guidance(), page.seed("Seed"), page.steps()
            image = picture("A picture of your own (or none)")
        with gr.Column(), gr.Tabs():
            for method in METHODS:
                with gr.Tab(method.name):
                    _one(page, method, [source, prompt, seed, guidance, steps, image], captioned)


def _one(page: Any, method: Method, shared: Sequence, captioned: Any) -> None:
    """The sliders, the button and the pictures of a method."""
    import gradio as gr

    gr.Markdown(method.said)
    sliders = [gr.Slider(o.least, o.most, o.value, step=0.02, label=o.name) for o in method.options]
    button = gr.Button("Edit", variant="primary")
    pictures = page.gallery("Source and edited", columns=2)

    def drawn(source, prompt, seed, guidance_scale, steps, image, *values):
        options = {o.name: value for o, value in zip(method.options, values, strict=True)}
        made = draw(
            page.model, method.name, source, prompt, given.seeds(seed, 1), options, guidance_scale, int(steps), image
        )  # fmt: skip
        return captioned(np.stack([*made.sources.values(), made.images])[:, 0], [*made.sources, "edited"])

    page.on(button, drawn, [*shared, *sliders], pictures, f"edit_{method.name}")
