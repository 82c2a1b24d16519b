"""Buckets in this process's memory, in the place of gcsfs: what paths.py does to them, in milliseconds.

What a store does beyond that, orbax and tensorstore among it, is asked of a server by test_bucket_workdir.py."""

import itertools

import pytest
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from ldm_jax import paths


class Buckets(MemoryFileSystem):
    """Objects have generations, and there are the buckets `runs`, and `locked`, in which everything is forbidden."""

    protocol = ("gcs", "gs")
    store, pseudo_dirs, generations = {}, [""], itertools.count(1)
    log: list[str] = []  # what was written and taken away, in order

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

    def _check(self, path):
        bucket = self._strip_protocol(path).strip("/").partition("/")[0]
        if bucket == "locked":
            raise OSError(f"Forbidden: b/{bucket}/o nobody does not have storage.objects.list access")
        if bucket != "runs":
            raise FileNotFoundError(path)

    def info(self, path, **kwargs):
        found = super().info(path, **kwargs)
        if found["type"] == "file":
            found["generation"] = str(self.store[found["name"]].generation)
        return found | {"name": found["name"].lstrip("/")}

    def ls(self, path, detail=True, **kwargs):
        self._check(path)
        found = super().ls(path, detail=True, **kwargs)
        found = [one | {"name": one["name"].lstrip("/")} for one in found]
        return found if detail else [one["name"] for one in found]

    def find(self, path, detail=False, **kwargs):
        whole = self._strip_protocol(path)
        names = [name for name in self.store if name == whole or name.startswith(f"{whole}/")]
        found = {name.lstrip("/"): self.info(name) for name in sorted(names)}
        return found if detail else list(found)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._check(path)
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        super().pipe_file(path, value)
        self.store[self._strip_protocol(path)].generation = next(self.generations)
        self.log.append(f"wrote {self._strip_protocol(path)}")

    def put_file(self, lpath, rpath, **kwargs):
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def call(self, method, path, bucket, name="", **conditions):
        self._check(bucket)
        if method == "GET":
            return
        found = self.store.get(f"/{bucket}/{name}")
        if found is None:
            raise FileNotFoundError(name)
        if conditions.get("ifGenerationMatch") not in (None, str(found.generation)):
            raise FileExistsError(name)
        del self.store[f"/{bucket}/{name}"]
        self.log.append(f"took away /{bucket}/{name}")


@pytest.fixture
def buckets(monkeypatch):
    """Buckets.store, {path: file}, of paths gs://…"""
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "pseudo_dirs", [""])
    monkeypatch.setattr(Buckets, "log", [])
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(paths, "_store", lambda: Buckets())
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: Buckets())
    return Buckets
