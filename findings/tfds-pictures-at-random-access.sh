#!/usr/bin/env bash
# tensorflow-datasets 4.9.10, features.Image read by tfds.data_source: what is not plain 8-bit RGB comes out as other pixels than
# the file shows, and as others again where OpenCV is installed.
#
# Image.decode_example_np hands the file to OpenCV where it can be imported and else to Pillow, and takes the numbers inside:
# Pillow gives the indices of a palette, the four inks of CMYK, and one bit as 0 and 1. Both cut 16 bits of grey to the low byte.
# Seen for red in a palette PNG, white in a PNG of one bit, red in a CMYK JPEG, grey 0x8001 in a PNG of 16 bits:
#   with Pillow  palette (4, 4, 3) [1, 1, 1]; bit (4, 4, 3) [1, 1, 1]; cmyk (8, 8, 4) [0, 255, 255, 0]; grey16 (4, 4, 3) [1, 1, 1]
#   with OpenCV  palette (4, 4, 3) [255, 0, 0]; bit (4, 4, 3) [255, 255, 255]; cmyk (8, 8, 3) [255, 1, 1]; grey16 (4, 4, 3) [1, 1, 1]
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "tensorflow-datasets==4.9.10" "pillow==13.0.0" "numpy==2.4.6"
cat > "$folder/show.py" <<'PYTHON'
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encoded(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


palette = Image.new("P", (4, 4), 1)
palette.putpalette([0, 0, 0, 255, 0, 0])
files = {
    "palette": encoded(palette, "PNG"),
    "bit": encoded(Image.new("1", (4, 4), 1), "PNG"),
    "cmyk": encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
    "grey16": encoded(Image.fromarray(np.full((4, 4), 0x8001, np.uint16)), "PNG"),
}
found = []
for name, file in files.items():
    decoded = tfds.features.Image().decode_example_np(file)
    found.append(f"{name} {decoded.shape} {decoded[0, 0].tolist()}")
print("; ".join(found))
PYTHON
expect() {
    found=$("$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log")
    echo "$found"
    test "$found" = "$1"
}
expect "palette (4, 4, 3) [1, 1, 1]; bit (4, 4, 3) [1, 1, 1]; cmyk (8, 8, 4) [0, 255, 255, 0]; grey16 (4, 4, 3) [1, 1, 1]"
"$folder/venv/bin/pip" install --quiet "opencv-python-headless==5.0.0.93"
expect "palette (4, 4, 3) [255, 0, 0]; bit (4, 4, 3) [255, 255, 255]; cmyk (8, 8, 3) [255, 1, 1]; grey16 (4, 4, 3) [1, 1, 1]"
