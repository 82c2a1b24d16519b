"""The page: gradio's parts that tabs share, one queue for the model, and the server.

Decides that one drawing runs at a time (everybody's clicks wait in gradio's queue, in order), that an error of the
user's is one sentence, what an uploaded picture becomes, and that nothing is fetched: no analytics, no fonts, no
sharing. It imports gradio, so that only what shows a page imports it.
"""

import functools
import inspect
import io
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr  # noqa: E402
import numpy as np  # noqa: E402

from ldm_jax.data import pictures, transforms  # noqa: E402
from ldm_jax.find import find, names  # noqa: E402
from ldm_jax.web import given  # noqa: E402

log = logging.getLogger(__name__)

WAITING = 64  # clicks that may wait; who comes later is told so
LARGEST = "64mb"  # of a file that is uploaded
KEPT = 24 * 3600  # seconds that uploaded and drawn pictures are kept in gradio's folder for


def fonts() -> dict[str, Any]:
    """A theme with the browser's own fonts."""
    own = ["system-ui", "sans-serif"]
    return dict(theme=gr.themes.Base(font=own, font_mono=["ui-monospace", "monospace"]))


def opened(file: Any) -> Any:
    """An uploaded picture, FileData or bytes, none of whose pixels is decoded. Raises: gr.Error in one sentence."""
    source = io.BytesIO(file) if isinstance(file, bytes | bytearray | memoryview) else file.path
    try:
        return pictures.opened(source)
    except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
        said = str(error) if isinstance(error, ValueError) else "it is no picture that Pillow knows"
        raise gr.Error(f"the file that was uploaded cannot be used: {said}") from None


def picture(label: str) -> gr.Image:
    """A picture that is uploaded, [H, W, 3] uint8 as a photo program shows it, or None.

    Not a subclass: gradio writes a .pyi file beside the source of each subclass of a component.
    """

    def preprocess(payload: Any) -> np.ndarray | None:
        if payload is None:
            return None
        if payload.path is None:
            raise gr.Error("the picture was given as text, expected a file that is uploaded")
        with opened(payload) as image:
            try:
                return transforms.to_rgb(image)
            except Exception:  # noqa: BLE001 - a file that is cut off, of any format
                raise gr.Error("the file that was uploaded is damaged") from None

    made = gr.Image(label=label, sources=["upload", "clipboard"], format="png")
    made.preprocess = preprocess
    return made


def canvas(label: str, brush: int = 60, value: np.ndarray | None = None) -> gr.ImageEditor:
    """A picture to paint on, at first `value` [H, W, 3] uint8.

    What a call is handed: {'background', 'layers', 'composite'}, uint8 [H, W, 4] each.
    """
    made = gr.ImageEditor(
        value, label=label, type="numpy", image_mode="RGBA", sources=("upload", "clipboard"), layers=False,
        transforms=(), brush=gr.Brush(default_size=brush, colors=["#ffffff"], color_mode="fixed"), format="png",
        height=620,
    )  # fmt: skip
    convert = made.convert_and_format_image

    def checked(file: Any, flatten_on_white: bool = False) -> Any:
        if file is not None:
            opened(file).close()
        return convert(file, flatten_on_white)

    made.convert_and_format_image = checked
    return made


class Page:
    """model: a LatentDiffusion. adapted: a web.adapters.Adapted, or None. name: what the page calls the model."""

    def __init__(self, model: Any, adapted: Any = None, name: str = "shapes"):
        self.model, self.adapted, self.name = model, adapted, name

    def on(
        self, button: gr.Button, call: Callable, inputs: Sequence, outputs: Any, api_name: str | None
    ) -> None:
        """A click calls `call`, also from a script by `api_name`; its ValueErrors are shown."""

        @functools.wraps(call)
        def checked(*values):
            try:
                return call(*values)
            except (ValueError, OSError) as error:
                raise gr.Error(str(error), duration=None, print_exception=False) from None

        checked.__signature__ = inspect.signature(call)
        button.click(
            checked, list(inputs), outputs, api_name=api_name, concurrency_limit=1, concurrency_id="model"
        )

    def prompt(self, label: str = "Prompt", value: str | None = None) -> gr.Textbox:
        shown = "a small red circle above a large blue square" if value is None else value
        return gr.Textbox(label=label, value=shown if self.name == "shapes" else "", lines=1)

    def guidance(self, model: Any = None) -> gr.Slider:
        """At first what `model` recommends, by default the page's."""
        model = model or self.model
        value = model.resolve()["guidance_scale"]
        least, most = given.scales(value)
        shown = given.is_guided(model)
        return gr.Slider(least, most, value, step=0.1, label="Guidance scale", visible=shown)

    def steps(self, model: Any = None) -> gr.Radio:
        """At first what `model` recommends, by default the page's."""
        recommended = (model or self.model).resolve()["num_steps"]
        choices = sorted({10, 25, 50, 100, recommended})
        return gr.Radio(choices, value=recommended, label="Steps (each number compiles once)")

    def number(self, value: int = 4) -> gr.Radio:
        return gr.Radio(list(given.NUMBERS), value=value, label="Pictures (each number compiles once)")

    def seed(self, label: str = "First seed") -> gr.Number:
        return gr.Number(0, label=label, precision=0, minimum=0)

    def class_label(self) -> gr.Dropdown | gr.Textbox:
        known = self.model.config.get("class_names")
        if not known:
            return gr.Textbox("0", label="Number of the class")
        return gr.Dropdown(list(known), value=known[0], label="Class", allow_custom_value=True)

    def gallery(self, label: str = "Pictures", columns: int = 4) -> gr.Gallery:
        return gr.Gallery(
            label=label, columns=columns, format="png", object_fit="contain", height="auto", interactive=False
        )


def captioned(images: np.ndarray, said: Sequence[str]) -> list[tuple[np.ndarray, str]]:
    """What a gallery takes, of pictures [N, H, W, 3] uint8."""
    return list(zip(list(images), said, strict=True))


def of_seeds(images: np.ndarray, seeds: Sequence[int]) -> list[tuple[np.ndarray, str]]:
    """The same, where each is called by its seed."""
    return captioned(images, [f"seed {seed}" for seed in seeds])


def tabs(page: Page) -> list[Any]:
    """The files of this room that the model can do, in their order. Raises: ValueError where it can do nothing."""
    found = sorted((find("web", name) for name in names("web")), key=lambda module: module.PLACE)
    offered = [module for module in found if module.offered(page)]
    if not offered:
        raise ValueError(
            f"this model takes {', '.join(page.model.system.takes) or 'nothing'}, and the page has tabs for prompts, "
            "classes and layouts alone: python sample.py draws with it"
        )
    return offered


def build(page: Page) -> gr.Blocks:
    """The page, which `serve` shows."""
    offered = tabs(page)
    with gr.Blocks(
        title=f"ldm_jax: {page.name}", analytics_enabled=False, delete_cache=(3600, KEPT)
    ) as blocks:
        gr.Markdown(
            f"# {page.name}\nSliders compile nothing; the first click of a kind does, and takes longer."
        )
        with gr.Tabs():
            for module in offered:
                with gr.Tab(module.TITLE):
                    module.tab(page)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    return blocks


def serve(page: Page, host: str, port: int | None, block: bool = True) -> gr.Blocks:
    """Shows the page at http://host:port (None: the first free one from 7860 on), and waits if `block`."""
    blocks = build(page)
    blocks.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, max_file_size=LARGEST,
        ssr_mode=False, footer_links=["api"], **fonts(),
    )  # fmt: skip
    log.info("the page is at %s", blocks.local_url)
    if block:
        blocks.block_thread()
    return blocks
