"""Writes what lies beside it: four pictures in the formats of datasets 5.2.0 (pyarrow 26.0.1) and webdataset 1.0.2.

python make.py FOLDER, where these are installed; they are no part of the tests' environment.
"""

import io
import sys
from pathlib import Path

import datasets
import numpy as np
import webdataset
from PIL import Image

out, rng = Path(sys.argv[1]), np.random.default_rng(0)
pictures = []
for _ in range(4):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(file, "PNG")
    pictures.append(file.getvalue())
labels = [0, 1, 1, 0]
features = datasets.Features(
    {
        "image": datasets.Image(),
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["ant", "bee"]),
    }
)
rows = {
    "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)],
    "text": ["picture 0", "picture 1", None, "picture 3"],
    "label": labels,
}
whole = datasets.Dataset.from_dict(rows, features=features)
(out / "parquet" / "data").mkdir(parents=True)
whole.to_parquet(out / "parquet" / "data" / "train-00000-of-00001.parquet")
splits = {"train": whole.select([0, 1, 2]), "validation": whole.select([3])}
datasets.DatasetDict(splits).save_to_disk(out / "arrow")
(out / "tars").mkdir()
with webdataset.TarWriter(str(out / "tars" / "00000.tar"), mtime=0, user="u", group="g") as tar:
    for i, data in enumerate(pictures):
        said = {"caption": f"picture {i}", "n": i}
        tar.write({"__key__": f"{i:05d}", "png": data, "txt": f"picture {i}", "json": said, "cls": labels[i]})
