"""Every door against every generator: each try works, or is refused in one sentence that names the file, within 20
seconds and a gigabyte.

    python -m pytest -n 0 tests/doors                      # 200 tries at each door, 50 where a whole model is read
    python -m pytest -n 0 -m slow -s tests/doors           # 2,000, with the table
    python -m tests.doors.test_doors 2000 [DOOR ...]       # the same without pytest, with what was raw
"""

import contextlib
import logging
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.doors import generators, judge
from tests.doors.doors import DOORS

# Each of whose tries reads a whole model.
MODELS = ("ckpt of the original's", "safetensors of the original's", "bundle", "diffusers folder")
BAD = ("raw", "hang", "silent", "memory")


@contextlib.contextmanager
def shapes_kept() -> Iterator[None]:
    """Inside, the shapes of a network's parameters are found once for each network: most of a try's time otherwise."""
    found, inferred = {}, jax.eval_shape

    def eval_shape(fn, *args):
        owner = getattr(fn, "__self__", None)
        if owner is None or args and not isinstance(args[0], jax.Array):
            return inferred(fn, *args)
        parts = [part.conditioner for part in getattr(owner, "parts", ())]
        key = repr((getattr(owner, "unet", None), getattr(owner, "module", None), parts))
        key += repr(getattr(owner, "image_size", None))
        if key not in found:
            found[key] = inferred(fn, *args)
        return found[key]

    jax.eval_shape = eval_shape
    try:
        yield
    finally:
        jax.eval_shape = inferred


def of_values(door, rng: np.random.Generator):
    """(generator, the outcome, what was said) of one try at a door of values."""
    how = generators.OF_VALUES[rng.integers(len(generators.OF_VALUES))]
    value = generators.changed(door.good, how, rng)
    return how, *judge.tried(lambda: door.open(value), door.sound, door.named)


def of_files(door, good: Path, rng: np.random.Generator):
    """The same of a door of files. good: the folder that `make` filled."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "f"
        shutil.copytree(good, folder)
        candidates = sorted(p for pattern in door.broken for p in folder.glob(pattern) if p.is_file())
        path = candidates[rng.integers(len(candidates))]
        how, data = generators.broken(path.name, path.read_bytes(), rng)
        path.write_bytes(data)
        (folder / ".broken").write_text(path.name)
        kind, said = judge.tried(lambda: door.open(folder), door.sound, (*door.named, str(folder)))
    return f"{how} of {path.name}", kind, said


def tries(name: str, number: int) -> tuple[Counter, list[str]]:
    """Of `number` tries at a door: how many had which outcome, and what was neither right nor refused."""
    door, counts, wrong = DOORS[name], Counter(), []
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as good, shapes_kept():
        try:
            if door.make is not None:
                door.make(Path(good))
            for i in range(number):
                rng = np.random.default_rng([zlib.crc32(name.encode()), i])
                try_ = of_values(door, rng) if door.make is None else of_files(door, Path(good), rng)
                counts[try_[1]] += 1
                if try_[1] in BAD:
                    wrong.append(f"try {i}, {try_[0]}: {try_[1]}: {' '.join(try_[2].split())[:300]}")
        finally:
            logging.disable(logging.NOTSET)
    return counts, wrong


@pytest.mark.parametrize("name", DOORS)
def test_a_door_lets_in_what_is_good(name, tmp_path):
    door = DOORS[name]
    if door.make is None:
        assert door.sound(door.open(door.good))
        return
    door.make(tmp_path)
    for path in sorted(p for pattern in door.broken for p in tmp_path.glob(pattern) if p.is_file()):
        (tmp_path / ".broken").write_text(path.name)
        with (
            contextlib.suppress(ValueError)
            if name in ("label map", "depth map", "picture", "mask")
            else contextlib.nullcontext()
        ):
            assert door.sound(door.open(tmp_path))


@pytest.mark.parametrize("name", DOORS)
def test_some_tries(name):
    number = 50 if name in MODELS else 200
    counts, wrong = tries(name, number)
    assert not wrong, "\n".join(wrong[:20])
    assert counts["refused"] >= number // 10, counts


@pytest.mark.slow
def test_2000_tries():
    found = {name: tries(name, 2000) for name in DOORS}
    print("\n" + judge.table({name: counts for name, (counts, _) in found.items()}))
    assert not [line for _, wrong in found.values() for line in wrong]


if __name__ == "__main__":
    number, *names = sys.argv[1:] or ["200"]
    found = {}
    for name in names or DOORS:
        found[name], wrong = tries(name, int(number))
        print(*(f"{name}: {line}" for line in wrong), sep="\n", file=sys.stderr, flush=True)
    print(judge.table(found))
