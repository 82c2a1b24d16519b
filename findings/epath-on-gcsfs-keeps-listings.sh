#!/usr/bin/env bash
# A folder of a bucket that was listed once through etils' epath stays as it was then: what another process writes is
# neither listed nor said to exist, also later.
#
# Versions: etils 1.15.0, gcsfs 2026.10.1, fsspec 2026.9.0, gcp-storage-emulator 2026.7.19, Python 3.11.
# Behavior: without tensorflow (or with EPATH_USE_TF=0) epath reaches gs:// through gcsfs, one file system object for
# the process, which keeps listings without a time limit and answers `exists` and `iterdir` from them. A training run
# whose checkpoints are written by tensorstore, or by another host, does not see them come: it has to turn
# `use_listings_cache` off in fsspec's configuration before the first path, as the second run does.
# Output seen, on 2026-11-30:
#     cached
#     listed at first: ['1.txt']
#     after another process wrote 2.txt: ['1.txt'], exists: False
#     five seconds later: ['1.txt'], exists: False
#     uncached
#     listed at first: ['1.txt']
#     after another process wrote 2.txt: ['1.txt', '2.txt'], exists: True
#     five seconds later: ['1.txt', '2.txt'], exists: True
set -euo pipefail
work=$(mktemp -d)
emulator=
trap 'kill "$emulator" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q etils==1.15.0 fsspec==2026.9.0 gcsfs==2026.10.1 gcp-storage-emulator==2026.7.19 importlib_resources zipp typing_extensions
port=$(env/bin/python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
env/bin/python -m gcp_storage_emulator start --host localhost --port "$port" --in-memory --default-bucket runs >emulator.log 2>&1 &
emulator=$!
sleep 3
export STORAGE_EMULATOR_HOST="http://localhost:$port" EPATH_USE_TF=0

cat >look.py <<'END'
import subprocess
import sys
import time

import fsspec.config

cached = sys.argv[1] == "cached"
if not cached:
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
from etils import epath

folder = epath.Path(f"gs://runs/{sys.argv[1]}")


def seen():
    return sorted(path.name for path in folder.iterdir()), (folder / "2.txt").exists()


(folder / "1.txt").write_text("1")
print("listed at first:", seen()[0])
other = f"import fsspec; fsspec.filesystem('gcs').pipe('runs/{sys.argv[1]}/2.txt', b'2')"
subprocess.run([sys.executable, "-c", other], check=True)
for when in ("after another process wrote 2.txt", "five seconds later"):
    names, exists = seen()
    print(f"{when}: {names}, exists: {exists}")
    expected = (["1.txt"], False) if cached else (["1.txt", "2.txt"], True)
    assert (names, exists) == expected, f"expected {expected}"
    time.sleep(5)
END
for listings in cached uncached; do
    echo "$listings"
    env/bin/python look.py "$listings" 2>errors || { cat errors; exit 1; }
done
