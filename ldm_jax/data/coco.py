"""The source `coco`: COCO's pictures with boxes, masks and captions of their objects, from its folder as downloaded.

    root/annotations/instances_train2017.json, instances_val2017.json, maybe captions_train2017.json …
    root/train2017/000000000009.jpg …, root/val2017/…

Classes are numbered in the order of COCO's own numbers. Crowds are left out. Pictures without an object stay, as in
COCO's evaluation. Source: Lin et al. 2014 (arXiv:1405.0312); cocodataset.org, 'Data format'; run-length codes that are
not compressed, as crowds have them, are column by column.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax import text_files
from ldm_jax.data import annotated, pictures

SPLITS = {"train": "train", "val": "val", "test": "val"}
FIELDS = {"images": list, "annotations": list, "categories": list}


class CocoSource(annotated.AnnotatedSource):
    """Examples: image, those of annotated.py, and `caption` where there is a file of captions. COCO's numbers of the
    pictures are `numbers`."""

    def __init__(self, folder: Path, split: str, told: Mapping[str, Any], said: Mapping[Any, list[str]]):
        categories = sorted(told["categories"], key=lambda entry: entry["id"])
        self._label_of = {entry["id"]: i for i, entry in enumerate(categories)}
        images = sorted(told["images"], key=lambda entry: entry["file_name"])
        self.numbers = [entry["id"] for entry in images]
        self._objects: dict[Any, list[dict]] = {number: [] for number in self.numbers}
        for entry in told["annotations"]:
            if not entry.get("iscrowd", 0):
                self._objects[entry["image_id"]].append(entry)
        self._folder, self._said = folder, said
        names = [entry["file_name"] for entry in images]
        super().__init__(f"coco({split!r})", names, [entry["name"] for entry in categories], self._example)
        if said:  # an ability that a source without captions does not have
            self.said = lambda index: list(said.get(self.numbers[index], []))
            self.caption = lambda index, rng: _one(self.said(index), rng)

    def _example(self, index: int) -> dict[str, Any]:
        image = pictures.decode(self._folder / self.names[index])
        shape, objects = image.shape[:2], self._objects[self.numbers[index]]
        labels = [self._label_of[entry["category_id"]] for entry in objects]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (entry["bbox"] for entry in objects)]
        masks = [mask_of(entry["segmentation"], shape) for entry in objects]
        instances, semantic = annotated.painted(masks, labels, shape)
        found = dict(
            image=image, boxes=annotated.relative(boxes, shape), labels=np.asarray(labels, np.int64),
            instance_mask=instances, semantic_mask=semantic,
        )  # fmt: skip
        if self._said:
            found["caption"] = (self._said.get(self.numbers[index]) or [""])[0]
        return found


def _one(captions: Sequence[str], rng: np.random.Generator) -> str:
    return str(captions[rng.integers(len(captions))]) if captions else ""


def mask_of(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    """[H, W] bool of polygons [[x0, y0, x1, y1, …], …] or of {'size': [H, W], 'counts': [int, …]}. Which
    pixels of a polygon's border it covers is Pillow's to say, not pycocotools'. Raises: ValueError for another shape,
    or a compressed code."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if (
            not isinstance(counts, list)
            or tuple(segmentation["size"]) != shape
            or sum(counts) != shape[0] * shape[1]
        ):
            raise ValueError(f"coco: a run-length code of {segmentation['size']}, expected counts of {shape}")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape[::-1]).T
    drawn = Image.new("1", shape[::-1])
    for polygon in segmentation:
        if len(polygon) >= 6:  # fewer than three points cover nothing
            ImageDraw.Draw(drawn).polygon(polygon, fill=1)
    return np.asarray(drawn)


def source(split: str, *, root: str | Path, year: str = "2017") -> CocoSource:
    """split: 'train', or 'val', which 'test' is as well. year: of the files' names.

    Raises: ValueError for another split, a folder or file that is not there, or a file that is not COCO's.
    """
    name = annotated.split_of(split, SPLITS, "coco") + str(year)
    root = annotated.check_folder(root, [f"annotations/instances_{name}.json", name], "coco")
    file = root / "annotations" / f"instances_{name}.json"
    told, said = text_files.read_object(file, "annotations", FIELDS), {}
    captions = root / "annotations" / f"captions_{name}.json"
    try:
        if captions.is_file():
            for entry in text_files.read_object(captions, "captions", {"annotations": list})["annotations"]:
                said.setdefault(entry["image_id"], []).append(str(entry["caption"]).strip())
        return CocoSource(root / name, f"{split}{year}", told, said)
    except (KeyError, TypeError) as error:
        raise ValueError(f"annotations {file} are not COCO's: {type(error).__name__} {error}") from None
