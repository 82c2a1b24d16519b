"""What a browser hands over, as what a model takes: pictures of any size, painted layers, numbers of seeds.

Decides how a picture is brought to the model's own size, so that no size of a picture compiles a program. It knows no
gradio.
"""

from typing import Any

import numpy as np
from PIL import Image

from ldm_jax.data import pictures, transforms

PREVIEWS = 8  # the most pictures that are drawn for one click on two cores in a time that one waits
NUMBERS = (1, 2, 4, 8)  # of pictures: those that inference.settings.bucket has programs for
LEAST_SCALE = 1.1  # guidance of 1 is none, and another program: a slider that reached it would compile
MOST_SCALE = 12.0


def seeds(first: float, number: float) -> range:
    """The seeds of `number` pictures, counting up. Raises: ValueError for what is no whole number, or none."""
    for name, value in (("seed", first), ("number of pictures", number)):
        if value is None or value != int(value) or value < 0:
            raise ValueError(f"the {name} is {value}, expected a whole number of at least 0")
    if not 1 <= number <= PREVIEWS:
        raise ValueError(f"the number of pictures is {number:g}, expected 1 to {PREVIEWS}")
    return range(int(first), int(first) + int(number))


def is_guided(model: Any) -> bool:
    """Whether guidance has a null condition to lead away from."""
    return bool(model.system.drops)


def scales(recommended: float) -> tuple[float, float]:
    """(least, most) guidance scale of a slider that begins with the recommended one: of a model that was distilled to
    be drawn from without guidance that is 1, and moving it compiles a program, once."""
    return min(LEAST_SCALE, recommended), max(MOST_SCALE, recommended)


def sampling(model: Any, guidance_scale: float | None, steps: float | None) -> dict[str, Any]:
    """The options of LatentDiffusion.sample; None is the model's recommendation, and a model without guidance has
    none."""
    found: dict[str, Any] = {} if steps is None else {"num_steps": int(steps)}
    if guidance_scale is not None and is_guided(model):
        found["guidance_scale"] = float(guidance_scale)
    return found


def fitted(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8, or a mask [H, W] bool, as [*shape, …]: of a whole multiple of that size the mean of each block,
    which gives an enlarged picture back to the byte; else cut to the shape in the middle, and resized."""
    height, width = shape
    times = picture.shape[0] // height
    if picture.shape[:2] != (times * height, times * width):
        return pictures.fit(picture, height, width, "crop")
    blocks = picture.reshape(height, times, width, times, *picture.shape[2:]).mean((1, 3))
    return blocks >= 0.5 if picture.dtype == bool else np.uint8(np.rint(blocks))


def enlarged(picture: np.ndarray, side: int = 512) -> np.ndarray:
    """A picture [H, W, 3] uint8 with every pixel repeated, about `side` wide, to paint on; see `fitted`."""
    times = max(1, side // max(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)


def background(editor: dict | None) -> np.ndarray:
    """[H, W, 3] uint8, the picture under the layers of an editor. Raises: ValueError where there is none."""
    if not editor or editor.get("background") is None:
        raise ValueError("there is no picture yet, expected one to be drawn or uploaded first")
    return transforms.to_rgb(Image.fromarray(editor["background"]))


def painted(editor: dict | None) -> np.ndarray:
    """[H, W] bool, where something was painted on an editor's layers, RGBA each. Raises: ValueError for nothing."""
    layers = [layer for layer in (editor or {}).get("layers", ()) if layer is not None]
    found = np.any([layer[..., 3] > 0 for layer in layers], axis=0) if layers else np.zeros(1, bool)
    if not found.any():
        raise ValueError("nothing is painted, expected strokes of the brush over the picture")
    return found


def box(stroke: np.ndarray) -> list[float]:
    """[x0, y0, width, height], parts of the picture's sides, around what is painted [H, W] bool."""
    rows, columns = (np.flatnonzero(stroke.any(axis)) for axis in (1, 0))
    height, width = stroke.shape
    left, top = columns[0] / width, rows[0] / height
    extent = ((columns[-1] + 1) / width - left, (rows[-1] + 1) / height - top)
    return [round(float(v), 4) for v in (left, top, *extent)]
