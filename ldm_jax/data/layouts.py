"""The source `layouts`: pictures with boxes around their objects, from a folder or a TFDS data set, as conditioning
takes them.

Decides which objects and pictures are trained on, how classes are numbered, and how a picture and its layout are cut
together.
What a layout is, and what becomes of it: conditioning/layout.py, which this file does not know. Source: the filters and
crops of taming-transformers' data sets of annotated objects, which the layout models of
CompVis/latent-diffusion@a506df5 were trained with; Rombach et al. 2022 (arXiv:2112.10752) section 4.3.1.

    root/.../layouts.jsonl      lines {"file_name": "picture.jpg", "boxes": [[x0, y0, w, h], …], "labels": [name or
    number, …]}
                                and maybe "group", "occluded", "depiction", "inside": [bool, …]; boxes are relative to
                                the picture, file names to the folder of the layouts.jsonl
    classes                     a text file, a class on each line, numbered from 0; several names with tabs between them
    are one
                                class. Objects of other classes are left out
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import atomic, text_files
from ldm_jax.data import folder, pipeline, tfds, transforms
from ldm_jax.data.listing import files_below

FLAGS = ("group", "occluded", "depiction", "inside")
# What TFDS's data sets call them: open_images_v4 (1 yes, 0 no, -1 unknown), and coco, whose crowds are groups.
TFDS_FLAGS = {
    "is_group_of": "group",
    "is_crowd": "group",
    "is_occluded": "occluded",
    "is_depiction": "depiction",
    "is_inside": "inside",
}
MIN_OF_BOX, MIN_OF_CROP = (
    1e-4,
    0.15,
)  # an object stays in a crop that shows so much of it, or is so much filled by it

log = logging.getLogger(__name__)
Layout = dict[str, Any]  # boxes [[x0, y0, w, h], …], labels [int, …], flags [bool, …], and maybe crop


# ------------------------------------------------------------------------------------------------------- single layouts


def select(layout: Layout, chosen: Sequence[int]) -> Layout:
    """The layout of the objects with these numbers, in this order."""
    lists = {k: [layout[k][i] for i in chosen] for k in ("boxes", "labels", *FLAGS) if k in layout}
    return layout | lists


def large(layout: Layout, min_area: float) -> Layout:
    """Without the objects whose boxes have less than min_area of the picture's area, or none."""
    areas = [w * h if w > 0 and h > 0 else -1 for _, _, w, h in layout["boxes"]]
    return select(layout, [i for i, area in enumerate(areas) if area >= min_area])


def renumbered(layout: Layout, numbers: Mapping[Any, int]) -> Layout:
    """Labels replaced by their `numbers`; objects whose label has none are left out."""
    chosen = select(layout, [i for i, label in enumerate(layout["labels"]) if label in numbers])
    return chosen | {"labels": [numbers[label] for label in chosen["labels"]]}


def of_tfds(objects: Mapping[str, Any]) -> Layout:
    """The `objects` of a TFDS example as a layout. bbox: [n, 4] (y0, x0, y1, x1) in [0, 1]; flags other than 1 are
    false.

    Raises: ValueError where there is no bbox or label.
    """
    missing = {"bbox", "label"} - set(objects)
    if missing:
        raise ValueError(
            f"layouts: the objects have {', '.join(objects)}, expected {' and '.join(sorted(missing))}"
        )
    y0, x0, y1, x1 = np.clip(np.asarray(objects["bbox"], np.float64).reshape(-1, 4), 0, 1).T
    layout = {
        "boxes": np.stack([x0, y0, x1 - x0, y1 - y0], 1).tolist(),
        "labels": np.asarray(objects["label"]).tolist(),
    }
    for name, flag in TFDS_FLAGS.items():
        if name in objects:
            layout[flag] = (np.asarray(objects[name]) == 1).tolist()
    return layout


def _mirrored_box(box: Sequence[float]) -> list[float]:
    x0, y0, w, h = box
    return [max(0.0, 1 - (x0 + w)), y0, w, h]


def mirrored(layout: Layout) -> Layout:
    """Of the picture flipped left to right; the crop too."""
    out = layout | {"boxes": [_mirrored_box(box) for box in layout["boxes"]]}
    return out | {"crop": _mirrored_box(layout["crop"])} if "crop" in layout else out


def within(layout: Layout, crop: Sequence[float]) -> Layout:
    """The boxes cut off at the crop (x0, y0, w, h) and relative to it; objects of which little is left are left out.

    One stays that shows 1e-4 of its box, or fills 0.15 of the crop. The width of a box that the crop cuts at its left
    is what is left of it; the original's is too wide there, up to the full one.
    """
    boxes, (cx, cy, cw, ch) = np.asarray(layout["boxes"], np.float64).reshape(-1, 4), crop
    low = np.clip((boxes[:, :2] - [cx, cy]) / [cw, ch], 0, 1)
    high = np.clip((boxes[:, :2] + boxes[:, 2:] - [cx, cy]) / [cw, ch], 0, 1)
    of_crop = (high - low).prod(1)
    of_box = of_crop * cw * ch / np.maximum(boxes[:, 2:].prod(1), 1e-12)
    chosen = np.flatnonzero((of_crop > 0) & ((of_box >= MIN_OF_BOX) | (of_crop >= MIN_OF_CROP)))
    return select(layout | {"boxes": np.concatenate([low, high - low], 1).tolist()}, chosen.tolist())


# ----------------------------------------------------------------------------------------------- a picture with its
# layout


def _square(height: int, width: int, size: int, rng: np.random.Generator | None) -> tuple[int, int, int]:
    """(top, left, side) in pixels: with rng of any side from `size` to the shorter one, anywhere; else the center's
    largest."""
    short = min(height, width)
    if rng is None:
        return (height - short) // 2, (width - short) // 2, short
    side = int(rng.integers(min(size, short), short + 1))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side


def _towards(start: int, side: int, length: int, center: float) -> int:
    """The start of an interval of `side` pixels within `length`, moved no farther than needed to hold `center` in its
    inside."""
    low, high = math.floor(center * length) + 1 - side, math.ceil(center * length) - 1
    return int(np.clip(np.clip(start, low, max(low, high)), 0, length - side))


def cut(
    image: np.ndarray,
    layout: Layout,
    size: int,
    rng: np.random.Generator | None = None,
    *,
    encode_crop: bool = True,
    mirror: float = 0.5,
) -> tuple[np.ndarray, Layout]:
    """A square of the picture, resized, and the layout that belongs to it: ([size, size, 3] float32 in [-1, 1],
    layout).

    image: [H, W, 3] uint8. rng: of training, where the square has a random side in [size, min(H, W)] and place, the
    picture is flipped with the probability `mirror`, and the objects come in random order; None takes the largest
    square in the middle.
    encode_crop: the boxes stay relative to the whole picture and `crop` says which part is shown, as the published
    models have it. Otherwise the boxes are those `within` the square, which is moved to the largest object if it would
    show none.
    """
    height, width = image.shape[:2]
    top, left, side = _square(height, width, size, rng)

    def crop() -> list[float]:
        return [left / width, top / height, side / width, side / height]

    if encode_crop:
        layout = layout | {"crop": crop()}
    else:
        seen = within(layout, crop())
        if not seen["boxes"]:
            x0, y0, w, h = max(layout["boxes"], key=lambda box: box[2] * box[3])
            top, left = _towards(top, side, height, y0 + h / 2), _towards(left, side, width, x0 + w / 2)
            seen = within(layout, crop())
        layout = seen
    image = transforms.resize(image[top : top + side, left : left + side], size, size, "bicubic")
    if rng is not None:
        if rng.random() < mirror:
            image, layout = image[:, ::-1], mirrored(layout)
        layout = select(layout, rng.permutation(len(layout["boxes"])).tolist())
    return np.ascontiguousarray(transforms.to_float(image)), layout


# --------------------------------------------------------------------------------------------------- where layouts come
# from


def read_classes(path: str | Path) -> list[list[str]]:
    """The names of each class. Raises: FileNotFoundError; ValueError for an empty file, or a name that stands there
    twice."""
    lines = text_files.lines(Path(path).expanduser(), "classes")
    classes = [[name.strip() for name in line.split("\t") if name.strip()] for _, line in lines]
    names = [name for several in classes for name in several]
    if len(set(names)) < len(names) or not names:
        twice = next((name for name in names if names.count(name) > 1), None)
        raise ValueError(
            f"classes {str(path)!r}: got {twice!r} twice" if twice else f"{str(path)!r} is empty"
        )
    return classes


def _entry(line: str, where: str) -> tuple[str, Layout]:
    """(file name, layout) of a line of layouts.jsonl; its labels as they stand there."""
    try:
        fields = json.loads(line)
        name, boxes, labels = fields["file_name"], fields["boxes"], fields["labels"]
        array = np.asarray(boxes, np.float64).reshape(len(boxes), 4)
        flags = {flag: [bool(value) for value in fields[flag]] for flag in FLAGS if flag in fields}
        if any(len(values) != len(boxes) for values in (labels, *flags.values())):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{where}: got {line[:80]!r}, expected {{"file_name": …, "boxes": [[x0, y0, w, h], …], "labels": […]}} '
            "with a label, and a flag where there are flags, for each box"
        ) from error
    corners = np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], 1)
    outside = ~((corners >= -1e-3) & (corners <= 1 + 1e-3)).all(1)  # NaN is outside
    if outside.any():
        raise ValueError(
            f"{where}: a box is {boxes[int(outside.argmax())]}, expected x0, y0, w, h relative to the "
            f"picture, inside [0, 1]"
        )
    corners = corners.clip(0, 1)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
    return name, {"boxes": boxes, "labels": list(labels), **flags}


def read_layouts(root: Path) -> dict[Path, Layout]:
    """{file: its layout} of every layouts.jsonl below root; labels as they stand there, names or numbers.

    Raises: FileNotFoundError where there is none; ValueError, naming the line, for what is no layout.
    """
    files, found = [f for f in files_below(root, (".jsonl",)) if f.name == "layouts.jsonl"], {}
    if not files:
        raise FileNotFoundError(
            f"folder {str(root)!r} holds no layouts.jsonl, which says the boxes of its pictures"
        )
    for file in files:
        for number, line in text_files.lines(file, "layouts"):
            name, layout = _entry(line, f"{file} line {number}")
            found[file.parent / os.path.normpath(name)] = layout
    missing = [file for file in found if not file.is_file()]
    if missing:
        log.warning("%d layouts are of pictures that are not there, such as %s", len(missing), missing[0])
    return found


def _names_of(layouts: Mapping[Path, Layout]) -> list[list[str]]:
    """The classes of labels that are names, in alphabetical order; [] of numbers. Raises: ValueError for both, or
    neither."""
    labels = {label for layout in layouts.values() for label in layout["labels"]}
    if all(isinstance(label, str) for label in labels):
        return [[name] for name in sorted(labels)]
    if all(type(label) is int and label >= 0 for label in labels):
        return []
    strange = next(label for label in labels if not (type(label) is int and label >= 0))
    raise ValueError(
        f"layouts.jsonl: a label is {strange!r}, expected all of them names, or numbers from 0 on"
    )


class _FolderWithLayouts(folder.FolderSource):
    """Examples also hold `layout`, that of the file which was really read."""

    def __init__(self, pictures: folder.FolderSource, layouts: dict[Path, Layout]):
        kept = [at for at in range(len(pictures)) if pictures.path(at) in layouts]
        super().__init__(pictures.root, pictures.found.of(kept), list(pictures.known.values()))
        self.layouts = layouts

    def _labels(self, at: int) -> dict:
        return super()._labels(at) | {"layout": self.layouts[self.path(at)]}

    def fingerprint(self) -> str:
        told = [self.layouts[self.path(at)] for at in range(len(self))]
        return hashlib.sha256((super().fingerprint() + json.dumps(told)).encode()).hexdigest()


class LayoutSource:
    """Random access to pictures with layouts.

    An example holds image [H, W, 3] uint8, `layout` (a dict, relative to the whole picture), and what else `pictures`
    has. Training cuts both together with `cut`, in place of a recipe. class_names: of the labels, [] where they have
    none.
    """

    def __init__(
        self,
        pictures: Any,
        kept: Sequence[int],
        prepare: Callable[[Layout], Layout],
        class_names: list[str],
        *,
        train: bool,
        encode_crop: bool = True,
        mirror: float = 0.5,
    ):
        self.pictures, self.kept, self.prepare, self.class_names = pictures, kept, prepare, class_names
        self.train, self.encode_crop, self.mirror = train, encode_crop, mirror

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        return f"layouts({self.pictures!r}, {len(self)} kept)"

    def __getitem__(self, index: int) -> dict:
        """Raises: IndexError outside [0, len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {self!r}, expected 0 <= index < {len(self)}")
        example = dict(self.pictures[int(self.kept[index])])
        if "objects" in example:
            example["layout"] = self.prepare(of_tfds(example.pop("objects")))
        return example

    def cut(self, example: Mapping[str, Any], size: int, rng: np.random.Generator) -> dict:
        """{'image': [size, size, 3] float32 in [-1, 1], 'layout': …} of an example: `cut`, at random in training
        only."""
        image, layout = cut(
            example["image"],
            example["layout"],
            size,
            rng if self.train else None,
            encode_crop=self.encode_crop,
            mirror=self.mirror,
        )
        return {"image": image, "layout": layout}

    def unreadable_files(self) -> list[folder.Entry]:
        """As of the folder; of a TFDS data set none."""
        return pipeline.abilities(self.pictures).unreadable_files()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.pictures.fingerprint().encode())
        digest.update(np.asarray(self.kept, np.int64).tobytes() + json.dumps(self.class_names).encode())
        return digest.hexdigest()


def _kept(
    pictures: tfds.TfdsSource, prepare: Callable, fits: Callable, index: str | Path, made_of: str
) -> np.ndarray:
    """The numbers of the records that fit, from the file `index` if it was made of the same; otherwise all are read."""
    path = Path(index).expanduser() if str(index) else None
    if path and path.is_file():
        with np.load(path) as stored:
            if str(stored["made_of"]) == made_of:
                return stored["kept"]
    log.info("reading the boxes of %d records of %r, to choose among them", len(pictures), pictures)
    kept = [i for i, objects in enumerate(pictures.objects()) if fits(prepare(of_tfds(objects)))]
    kept = np.asarray(kept, np.int64)
    if path:
        with atomic.writing(path) as partial, partial.open("wb") as file:
            np.savez(file, kept=kept, made_of=np.str_(made_of))
    return kept


class _Choice(NamedTuple):
    """Which objects and pictures are kept. table: the names of each class; [] keeps all classes."""

    table: list[list[str]]
    min_objects: int
    max_objects: int
    min_area: float

    def fits(self, layout: Layout) -> bool:
        return self.min_objects <= len(layout["boxes"]) <= self.max_objects

    def preparation(self, names: Sequence[str]) -> Callable[[Layout], Layout]:
        """Of layouts as the data has them, which call label 0, 1, … by `names`, or have names in the place of
        numbers."""
        number = {name: i for i, several in enumerate(self.table) for name in several}
        numbers = {i: number[name] for i, name in enumerate(names) if name in number} | number
        return lambda layout: large(renumbered(layout, numbers) if self.table else layout, self.min_area)


def _of_folder(split: str, root: str | Path, choice: _Choice, **options: Any) -> tuple:
    """(pictures, kept, prepare, class names) of a folder."""
    listed = folder.source(split, root=root, **options)
    layouts = read_layouts(Path(root).expanduser())
    names = _names_of(layouts)
    choice = choice._replace(table=choice.table or names)
    prepare = choice.preparation([] if names else [several[0] for several in choice.table])
    prepared = {file: prepare(layout) for file, layout in layouts.items()}
    pictures = _FolderWithLayouts(
        listed, {file: layout for file, layout in prepared.items() if choice.fits(layout)}
    )
    log.info("%d of the %d images of %r have the right number of objects", len(pictures), len(listed), listed)
    return pictures, range(len(pictures)), prepare, [several[0] for several in choice.table]


def _of_tfds(split: str, choice: _Choice, index: str | Path, **options: Any) -> tuple:
    """(pictures, kept, prepare, class names) of a TFDS data set."""
    pictures = tfds.source(split, **options)
    names = pictures.object_names
    if choice.table and not names:
        raise ValueError(f"layouts: {pictures!r} has no names for its labels, expected no classes")
    prepare = choice.preparation(names)
    made_of = json.dumps([pictures.fingerprint(), *choice])
    kept = _kept(pictures, prepare, choice.fits, index, made_of)
    return pictures, kept, prepare, [several[0] for several in choice.table] or names


def source(
    split: str,
    *,
    root: str | Path = "",
    holdout: float = 0.0,
    min_side: int | None = None,
    split_folders: bool | None = None,
    known: Sequence[folder.Entry] = (),
    dataset: str = "",
    data_dir: str = "",
    image_key: str = "image",
    objects_key: str = "objects",
    index: str | Path = "",
    classes: str | Path = "",
    min_objects: int = 2,
    max_objects: int = 30,
    min_area: float = 1e-4,
    encode_crop: bool = True,
    mirror: float = 0.5,
) -> LayoutSource:
    """The pictures of a folder, or of a TFDS data set, that have between min_objects and max_objects objects.

    root, holdout, min_side, split_folders, known: of the source `folder`; root has a layouts.jsonl (see the module).
    dataset, data_dir, image_key: of the source `tfds`. objects_key: 'bobjects' of open_images_v4, 'objects' of coco.
    index: a file that remembers which records of a TFDS data set have so many objects; made if it is not there, which
    reads
        the whole split once. '' reads it each time.
    classes: a text file of the classes' names. '': labels are the data set's own numbers; names in a layouts.jsonl are
        numbered in alphabetical order.
    min_area: of a box, relative to the picture; smaller ones do not count. encode_crop, mirror: of `cut`, which the
    split
        'train' does at random.

    Raises: ValueError for both or neither of root and dataset, numbers out of range, or no picture left; else as the
    sources.
    """
    if bool(str(root)) == bool(dataset):
        raise ValueError(
            f"layouts: root is {str(root)!r} and dataset is {dataset!r}, expected one of them: a folder with "
            f"a layouts.jsonl "
            "(--config.data.root=FOLDER), or a TFDS data set"
        )
    if not 1 <= min_objects <= max_objects or not 0 <= mirror <= 1 or not 0 <= min_area < 1:
        raise ValueError(
            f"layouts: min_objects is {min_objects}, max_objects {max_objects}, mirror {mirror}, min_area {min_area}, "
            "expected 1 <= min_objects <= max_objects, a probability, and a part of 1"
        )
    choice = _Choice(read_classes(classes) if str(classes) else [], min_objects, max_objects, min_area)
    if dataset:
        keys = {"image_key": image_key, "objects_key": objects_key}
        found = _of_tfds(split, choice, index, dataset=dataset, data_dir=data_dir or None, **keys)
    else:
        listing = dict(holdout=holdout, min_side=min_side, split_folders=split_folders, known=known)
        found = _of_folder(split, root, choice, **listing)
    if not len(found[1]):
        raise ValueError(
            f"layouts: no picture of {found[0]!r} has {min_objects} to {max_objects} objects that cover "
            f"{min_area} of it"
        )
    train = split.split("[")[0] == "train"
    return LayoutSource(*found, train=train, encode_crop=encode_crop, mirror=mirror)
