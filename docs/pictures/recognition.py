"""What the shipped model sees in pictures that it did not draw, for docs/recognition.md:

    python docs/pictures/recognition.py docs/pictures/recognition.png

Rows: the map of each word of the caption (daam); segments (diffseg) beside the true ones; corners of an object found
again where it was moved and recolored (correspondence). The scenes are the first held-out ones of two objects.
"""

import sys

import numpy as np

import ldm_jax
from ldm_jax import grid
from ldm_jax.commands.recognize import COLORS
from ldm_jax.shapes_world import scenes as world
from ldm_jax.tasks import sheet

NUMBER = 3


def colored(labels: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 of labels [H, W]; the first is pale."""
    return np.asarray([(235, 235, 235), *COLORS], np.uint8)[labels % (len(COLORS) + 1)]


def marked(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[2 H, 2 W, 3] uint8: a picture, enlarged, with a square at each point, (x, y) in its pixels."""
    large = image.repeat(2, 0).repeat(2, 1)
    for number, (x, y) in enumerate((2 * points).astype(int)):
        large[max(0, y - 3) : y + 3, max(0, x - 3) : x + 3] = COLORS[number % len(COLORS)]
    return large


def main(out: str) -> None:
    model = ldm_jax.load("shapes")
    scenes = [s for i in range(100) if len((s := world.scene(i, "test")).objects) == 2][:NUMBER]
    images, captions = [world.render(s) for s in scenes], [world.caption(s) for s in scenes]
    rows = []
    for i, of_one in enumerate(model.analyze(images, captions, "daam").found.maps):
        tiles = [sheet.Tile(sheet.heat(values, images[i]), word) for word, values in of_one]
        rows.append(sheet.Row(captions[i], [sheet.Tile(images[i], "picture"), *tiles]))
    segments = model.analyze(images, None, "diffseg", levels=(0.0,), threshold=0.07).found.labels
    tiles = []
    for image, labels, scene in zip(images, segments, scenes, strict=True):
        truth = colored(world.instance_mask(scene))
        tiles += [
            sheet.Tile(image),
            sheet.Tile(colored(labels), "segments"),
            sheet.Tile(truth, "the true ones"),
        ]
    rows.append(sheet.Row("diffseg, without a word", tiles))
    tiles = []
    for scene in scenes:
        first = scene.objects[0]
        x = world.SIZE - first.x
        color = world.COLOR_NAMES[(world.COLOR_NAMES.index(first.color) + 1) % len(world.COLOR_NAMES)]
        there = world.Scene((first._replace(x=x, color=color),), scene.background)
        pair = [world.render(world.Scene((first,), scene.background)), world.render(there)]
        points = np.clip(world.corners(first), 0, world.SIZE - 1)
        found = model.analyze(pair, None, "correspondence", points=points.tolist()).found.points
        tiles += [
            sheet.Tile(marked(picture, of_one), name)
            for picture, of_one, name in zip(pair, found, ("given", "found"), strict=True)
        ]
    rows.append(sheet.Row("correspondence, of an object that was moved and recolored", tiles))
    grid.write_png(out, sheet.contact_sheet(rows))


if __name__ == "__main__":
    main(sys.argv[1])
