"""The source `spair`: SPair-71k's pairs of pictures and the points that are the same in both, from its folder.

    root/JPEGImages/cat/2007_000528.jpg …
    root/PairAnnotation/trn/000001-2007_000528-2008_000345:cat.json …, root/PairAnnotation/val/…, test/…
    root/Layout/large/trn.txt, val.txt, test.txt; root/Layout/small/…    names of pairs, a line each

Source: Min et al. 2019 (arXiv:1908.10543) and the data set's own README: PCK counts a point as found if it is nearer
than alpha times the longer side of the object's box in the second picture.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.data import annotated, pictures

SPLITS = {"train": "trn", "val": "val", "test": "test"}
LAYOUTS = ("large", "small")
FIELDS = {
    "src_imname": str, "trg_imname": str, "category": str, "src_kps": list, "trg_kps": list, "src_bndbox": list,
    "trg_bndbox": list,
}  # fmt: skip


def source(split: str, *, root: str | Path, layout: str = "large") -> annotated.AnnotatedSource:
    """split: 'train', 'val' or 'test'. layout: 'large', all pairs, or 'small', fewer.

    Examples: image and image_b [H, W, 3] uint8, points and points_b [k, 2] float32, (x, y) in the pixels of each, the
    same k in both, box and box_b [4] float32 (x0, y0, x1, y1), and class_label.
    Raises: ValueError for another split or layout, a folder or file that is not there, or a pair of no category.
    """
    name = annotated.split_of(split, SPLITS, "spair")
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} of spair not found; there are: {', '.join(LAYOUTS)}")
    listed = f"Layout/{layout}/{name}.txt"
    root = annotated.check_folder(root, ["JPEGImages", f"PairAnnotation/{name}", listed], "spair")
    names = [line.strip() for line in text_files.all_lines(root / listed, "list") if line.strip()]
    categories = sorted(path.name for path in (root / "JPEGImages").iterdir() if path.is_dir())

    def read(index: int) -> dict[str, Any]:
        file = root / "PairAnnotation" / name / f"{names[index]}.json"
        told = text_files.read_object(file, "pair", FIELDS)
        if told["category"] not in categories:
            raise ValueError(
                f"pair {file} is of {told['category']!r}, expected one of {', '.join(categories)}"
            )
        if len(told["src_kps"]) != len(told["trg_kps"]):
            raise ValueError(
                f"pair {file} has {len(told['src_kps'])} points and {len(told['trg_kps'])}, expected as many"
            )
        folder, found = root / "JPEGImages" / told["category"], {}
        for theirs, ours in (("src", ""), ("trg", "_b")):
            found[f"image{ours}"] = pictures.decode(folder / told[f"{theirs}_imname"])
            found[f"points{ours}"] = np.asarray(told[f"{theirs}_kps"], np.float32).reshape(-1, 2)
            found[f"box{ours}"] = np.asarray(told[f"{theirs}_bndbox"], np.float32)
        return found | {"class_label": categories.index(told["category"])}

    return annotated.AnnotatedSource(f"spair({split!r}, {layout!r})", names, categories, read)
