"""Tiny folders in the layouts that data sets are published in, of colored rectangles."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(12, 10), (8, 14), (10, 10)]  # (width, height) of the pictures


def picture(path: Path, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 2 * value, 3 * value)).save(path)


def gray(path: Path, labels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(labels.astype(np.uint8))
    if palette:
        made.putpalette([i % 256 for i in range(768)])
    made.save(path)


def text(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def coco(root: Path) -> dict:
    """Three pictures of two splits alike: the first with a polygon and a smaller one within, the second with a
    run-length code and a crowd, the third with nothing."""
    square = [2, 2, 9, 2, 9, 7, 2, 7]
    code = {"size": [14, 8], "counts": [14 * 2 + 3, 4, 10, 4, 14 * 8 - (14 * 2 + 3 + 4 + 10 + 4)]}
    objects = [
        dict(image_id=7, category_id=18, bbox=[2, 2, 7, 5], segmentation=[square], iscrowd=0),
        dict(
            image_id=7, category_id=1, bbox=[3, 3, 2, 2], segmentation=[[3, 3, 5, 3, 5, 5, 3, 5]], iscrowd=0
        ),
        dict(image_id=9, category_id=1, bbox=[2, 3, 2, 4], segmentation=code, iscrowd=0),
        dict(image_id=9, category_id=1, bbox=[0, 0, 8, 14], segmentation=code, iscrowd=1),
    ]
    categories = [dict(id=18, name="dog"), dict(id=1, name="person")]
    for split in ("train2017", "val2017"):
        images = [
            dict(id=n, file_name=f"{n:012}.jpg", width=w, height=h)
            for n, (w, h) in zip((7, 9, 4), SIZES, strict=True)
        ]
        for entry, size in zip(images, SIZES, strict=True):
            picture(root / split / entry["file_name"], size, 40)
        told = dict(images=images, annotations=objects, categories=categories)
        text(root / "annotations" / f"instances_{split}.json", told)
        said = [dict(image_id=n, caption=c) for n, c in ((7, "a dog"), (7, "one dog "), (9, "a person"))]
        text(root / "annotations" / f"captions_{split}.json", dict(annotations=said))
    return {"root": root}


def voc(root: Path) -> dict:
    folder = root / "VOCdevkit" / "VOC2012"
    for i, (w, h) in enumerate(SIZES):
        name = f"2007_00000{i}"
        picture(folder / "JPEGImages" / f"{name}.jpg", (w, h), 30)
        entry = "".join(
            f"<object><name>{kind}</name><difficult>{k}</difficult><bndbox><xmin>{2 + 3 * k}</xmin><ymin>3</ymin>"
            f"<xmax>{4 + 3 * k}</xmax><ymax>6</ymax></bndbox></object>"
            for k, kind in enumerate(("cat", "person"))
        )
        text(
            folder / "Annotations" / f"{name}.xml",
            f"<annotation><filename>{name}</filename>{entry}</annotation>",
        )
        objects = np.zeros((h, w), int)
        objects[2:6, 1:4], objects[2:6, 4:7], objects[1] = 1, 2, 255
        gray(folder / "SegmentationObject" / f"{name}.png", objects, palette=True)
        gray(
            folder / "SegmentationClass" / f"{name}.png",
            np.asarray([0, 8, 15] + [0] * 252 + [255])[objects],
            palette=True,
        )
    for kind in ("Segmentation", "Main"):
        for split in ("train", "val"):
            text(folder / "ImageSets" / kind / f"{split}.txt", "".join(f"2007_00000{i}\n" for i in range(3)))
    return {"root": root}


def ade20k(root: Path) -> dict:
    text(
        root / "objectInfo150.txt",
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.2\t9\t1\twall\n2\t0.1\t9\t1\tbuilding, edifice\n",
    )
    for split, short in (("training", "train"), ("validation", "val")):
        for i, (w, h) in enumerate(SIZES):
            name = f"ADE_{short}_{i + 1:08}"
            picture(root / "images" / split / f"{name}.jpg", (w, h), 50)
            gray(root / "annotations" / split / f"{name}.png", np.arange(w * h).reshape(h, w) % 3)
    return {"root": root}


def spair(root: Path) -> dict:
    for name, size in zip(("a", "b", "c"), SIZES, strict=True):
        picture(root / "JPEGImages" / "cat" / f"{name}.jpg", size, 20)
    (root / "JPEGImages" / "bus").mkdir()
    names = ["000001-a-b:cat", "000002-b-c:cat"]
    for split in ("trn", "val", "test"):
        text(root / "Layout" / "large" / f"{split}.txt", "\n".join(names))
        for name in names:
            first, second = name.split(":")[0].split("-")[1:]
            told = dict(
                src_imname=f"{first}.jpg", trg_imname=f"{second}.jpg", category="cat", src_kps=[[1, 2], [3, 4]],
                trg_kps=[[2, 2], [4, 5]], src_bndbox=[0, 1, 6, 7], trg_bndbox=[1, 1, 6, 9],
            )  # fmt: skip
            text(root / "PairAnnotation" / split / f"{name}.json", told)
    return {"root": root}


LAYOUTS = dict(coco=coco, voc=voc, ade20k=ade20k, spair=spair)
