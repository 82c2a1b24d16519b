"""The source `voc`: PASCAL VOC's pictures with boxes and masks of their objects, from its folder as downloaded.

    root/JPEGImages/2007_000032.jpg, root/Annotations/2007_000032.xml
    root/ImageSets/Segmentation/train.txt, val.txt; root/ImageSets/Main/train.txt, val.txt
    root/SegmentationClass/2007_000032.png, root/SegmentationObject/2007_000032.png

root may be VOCdevkit/VOC2012, or a folder that has it. Source: Everingham et al. 2010, The PASCAL Visual Object Classes
Challenge; its development kit, sections 4 and 5: boxes count pixels from 1, borders of masks are 255, and the objects
of a mask are numbered as in the annotation.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import annotated, pictures

SPLITS = {"train": "train", "val": "val", "test": "val", "trainval": "trainval"}
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LISTS = {"segmentation": "Segmentation", "detection": "Main"}


def objects_of(path: Path) -> tuple[list[tuple[float, ...]], list[int], list[bool]]:
    """(boxes (x0, y0, x1, y1) in pixels from the corner, labels, whether each is marked as difficult) of an annotation.

    Raises: ValueError for a file that is not there, is no annotation, or has another class.
    """
    try:
        tree = ElementTree.fromstring(text_files.read(path, "annotation"))
        boxes, labels, difficult = [], [], []
        for entry in tree.iter("object"):
            x0, y0, x1, y1 = (float(entry.find(f"bndbox/{k}").text) for k in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((x0 - 1, y0 - 1, x1, y1))
            labels.append(CLASSES.index(entry.find("name").text.strip()))
            difficult.append((entry.findtext("difficult") or "0").strip() == "1")
    except (OSError, ElementTree.ParseError, AttributeError, ValueError) as error:
        raise ValueError(f"annotation {path} is not PASCAL VOC's: {error}") from None
    return boxes, labels, difficult


def source(split: str, *, root: str | Path, task: str = "segmentation") -> annotated.AnnotatedSource:
    """split: 'train', 'val', which 'test' is as well, or 'trainval'. task: 'segmentation', the pictures that have
    masks, or 'detection', all, without. Examples: those of annotated.py, and `difficult` [n] bool.

    Raises: ValueError for another split or task, or a folder or list that is not there.
    """
    name = annotated.split_of(split, SPLITS, "voc")
    if task not in LISTS:
        raise ValueError(f"task {task!r} of voc not found; there are: {', '.join(LISTS)}")
    root = Path(root).expanduser()
    root = next((p for p in (root / "VOCdevkit" / "VOC2012", root / "VOC2012") if p.is_dir()), root)
    listed = f"ImageSets/{LISTS[task]}/{name}.txt"
    masks = ["SegmentationClass", "SegmentationObject"] if task == "segmentation" else []
    root = annotated.check_folder(root, ["JPEGImages", "Annotations", listed, *masks], "voc")
    names = [line.split()[0] for line in text_files.all_lines(root / listed, "list") if line.strip()]

    def read(index: int) -> dict[str, Any]:
        image = pictures.decode(root / "JPEGImages" / f"{names[index]}.jpg")
        shape = image.shape[:2]
        boxes, labels, difficult = objects_of(root / "Annotations" / f"{names[index]}.xml")
        found = dict(
            image=image, boxes=annotated.relative(boxes, shape), labels=np.asarray(labels, np.int64),
            difficult=np.asarray(difficult, bool),
        )  # fmt: skip
        if masks:
            semantic, instances = (
                annotated.read_labels(root / m / f"{names[index]}.png", shape) for m in masks
            )
            instances = np.where(instances == annotated.UNKNOWN, 0, instances)
            found |= dict(instance_mask=instances, semantic_mask=semantic.astype(np.uint8))
        return found

    return annotated.AnnotatedSource(f"voc({split!r}, {task!r})", names, CLASSES, read)
