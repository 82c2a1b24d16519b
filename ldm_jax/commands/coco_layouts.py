"""Makes of COCO's annotations what layout models read: layouts.jsonl beside the pictures, and classes.txt.

    python -m ldm_jax.commands.coco_layouts --annotations instances_val2017.json stuff_val2017.json --out COCO/val2017

Things and stuff of COCO-Stuff together are the vocabulary of 171 classes that layout models of COCO are trained with
(Rombach et al. 2022, arXiv:2112.10752, section 4.3.1, and those that it compares with). classes.txt has them by their
numbers in COCO, the same for every split: name it with --config.data.classes=COCO/train2017/classes.txt. Which objects
and pictures are kept is decided by data/layouts.py (min_objects, max_objects, min_area). The last line is one JSON
object.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_jax import atomic, cli, text_files

FIELDS = {"images": list, "annotations": list, "categories": list}
OTHER = "other"  # stuff_*.json's class of all things, which is none


def layouts(files: Sequence[str | Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """([{'file_name', 'boxes': [[x0, y0, w, h], …] relative to the picture, 'labels': [name, …], 'group': [bool, …]}]
    by file name, names of the classes by their numbers) of COCO's files together.

    Boxes that reach over the border are cut off, and those without area left out. Raises: ValueError for a file that is
    not there or not COCO's.
    """
    names: dict[int, str] = {}
    pictures: dict[Any, dict[str, Any]] = {}
    for file in files:
        told = text_files.read_object(Path(file), "annotations", FIELDS)
        try:
            names |= {entry["id"]: entry["name"] for entry in told["categories"] if entry["name"] != OTHER}
            for entry in told["images"]:
                empty = dict(file_name=entry["file_name"], boxes=[], labels=[], group=[])
                size = entry["width"], entry["height"]
                pictures.setdefault(entry["id"], dict(empty, size=size))
            for entry in told["annotations"]:
                if entry["category_id"] in names:
                    _add(pictures[entry["image_id"]], entry, names[entry["category_id"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"annotations {file} are not COCO's: {type(error).__name__} {error}") from None
    lines = sorted((p for p in pictures.values() if p["boxes"]), key=lambda p: p["file_name"])
    return [{k: v for k, v in line.items() if k != "size"} for line in lines], [
        names[i] for i in sorted(names)
    ]


def _add(picture: dict[str, Any], entry: dict[str, Any], name: str) -> None:
    width, height = picture["size"]
    x, y, w, h = entry["bbox"]
    x0, y0, x1, y1 = (max(0.0, x), max(0.0, y), min(x + w, width), min(y + h, height))
    if x1 > x0 and y1 > y0:
        box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
        picture["boxes"].append(box)
        picture["labels"].append(name)
        picture["group"].append(bool(entry.get("iscrowd", 0)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--annotations",
        required=True,
        nargs="+",
        help="COCO's files of instances, and of stuff, of one split",
    )
    add(
        "--out",
        type=cli.on_disk,
        required=True,
        help="the folder of the pictures, for layouts.jsonl and classes.txt",
    )
    args = parser.parse_args(argv)
    found, classes = layouts(args.annotations)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out / "layouts.jsonl", "".join(json.dumps(line) + "\n" for line in found))
    atomic.write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes))
    missing = sum(not (out / line["file_name"]).is_file() for line in found)
    if missing:
        print(f"warning: {missing} of {len(found)} pictures are not in {out}", file=sys.stderr)
    print(json.dumps(dict(pictures=len(found), classes=len(classes), missing=missing, out=str(out))))


def console() -> None:
    """The console command `python -m ldm_jax.commands.coco_layouts`."""
    cli.console(main)


if __name__ == "__main__":
    console()
