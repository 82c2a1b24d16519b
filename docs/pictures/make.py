"""The picture that the README opens with, drawn by the shipped model:

    python docs/pictures/make.py docs/pictures/first.png

A row is a prompt and the pictures of seeds 0, 1, 2, …, none of them chosen. Below them, what the same model makes of
the first row: an edit by Prompt-to-Prompt, and a hole filled.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ldm_jax
from ldm_jax import grid

FIRST = "a small red circle above a large blue square"
PROMPTS = (
    FIRST,
    "a large purple triangle",
    "two orange squares",
    "a black cross and a green circle",
    "a large orange circle left of a small black square",
)
EDITED = "a small green circle above a large blue square"
FILLED = "a large green triangle"
SEEDS = range(8)
TEXT, SIDE, ZOOM = 330, 64, 1.5  # pixels: the column of words, a picture; how much larger they are shown


def row(words: str, images: np.ndarray) -> np.ndarray:
    """[64, TEXT + …, 3] uint8: words beside pictures [N, 64, 64, 3] uint8."""
    label = Image.new("RGB", (TEXT, int(SIDE * ZOOM)), "white")
    font = ImageFont.load_default(size=14)
    ImageDraw.Draw(label).text((8, label.height // 2), words, "black", font, anchor="lm")
    side = int(SIDE * ZOOM)
    shown = [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC)) for i in images]
    return np.concatenate([np.asarray(label), grid.grid(np.stack(shown), len(shown))[2:-2]], axis=1)


def main(out: str) -> None:
    model = ldm_jax.load("shapes")
    drawn = {prompt: model.sample([prompt] * len(SEEDS), SEEDS) for prompt in PROMPTS}
    edited = model.edit([FIRST] * len(SEEDS), [EDITED] * len(SEEDS), seeds=SEEDS)
    hole = np.zeros((len(SEEDS), SIDE, SIDE), bool)
    hole[:, SIDE // 2 :] = True
    filled = model.sample([FILLED] * len(SEEDS), SEEDS, init_images=drawn[FIRST], fill_masks=hole)
    rows = [row(prompt, images) for prompt, images in drawn.items()]
    rows += [
        row("the first row, edited: a small green circle", edited.images),
        row(f"its lower half, filled: {FILLED}", filled),
    ]
    grid.write_png(out, np.concatenate(rows))


if __name__ == "__main__":
    main(sys.argv[1])
