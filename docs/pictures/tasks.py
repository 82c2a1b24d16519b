"""The shipped models of the tasks side by side, on held-out scenes:

    python docs/pictures/tasks.py docs/pictures/tasks.png

Column i is scene i of the test split, none of them chosen. Of each task there are two rows: what the model is told, and
what it draws with seed i.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))
from make import row

import ldm_jax
from ldm_jax import grid
from ldm_jax.data import masks, shapes
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores

NUMBER = 10


def small(image: np.ndarray, side: int, filter: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), filter))


def boxes(layout: dict) -> np.ndarray:
    """[64, 64, 3] uint8: the boxes of a layout, each filled with the color of its label, the shape said by a letter."""
    image = Image.new("RGB", (world.SIZE, world.SIZE), (242, 242, 242))
    draw = ImageDraw.Draw(image)
    for (x, y, w, h), label in zip(layout["boxes"], layout["labels"], strict=True):
        color, shape = world.CLASS_NAMES[label].split()
        corners = [world.SIZE * v for v in (x, y, x + w, y + h)]
        draw.rectangle(corners, outline=world.COLORS[color], width=2)
        draw.text((corners[0] + 3, corners[1] + 1), shape[0], world.COLORS[color])
    return np.asarray(image)


def painted(labels: np.ndarray) -> np.ndarray:
    """[64, 64, 3] uint8 of a label map: its classes in their colors."""
    colors = np.array(
        [(242, 242, 242), *(world.COLORS[name.split()[0]] for name in world.CLASS_NAMES)], np.uint8
    )
    return colors[labels]


def main(out: str) -> None:
    scenes = [world.scene(i, "test") for i in range(NUMBER)]
    images = np.stack([world.render(scene) for scene in scenes])
    holes = np.stack(
        [masks.draw("rectangle", 64, 64, np.random.default_rng(i)) >= 0.5 for i in range(NUMBER)]
    )
    layouts = [shapes.layout(scene) for scene in scenes]
    maps = [world.semantic_mask(scene) for scene in scenes]
    low = [small(image, 16, Image.Resampling.BICUBIC) for image in images]
    gray = np.repeat(scores.luma(images), 3, axis=-1)
    told = {
        "layout": (dict(layouts=layouts), np.stack([boxes(one) for one in layouts])),
        "semantic": (dict(segmentations=maps), np.stack([painted(one) for one in maps])),
        "superres": (
            dict(low_res_images=low),
            np.stack([small(one, 64, Image.Resampling.NEAREST) for one in low]),
        ),
        "inpaint": (
            dict(images=list(images), masks=list(holes)),
            np.where(holes[..., None], np.uint8(127), images),
        ),
        "colorize": (dict(images=list(gray)), gray),
    }
    rows = [row("held-out scenes", images)]
    for task, (asked, shown) in told.items():
        drawn = ldm_jax.load(f"shapes_{task}").sample(**asked, seeds=range(NUMBER))
        if task == "inpaint":
            drawn = np.where(holes[..., None], drawn, images)
        rows += [row(f"{task}: what it is told", shown), row(f"{task}: what shapes_{task} draws", drawn)]
    grid.write_png(out, np.concatenate(rows))


if __name__ == "__main__":
    main(sys.argv[1])
