"""The oracle of the shapes world: reads objects back from pixels, and tells which clauses of a caption hold.

Analytic, nothing is learned. Between the background b and an object of color c every pixel is b + alpha (c -
b), so projection on that line gives alpha, and the distance from the line tells the colors apart. Connected
regions of one color are compared with the shapes of shapes_world, whose size and place follow from a
region's area and centroid: both are the same after a blur. Knows nothing of models or of how an image came
about.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ldm_jax.shapes_world import scenes as world

UNKNOWN = "unknown"
MIN_AREA = 20  # pixels; smaller regions are specks, not objects (the smallest object that is drawn has 72)
MIN_IOU = 0.65  # a region that no shape covers better is an object of unknown shape
CLEAR_IOU, CLEAR_LEAD = 0.93, 0.06  # a fit so good, and so far ahead of the next, needs no refinement
MAX_COLOR_DISTANCE = 60.0  # levels, Euclidean; the two nearest colors of the palette are 94 apart
STRAY_DISTANCE = 100.0  # levels from the background; what is darker, and not of a palette color, still counts
SIZE_BORDER = (world.RADII["small"][1] + world.RADII["large"][0]) / 2
RELATION_MIN = 4.0  # pixels between the centers, in the direction of the relation
MAX_NAMED = 6  # objects that a caption may name
MAX_MATCHED = 8  # objects of a picture that are compared with a caption: the largest; all are counted

_PALETTE = np.asarray(list(world.COLORS.values()), np.float32)
_AREA = {
    "circle": np.pi,
    "square": 4.0,
    "triangle": 2.0,
    "cross": 4 * 0.36 * (2 - 0.36),
}  # in units of r ** 2
_CENTROID = {"circle": 0.0, "square": 0.0, "triangle": 1 / 3, "cross": 0.0}  # below the center, in units of r


class ParsedObject(NamedTuple):
    """An object as read from pixels. shape, color: of shapes_world, or 'unknown'. size: 'small' or 'large'.

    x, y: center, r: half the side, in pixels from the top left corner. score: soft IoU with its shape, in [0,
        1].
    """

    shape: str
    color: str
    size: str
    x: float
    y: float
    r: float
    score: float


class Phrase(NamedTuple):
    """'two small red circles': number, and what is said of shape, color and size (None where it is not
    said)."""

    number: int
    shape: str
    color: str | None
    size: str | None
    text: str

    def fits(self, obj: ParsedObject) -> bool:
        """Whether an object is one of those that the phrase speaks of."""
        return (
            obj.shape == self.shape
            and (self.color is None or obj.color == self.color)
            and (self.size is None or obj.size == self.size)
        )


class Clause(NamedTuple):
    """kind: 'object' (as many as the phrase says are there), 'relation' or 'count' (nothing more and nothing
    less)."""

    kind: str
    text: str
    holds: bool


class Score(NamedTuple):
    """clauses: what the caption claims, and whether it holds. objects: what was read from the picture."""

    clauses: tuple[Clause, ...]
    objects: tuple[ParsedObject, ...]

    @property
    def right(self) -> bool:
        """All clauses hold."""
        return all(clause.holds for clause in self.clauses)


# ---------------------------------------------------------------------------------------- reading pixels


def background_color(image: np.ndarray) -> np.ndarray:
    """[3] float32: the median of the bright pixels; of all pixels where fewer than a twentieth are bright."""
    pixels = image.reshape(-1, 3)
    bright = pixels[pixels.min(axis=1) > 180]
    return np.median(bright if len(bright) * 20 >= len(pixels) else pixels, axis=0).astype(np.float32)


def _layers(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each palette color lies on the background, and which of them explains a pixel best.

    Returns: alpha [6, H, W] float32 in [0, 1]; label [H, W] int.
    """
    background = background_color(image)
    pixels = image.astype(np.float32) - background
    lines = _PALETTE - background
    squares = (lines**2).sum(-1)[:, None, None]
    dots = np.moveaxis(pixels @ lines.T, -1, 0)
    alpha = np.clip(dots / squares, 0, 1)
    residual = alpha * (alpha * squares - 2 * dots)  # |p - alpha l|^2 without |p|^2, which all colors share
    return alpha, residual.argmin(0)


def _regions(alpha: np.ndarray, label: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Connected regions of one color: (color index, mask [H, W] bool), specks left out.

    The color of an edge is mixed with what lies beside it, so every pixel takes that of the nearest core
    pixel.
    """
    own = np.take_along_axis(alpha, label[None], 0)[0]
    core = own >= 0.8
    if not core.any():
        return []
    rows, columns = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    colors = np.where(own >= 0.5, label[rows, columns], -1)
    regions = []
    for color in np.unique(colors[colors >= 0]):
        parts, number = ndimage.label(colors == color)
        areas = np.bincount(parts.ravel(), minlength=number + 1)
        regions += [(int(color), parts == i) for i in range(1, number + 1) if areas[i] >= MIN_AREA]
    return regions


def _stray_regions(image: np.ndarray, known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(cover, mask), both [H, W]: regions unlike the background that lie apart from the `known` ones, such as
    a gray or a faded object, which no palette color explains."""
    distance = np.linalg.norm(image.astype(np.float32) - background_color(image), axis=-1)
    apart = (distance > STRAY_DISTANCE) & ~ndimage.binary_dilation(known, np.ones((3, 3), bool), 3)
    if np.count_nonzero(apart) < MIN_AREA:
        return []
    parts, number = ndimage.label(apart)
    areas = np.bincount(parts.ravel())
    masks = [parts == i for i in range(1, number + 1) if areas[i] >= MIN_AREA]
    return [(np.clip(distance / np.median(distance[mask]), 0, 1), mask) for mask in masks]


def _soft_iou(cover: np.ndarray, shape: str, x: float, y: float, r: float) -> float:
    template = world.coverage(shape, x, y, r, cover.shape[0])
    return float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum())


def _fit(cover: np.ndarray, shape: str) -> tuple[float, float, float, float]:
    """(soft IoU, x, y, r) of a shape that has the area and the centroid of cover [S, S] in [0, 1]."""
    area = cover.sum()
    center = (np.arange(cover.shape[0]) + 0.5) / area
    r = float(np.sqrt(area / _AREA[shape]))
    x, y = float(cover.sum(0) @ center), float(cover.sum(1) @ center) - _CENTROID[shape] * r
    return _soft_iou(cover, shape, x, y, r), x, y, r


def _refine(
    cover: np.ndarray, shape: str, fit: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    """A fit made better by descent along x, y and r, in half and then in quarter pixels."""
    best, x, y, r = fit
    for step in (0.5, 0.25):
        for dx, dy, dr in ((step, 0, 0), (0, step, 0), (0, 0, step)):
            for sign in (1, -1):
                candidate = x + sign * dx, y + sign * dy, max(r + sign * dr, 1.0)
                iou = _soft_iou(cover, shape, *candidate)
                if iou > best:
                    best, (x, y, r) = iou, candidate
                    break
    return best, x, y, r


def _best_shape(cover: np.ndarray) -> tuple[str, tuple[float, float, float, float]]:
    """The shape that covers a region best, and its fit."""
    fits = {shape: _fit(cover, shape) for shape in world.SHAPES}
    first, second = sorted(fits, key=lambda s: -fits[s][0])[:2]
    if fits[first][0] < CLEAR_IOU or fits[first][0] - fits[second][0] < CLEAR_LEAD:
        fits = {shape: _refine(cover, shape, fits[shape]) for shape in (first, second)}
    best = max(fits, key=lambda s: fits[s][0])
    return best, fits[best]


def _window(mask: np.ndarray, margin: int = 3) -> tuple[int, int, int]:
    """(top, left, side) of a square that holds the region and a margin; it may reach over the border."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * margin
    return int(rows[0]) - margin, int(columns[0]) - margin, int(side)


def _read(image: np.ndarray, cover: np.ndarray, mask: np.ndarray, near: np.ndarray) -> ParsedObject:
    """cover: [0, 1], alpha of the region's color. mask: the region. near: where its soft edge may lie (all
    [H, W])."""
    top, left, side = _window(mask)
    height, width = mask.shape
    rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
    window = np.zeros((side, side), np.float32)
    inside = np.where(near, cover, 0)[rows, columns]
    window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    shape, (iou, x, y, r) = _best_shape(window)
    core = mask & (cover >= 0.9)
    seen = np.median(image[core if core.any() else mask].astype(np.float32), axis=0)
    distances = np.linalg.norm(_PALETTE - seen, axis=1)
    color = world.COLOR_NAMES[int(distances.argmin())] if distances.min() <= MAX_COLOR_DISTANCE else UNKNOWN
    return ParsedObject(
        shape=shape if iou >= MIN_IOU else UNKNOWN,
        color=color,
        size="small" if r < SIZE_BORDER else "large",
        x=left + x,
        y=top + y,
        r=r,
        score=iou,
    )


def parse(image: np.ndarray) -> list[ParsedObject]:
    """The objects in a picture, the largest first.

    image: [H, W, 3] uint8; thresholds are in pixels of the 64 x 64 scenes.

    Raises: ValueError for another dtype or rank.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}, expected uint8 [64, 64, 3]")
    alpha, label = _layers(image)
    regions = _regions(alpha, label)
    everything = np.zeros(label.shape, bool)
    for _, mask in regions:
        everything |= mask
    objects = []
    covers = [(alpha[color], mask) for color, mask in regions] + _stray_regions(image, everything)
    for cover, mask in covers:
        near = ndimage.binary_dilation(mask, np.ones((3, 3), bool), 2) & (mask | ~everything)
        objects.append(_read(image, cover, mask, near))
    return sorted(objects, key=lambda o: -o.r)


# --------------------------------------------------------------------------------------- reading captions

_NUMBERS = {"a": 1, "an": 1} | {word: number for number, word in world.NUMBER_WORDS.items()}
_PLURALS = {world.plural(shape): shape for shape in world.SHAPES}
_RELATION_WORDS = {tuple(name.split()): name for name in world.RELATIONS}


def _unexpected(words: list[str], at: int, caption: str, expected: str) -> ValueError:
    got = f"word {words[at]!r} (number {at + 1})" if at < len(words) else "the end"
    return ValueError(f"caption {caption!r} has {got} where {expected} was expected")


def _read_phrase(words: list[str], at: int, caption: str) -> tuple[Phrase, int]:
    """The noun phrase that begins at words[at], and where it ends."""
    start = at
    if at >= len(words) or words[at] not in _NUMBERS:
        raise _unexpected(words, at, caption, "one of " + ", ".join(_NUMBERS))
    number, at = _NUMBERS[words[at]], at + 1
    size = color = None
    if at < len(words) and words[at] in world.SIZES:
        size, at = words[at], at + 1
    if at < len(words) and words[at] in world.COLORS:
        color, at = words[at], at + 1
    nouns = _PLURALS if number > 1 else {shape: shape for shape in world.SHAPES}
    if at >= len(words) or words[at] not in nouns:
        before = [] if color else [*world.COLORS] if size else [*world.SIZES, *world.COLORS]
        raise _unexpected(words, at, caption, "one of " + ", ".join([*before, *nouns]))
    return Phrase(number, nouns[words[at]], color, size, " ".join(words[start : at + 1])), at + 1


def _read_link(words: list[str], at: int, caption: str) -> tuple[str | None, int]:
    """What stands between two phrases: the name of a relation, or None for ',' and 'and'; and where it
    ends."""
    for relation_words, name in _RELATION_WORDS.items():
        if tuple(words[at : at + len(relation_words)]) == relation_words:
            return name, at + len(relation_words)
    if words[at] == ",":
        return None, at + 2 if words[at + 1 : at + 2] == ["and"] else at + 1
    if words[at] == "and":
        return None, at + 1
    raise _unexpected(words, at, caption, "one of ',', and, " + ", ".join(world.RELATIONS))


@functools.lru_cache(maxsize=4096)
def read_caption(caption: str) -> tuple[tuple[Phrase, ...], tuple[tuple[int, str, int], ...]]:
    """Phrases, and relations (phrase, name, phrase) between neighboring ones, of a caption in shapes_world's
    grammar.

    Also understood: 'an', 'one' before a singular, size or color left out anywhere, any number of phrases.

    Raises: ValueError naming the first word outside the grammar, or the number of objects where it is over
    MAX_NAMED.
    """
    words = caption.lower().replace(",", " , ").split()
    phrase, at = _read_phrase(words, 0, caption)
    phrases, relations = [phrase], []
    while at < len(words):
        name, at = _read_link(words, at, caption)
        phrase, at = _read_phrase(words, at, caption)
        if name is not None:
            relations.append((len(phrases) - 1, name, len(phrases)))
        phrases.append(phrase)
    number = sum(p.number for p in phrases)
    if number > MAX_NAMED:
        raise ValueError(f"caption {caption!r} names {number} objects, expected at most {MAX_NAMED}")
    return tuple(phrases), tuple(relations)


# ---------------------------------------------------------------------------------------- scoring captions


def holds(a: ParsedObject, relation: str, b: ParsedObject) -> bool:
    """Whether a's center lies at least RELATION_MIN pixels from b's in the relation's direction."""
    dx, dy = world.RELATIONS[relation]
    return (a.x - b.x) * dx + (a.y - b.y) * dy >= RELATION_MIN


def _assignments(phrases: tuple[Phrase, ...], objects: list[ParsedObject]):
    """Yields, in every way, for each phrase the indices of different objects that fit it (fewer where there
    are not enough left, so that what does hold can still be told)."""

    def assign(i: int, free: frozenset[int], chosen: tuple):
        if i == len(phrases):
            yield chosen
            return
        fitting = sorted(k for k in free if phrases[i].fits(objects[k]))
        for picked in itertools.combinations(fitting, min(phrases[i].number, len(fitting))):
            yield from assign(i + 1, free - set(picked), (*chosen, picked))

    yield from assign(0, frozenset(range(len(objects))), ())


def score_objects(objects: list[ParsedObject], caption: str) -> Score:
    """As `score`, for objects that are read already."""
    phrases, relations = read_caption(caption)
    largest = list(objects[:MAX_MATCHED])

    def clauses(chosen: tuple) -> tuple[Clause, ...]:
        said = [
            Clause("object", p.text, len(picked) == p.number)
            for p, picked in zip(phrases, chosen, strict=True)
        ]
        for i, name, j in relations:
            both = said[i].holds and said[j].holds
            true = both and all(holds(largest[a], name, largest[b]) for a in chosen[i] for b in chosen[j])
            said.append(Clause("relation", f"{phrases[i].text} {name} {phrases[j].text}", true))
        return tuple(said)

    best: tuple[Clause, ...] = ()
    for chosen in _assignments(phrases, largest):
        candidate = clauses(chosen)
        if not best or sum(c.holds for c in candidate) > sum(c.holds for c in best):
            best = candidate
        if all(c.holds for c in best):
            break
    number = sum(p.number for p in phrases)
    count = Clause("count", f"{number} object{'s' * (number > 1)} in all", len(objects) == number)
    return Score((*best, count), tuple(objects))


def score(image: np.ndarray, caption: str) -> Score:
    """Which clauses of a caption hold in a picture, under the reading of the caption that favors it most.

    image: [64, 64, 3] uint8. Raises: ValueError for a caption outside the grammar (`read_caption`) or another
        image.
    """
    return score_objects(parse(image), caption)
