"""The source `ade20k`: scenes in which each pixel has one of 150 classes, from the scene parsing challenge's folder.

    root/images/training/ADE_train_00000001.jpg …, root/images/validation/ADE_val_00000001.jpg …
    root/annotations/training/ADE_train_00000001.png …     0 what has no class, else the class's number, from 1
    root/objectInfo150.txt                                 number, shares of pixels and pictures, names; tabs between

Source: Zhou et al. 2017, Scene Parsing through ADE20K Dataset; ADEChallengeData2016 of the MIT Scene Parsing Benchmark.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import annotated, pictures

SPLITS = {"train": "training", "val": "validation", "test": "validation"}
CLASSES = "objectInfo150.txt"


def class_names(path: Path) -> list[str]:
    """The first of each class's names, in order. Raises: ValueError for a file that is none of them."""
    rows = [line.split("\t") for line in text_files.all_lines(path, "classes") if line.strip()][1:]
    if not rows or any(not row[0].strip().isdecimal() for row in rows):
        raise ValueError(
            f"classes {path}: expected a heading and lines that begin with a class's number and a tab"
        )
    numbers = [int(row[0]) for row in rows]
    if numbers != list(range(1, len(rows) + 1)):
        raise ValueError(f"classes {path}: numbers {numbers[:3]} …, expected 1 to {len(rows)} in order")
    return [row[-1].split(",")[0].strip() for row in rows]


def source(split: str, *, root: str | Path) -> annotated.AnnotatedSource:
    """split: 'train', or 'val', which 'test' is as well. Examples: image and semantic_mask.

    Raises: ValueError for another split, a folder or file that is not there, or a split without pictures.
    """
    name = annotated.split_of(split, SPLITS, "ade20k")
    folders = [f"images/{name}", f"annotations/{name}"]
    root = annotated.check_folder(root, [*folders, CLASSES], "ade20k")
    files = pictures.files_in(root / folders[0], (".jpg",))

    def read(index: int) -> dict[str, Any]:
        image = pictures.decode(files[index])
        labels = annotated.read_labels(root / folders[1] / f"{files[index].stem}.png", image.shape[:2])
        return dict(image=image, semantic_mask=labels.astype(np.uint8))

    names = [path.name for path in files]
    return annotated.AnnotatedSource(
        f"ade20k({split!r})", names, class_names(root / CLASSES), read, background=False
    )
