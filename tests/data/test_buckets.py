"""Shards in a bucket, read from an object store that the test starts on the loopback.

Needs `pip install gcsfs gcp-storage-emulator`, which are no part of the tests' environment; test_shards.py reads the
same from fsspec's file system of memory.
"""

import itertools
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

from ldm_jax.data import pipeline
from tests.data import written_shards


@pytest.fixture
def bucket(monkeypatch):
    """A file system of Google's kind with the bucket `photos`."""
    monkeypatch.setenv(
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"
    )  # or gcsfs asks by gRPC, which emulators lack
    gcsfs = pytest.importorskip("gcsfs")
    emulator = shutil.which("gcp-storage-emulator")
    if emulator is None:
        pytest.skip("gcp-storage-emulator is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    given = ["start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=photos"]
    server = subprocess.Popen([emulator, *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield gcsfs.GCSFileSystem(token="anon")
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_a_bucket_gives_the_batches_of_the_disk(name, bucket, tmp_path):
    options = written_shards.FORMATS[name](tmp_path / name, written_shards.pictures(12))
    bucket.put(str(tmp_path / name), f"photos/{name}", recursive=True)

    def batches(root):
        source = pipeline.open_source(name, "train", root=root)

        def transform(example, rng):
            return {"image": example["image"], "caption": example["caption"]}

        found = pipeline.batches(source, batch_size=4, transform=transform, seed=0, num_threads=0)
        return source.fingerprint(), list(itertools.islice(found, 6))

    (ours, here), (theirs, there) = batches(options["root"]), batches(f"gs://photos/{name}")
    assert ours == theirs
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["caption"], b["caption"])
    with pytest.raises(FileNotFoundError, match="nothing is there at 'gs://photos/none'"):
        pipeline.open_source(name, "train", root="gs://photos/none")
