#!/usr/bin/env bash
# datasets 5.2.0 (pandas 3.1.1), the builder imagefolder: a caption of metadata.csv that reads None, null, NA or nan is no caption.
#
# The table is read with pandas' list of spellings of a missing value, so that these words, as captions or as names of classes,
# become null. metadata.jsonl keeps them, as it has a null of its own.
# Seen: csv [None, None, None, None, '7 cats', None]; jsonl ['None', 'null', 'NA', 'nan', '7 cats', '']
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "datasets==5.2.0" "pandas==3.1.1" "pyarrow==26.0.1" "pillow==13.0.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>"$folder/log"
import csv
import json
import pathlib

from datasets import load_dataset
from PIL import Image

CAPTIONS = ["None", "null", "NA", "nan", "7 cats", ""]


def read(ending):
    place = pathlib.Path(ending) / "train"
    place.mkdir(parents=True)
    names = [f"{i}.png" for i in range(len(CAPTIONS))]
    for name in names:
        Image.new("RGB", (4, 4)).save(place / name)
    with open(place / f"metadata.{ending}", "w", newline="") as file:
        if ending == "csv":
            csv.writer(file).writerows([("file_name", "text"), *zip(names, CAPTIONS)])
        else:
            file.writelines(json.dumps({"file_name": n, "text": c}) + "\n" for n, c in zip(names, CAPTIONS))
    rows = load_dataset("imagefolder", data_dir=ending, split="train", cache_dir=f"cache_{ending}")
    return [row["text"] for row in rows]


found = {ending: read(ending) for ending in ("csv", "jsonl")}
for ending, captions in found.items():
    print(ending, captions)
assert found["csv"] == [None, None, None, None, "7 cats", None]
assert found["jsonl"] == CAPTIONS
PYTHON
