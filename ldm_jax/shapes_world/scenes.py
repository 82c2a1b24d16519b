"""The shapes world: what a scene is, how it is drawn, and how it is put into words.

A scene is one to three flat objects on a bright background, 64 x 64 pixels. Scene `index` of a split depends on
(seed, split, index) alone, so the data set is random access and needs no disk. Everything here is numpy; what reads
scenes back from pixels is shapes_oracle.py, what serves them to training is shapes.py.

The background lies farther from every object color than the colors lie from each other, so that recoloring an
object is a smaller change of the image than moving it.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIZE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (200, 25, 40),
    "orange": (205, 110, 0),
    "green": (20, 130, 40),
    "blue": (35, 50, 165),
    "purple": (105, 20, 130),
    "black": (25, 25, 25),
}
COLOR_NAMES = tuple(COLORS)
SIZES = ("small", "large")
RADII = {"small": (6.0, 7.5), "large": (11.0, 13.0)}  # half the side of the bounding box, in pixels
RELATIONS = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}  # direction (x, y), y downwards
TEXTURES = ("plain", "stripes", "checks", "gradient", "noise")
MAX_OBJECTS = 3
GAP = 3.0  # the least distance between two bounding boxes, in pixels
RELATED = 0.6  # the chance that a caption with chance in it says a relation that is clear
RELATION_MARGIN = 10.0  # the least distance of two centers along the axis of a relation that a caption states

# Never seen in training: these colors on these shapes, and these shapes in these relations (or said the other way
# round).
UNSEEN_PAIRS = (("red", "cross"), ("blue", "triangle"), ("purple", "circle"), ("green", "square"))
UNSEEN_RELATIONS = (("triangle", "left of", "circle"), ("square", "above", "cross"))
SPLITS = {"train": 0, "test": 1, "unseen": 2}

NUMBER_WORDS = {1: "one", 2: "two", 3: "three"}
NUMBERS = np.cumsum([0.35, 0.5, 0.15])  # the probabilities of at most one, two and three objects
WORDS = (
    ("a", "and", "of", "left", "right", "above", "below", ",")
    + tuple(NUMBER_WORDS.values())
    + SHAPES
    + tuple(plural for plural in ("circles", "squares", "triangles", "crosses"))
    + COLOR_NAMES
    + SIZES
)


class Object(NamedTuple):
    """One object. x, y: its center, r: half its side, in pixels from the top left corner."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    r: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in pixels."""
        return self.x - self.r, self.y - self.r, self.x + self.r, self.y + self.r


class Background(NamedTuple):
    """texture: one of TEXTURES. color: its mean, RGB in 0..255. amplitude: in levels. phase: a seed of the pattern."""

    texture: str
    color: tuple[int, int, int]
    amplitude: float
    phase: int


class Scene(NamedTuple):
    """objects: in the order in which captions name them. background: what lies behind them."""

    objects: tuple[Object, ...]
    background: Background


def plural(shape: str) -> str:
    """'circle' -> 'circles', 'cross' -> 'crosses'."""
    return shape + ("es" if shape == "cross" else "s")


def class_label(obj: Object) -> int:
    """0..23: color times shape. The class of a scene is that of its largest object."""
    return COLOR_NAMES.index(obj.color) * len(SHAPES) + SHAPES.index(obj.shape)


CLASS_NAMES = tuple(f"{color} {shape}" for color in COLOR_NAMES for shape in SHAPES)


# ----------------------------------------------------------------------------------------------- drawing scenes at
# random


def relation(a: Object, b: Object, margin: float = RELATION_MARGIN) -> str | None:
    """The relation of a to b along the axis on which their centers lie farther apart, or None where that is <
    margin."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < margin:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def is_unseen(objects: tuple[Object, ...]) -> bool:
    """Whether a scene shows an attribute pair or a relation that training must not see."""
    if any((o.color, o.shape) in UNSEEN_PAIRS for o in objects):
        return True
    return any(
        (a.shape, relation(a, b), b.shape) in UNSEEN_RELATIONS for a in objects for b in objects if a is not b
    )


def _place(rng: np.random.Generator, kinds: list[tuple[str, str, str]]) -> tuple[Object, ...] | None:
    """Puts objects of the given (shape, color, size) where they do not touch; None if that fails."""
    placed: list[Object] = []
    for shape, color, size in kinds:
        for _ in range(30):
            r = rng.uniform(*RADII[size])
            x, y = rng.uniform(r + 1.5, SIZE - r - 1.5, 2)
            if all(max(abs(x - o.x), abs(y - o.y)) >= r + o.r + GAP for o in placed):
                placed.append(Object(shape, color, size, float(x), float(y), float(r)))
                break
        else:
            return None
    return tuple(placed)


def one_of(rng: np.random.Generator, names: Sequence[str]) -> str:
    """str(rng.choice(names)), draw for draw, without making an array of the names each time."""
    return names[rng.integers(len(names))]


def _kinds(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """(shape, color, size) of one to three objects; now and then several of one kind, for captions that count."""
    number = 1 + int(NUMBERS.searchsorted(rng.random(), side="right"))

    def kind() -> tuple[str, str, str]:
        return one_of(rng, SHAPES), one_of(rng, COLOR_NAMES), one_of(rng, SIZES)

    if number > 1 and rng.random() < 0.15:
        return [kind()] * number
    return [kind() for _ in range(number)]


def background(rng: np.random.Generator) -> Background:
    """What lies behind the objects of a scene: bright and nearly gray, plain or with a pattern."""
    gray = rng.integers(236, 249)
    color = tuple(int(c) for c in gray + rng.integers(-5, 6, 3))
    texture = "plain" if rng.random() < 0.5 else one_of(rng, TEXTURES[1:])
    amplitude = 0.0 if texture == "plain" else float(rng.uniform(2.0, 6.0))
    return Background(texture, color, amplitude, int(rng.integers(1 << 16)))


@functools.lru_cache(maxsize=256)  # an example's picture and its caption each ask for it
def scene(index: int, split: str = "train", seed: int = 0, max_objects: int = MAX_OBJECTS) -> Scene:
    """Scene `index` >= 0 of a split: 'train', 'test' (the same law, other scenes) or 'unseen' (each scene holds an
    attribute pair or relation that training never shows). max_objects: scenes of more are passed over.

    Raises: ValueError for another split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of shapes not found; there are: {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS[split], index])
    while True:
        objects = _place(rng, _kinds(rng))
        if objects is None or len(objects) > max_objects:
            continue
        if is_unseen(objects) == (split == "unseen"):
            return Scene(objects, background(rng))


# -------------------------------------------------------------------------------------------------------------
# rendering


def coverage(shape: str, x: float, y: float, r: float, size: int = SIZE) -> np.ndarray:
    """[size, size] float32 in [0, 1]: how much of each pixel the shape covers, from its signed distance."""
    return _coverage(shape, x, y, r, slice(0, size), slice(0, size))


def _coverage(shape: str, x: float, y: float, r: float, rows: slice, columns: slice) -> np.ndarray:
    """`coverage` of some of the pixels."""
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + 0.5 - x
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - y
    if shape == "circle":
        distance = np.hypot(dx, dy) - r
    elif shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - r
    elif shape == "cross":
        arm = 0.36 * r
        distance = np.minimum(
            np.maximum(abs(dx) - r, abs(dy) - arm),
            np.maximum(abs(dx) - arm, abs(dy) - r),
        )
    elif shape == "triangle":  # apex (0, -r), base from (-r, r) to (r, r)
        distance = np.maximum((2.0 * abs(dx) - dy - r) / np.sqrt(5.0), dy - r)
    else:
        raise ValueError(f"shape {shape!r} not found; there are: {', '.join(SHAPES)}")
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def corners(obj: Object) -> np.ndarray:
    """[k, 2] float32 (x, y): 4 of a square, 3 of a triangle, 12 of a cross; a circle has its 4 extreme points."""
    if obj.shape == "circle":
        unit = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    elif obj.shape == "square":
        unit = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif obj.shape == "triangle":
        unit = [(0, -1), (1, 1), (-1, 1)]
    else:
        a = 0.36
        unit = [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
    return np.asarray([(obj.x + obj.r * u, obj.y + obj.r * v) for u, v in unit], np.float32)


def draw_background(background: Background) -> np.ndarray:
    """[SIZE, SIZE, 3] float32 in 0..255."""
    color = np.asarray(background.color, np.float32)
    if background.texture == "plain":
        return np.full((SIZE, SIZE, 3), color)
    rng = np.random.default_rng(background.phase)
    x = np.arange(SIZE, dtype=np.float32)[None]
    y = x.T
    if background.texture == "stripes":
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 14)
        pattern = np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period))
    elif background.texture == "checks":
        cell = int(rng.integers(5, 11))
        pattern = ((x // cell + y // cell) % 2) * 2 - 1
    elif background.texture == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        pattern = ((x - SIZE / 2) * np.cos(angle) + (y - SIZE / 2) * np.sin(angle)) / (SIZE / 2)
    else:
        pattern = rng.uniform(-1, 1, (SIZE // 8, SIZE // 8)).repeat(8, 0).repeat(8, 1)
    return color + background.amplitude * pattern.astype(np.float32)[..., None]


def render(scene: Scene) -> np.ndarray:
    """[64, 64, 3] uint8."""
    image = draw_background(scene.background)
    for obj in scene.objects:
        # Farther than this nothing is covered: beyond its apex a triangle reaches sqrt(5) / 2 pixels out of its box.
        rows, columns = (
            slice(max(int(c - obj.r) - 2, 0), min(int(c + obj.r) + 3, SIZE)) for c in (obj.y, obj.x)
        )
        alpha = _coverage(obj.shape, obj.x, obj.y, obj.r, rows, columns)[..., None]
        part = image[rows, columns]
        image[rows, columns] = part * (1 - alpha) + np.asarray(COLORS[obj.color], np.float32) * alpha
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def instance_mask(scene: Scene) -> np.ndarray:
    """[64, 64] uint8: 0 is the background, i + 1 the scene's object i (pixels covered by half or more)."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for i, obj in enumerate(scene.objects):
        mask[coverage(obj.shape, obj.x, obj.y, obj.r) >= 0.5] = i + 1
    return mask


def objects_mask(scene: Scene, indices: Sequence[int]) -> np.ndarray:
    """[64, 64] float32 in [0, 1]: how much of each pixel these of the scene's objects cover."""
    objects = [scene.objects[i] for i in indices]
    return np.max([coverage(o.shape, o.x, o.y, o.r) for o in objects], axis=0)


def semantic_mask(scene: Scene) -> np.ndarray:
    """[64, 64] uint8: 0 is the background, class_label + 1 an object."""
    labels = np.asarray([0] + [class_label(o) + 1 for o in scene.objects], np.uint8)
    return labels[instance_mask(scene)]


# --------------------------------------------------------------------------------------------------------------
# captions


def noun_phrase(obj: Object, *, with_size: bool = True, with_color: bool = True) -> str:
    """'a small red circle'."""
    words = ["a"] + [obj.size] * with_size + [obj.color] * with_color + [obj.shape]
    return " ".join(words)


class Phrase(NamedTuple):
    """Some words of a caption, caption[start:end], and which of the scene's objects they speak of."""

    start: int
    end: int
    objects: tuple[int, ...]


def caption(scene: Scene, rng: np.random.Generator | None = None, related: float = RELATED) -> str:
    """Puts a scene into words, all of them true. Without `rng`: the full description, with a relation where one is
    clear.

    With it: the order of the objects, whether sizes are named (half of the time) and whether a relation is (a share
    `related` of the time), at random.
    """
    return described(scene, rng, related)[0]


def described(
    scene: Scene, rng: np.random.Generator | None = None, related: float = RELATED
) -> tuple[str, tuple[Phrase, ...]]:
    """`caption`, draw for draw, and its phrases: of each object its size, color and shape, as far as they are said."""
    order = list(range(len(scene.objects)))
    if rng is not None:
        rng.shuffle(order)
    objects = [scene.objects[i] for i in order]
    with_size = rng is None or rng.random() < 0.5
    if len(objects) > 1 and len({(o.shape, o.color, o.size) for o in objects}) == 1:
        first, number = objects[0], NUMBER_WORDS[len(objects)]
        said = " ".join([first.size] * with_size + [first.color, plural(first.shape)])
        start = len(number) + 1
        return f"{number} {said}", (Phrase(start, start + len(said), tuple(order)),)
    joins = [" and "] if len(objects) == 2 else [", ", " and "]
    if len(objects) == 2:
        where = relation(*objects)
        if where is not None and (rng is None or rng.random() < related):
            joins = [f" {where} "]
    text, phrases = "", []
    for n, (index, obj) in enumerate(zip(order, objects, strict=True)):
        noun = noun_phrase(obj, with_size=with_size)
        text += (joins[n - 1] if n else "") + noun
        phrases.append(Phrase(len(text) - len(noun) + len("a "), len(text), (index,)))
    return text, tuple(phrases)
