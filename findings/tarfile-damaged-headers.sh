#!/usr/bin/env bash
# Python 3.11.7, tarfile: a damaged header in the middle of a tar ends the reading without a word.
#
# GNU tar 1.34 says of the same file "tar: Skipping to next header" and "tar: Exiting with failure status due to previous errors".
# TarFile.next() raises for a header that is no header only at the first member; at any later one it returns None, as at
# the end of the archive. So a shard of a data set that was damaged on its way reads as a shorter one. webdataset reads
# with tarfile as well. What tells the two apart is that an archive ends with a block of zeros (POSIX, ustar).
#
# The file is of three members, valid until its second header is overwritten with 0xff.
# Seen: tarfile gives ['a'] and no error. Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 - <<'PYTHON'
import io
import sys
import tarfile

with tarfile.open("whole.tar", "w") as tar:
    for name in "abc":
        member = tarfile.TarInfo(name)
        member.size = 700
        tar.addfile(member, io.BytesIO(bytes(700)))
with tarfile.open("whole.tar") as tar:
    at = [member.offset for member in tar]
data = open("whole.tar", "rb").read()
open("damaged.tar", "wb").write(data[: at[1]] + b"\xff" * 512 + data[at[1] + 512 :])
with tarfile.open("damaged.tar") as tar:
    found = tar.getnames()
print(sys.version.split()[0], found)
assert found == ["a"], found
PYTHON
if tar -tf damaged.tar > /dev/null 2> said; then echo "tar found nothing wrong"; exit 1; fi
cat said
