#!/usr/bin/env bash
# torch 2.13.0: after torch.serialization.set_crc32_options(False), torch.save writes a zip that torch.load reads and every
# other reader of zips calls damaged.
#
# The option leaves the checksums out: each entry's CRC-32 is 0 in the archive, which the format takes for a checksum of 0.
# Python's zipfile raises BadZipFile at the first entry it reads. A reader that is to take such files has to tell a checksum of
# 0 from a wrong one.
#
# Seen: CRC 0x0 for every entry; torch.load gives the tensor; "Bad CRC-32 for file 'model/data.pkl'".
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import zipfile

import torch

torch.serialization.set_crc32_options(False)
torch.save({"weight": torch.arange(3.0)}, "model.pt")
assert torch.load("model.pt", weights_only=True)["weight"].tolist() == [0.0, 1.0, 2.0]
with zipfile.ZipFile("model.pt") as archive:
    print({info.filename: hex(info.CRC) for info in archive.infolist()})
    assert not any(info.CRC for info in archive.infolist())
    try:
        archive.read("model/data.pkl")
    except zipfile.BadZipFile as error:
        print(error)
    else:
        raise SystemExit("zipfile reads it")
PYTHON
