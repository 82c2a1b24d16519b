"""Pictures of docs/gallery.md, drawn by the shipped model:

    python docs/pictures/gallery.py docs/pictures

scales.png, film.png, words.png and edits.png. Prompts and seeds are not chosen by what comes out.
"""

import sys
from pathlib import Path

import numpy as np

import ldm_jax
from ldm_jax import grid
from ldm_jax.tasks import sheet
from ldm_jax.web import edit, steps, text
from ldm_jax.web import grid as scales

PROMPT = "a small red circle above a large blue square"
EDITED = "a small green circle above a large blue square"
SEED = 0
METHODS = ("prompt_to_prompt", "masactrl", "plug_and_play")


def write(path: Path, tiles: list[tuple[np.ndarray, str]]) -> None:
    grid.write_png(path, sheet.contact_sheet([sheet.Row("", [sheet.Tile(*tile) for tile in tiles])]))


def main(out: Path) -> None:
    model = ldm_jax.load("shapes")
    grid.write_png(out / "scales.png", scales.draw(model, PROMPT, range(4), [1.5, 3.0, 5.0, 8.0], None))
    write(out / "film.png", steps.strip(model, PROMPT, SEED, None, None))
    drawn = text.draw(model, PROMPT, "", [SEED], None, None)[0]
    write(out / "words.png", [(drawn, "picture"), *text.seen(model, drawn, PROMPT, SEED)])
    tiles = []
    for method in edit.METHODS:
        if method.name in METHODS:
            options = {option.name: option.value for option in method.options}
            made = edit.draw(model, method.name, PROMPT, EDITED, [SEED], options, None, None)
            tiles += [] if tiles else [(made.sources["source"][0], "source")]
            tiles.append((made.images[0], method.name))
    write(out / "edits.png", tiles)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
