"""How many images a second each source of pictures gives, what memory it takes, and what opening it costs:

    python benchmarks/data_sources.py                   # the same JPEGs from a folder and from every kind of shard
    python benchmarks/data_sources.py --folder PHOTOS   # the index of a folder: made, and opened from its cache
    python benchmarks/data_sources.py --folder /tmp/many --make 1000000   # of so many small pictures, made there first

prints one JSON line for each. A source is measured in a process of its own: shuffled batches of 32, each picture
decoded and cut to its middle, in --num_threads threads. `began_mb`, `opened_mb` and `rss_mb` are the most that the
process held before the source was opened, once it was, and at the end. Wall times are those of a machine that does
other things too; `open_cpu_seconds` and `images_per_cpu_second` count this process's own time.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ldm_jax.data import pipeline, transforms  # noqa: E402
from tests.data import written_shards  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sources", nargs="+", choices=list(written_shards.FORMATS), default=list(written_shards.FORMATS))
    add("--num_images", type=int, default=512)
    add("--size", type=int, default=512, help="side of the pictures, in pixels")
    add("--seconds", type=float, default=5.0)
    add("--num_threads", type=int, default=2)
    add("--folder", help="measure opening this folder instead, whose index is made anew")
    add("--make", type=int, default=0, help="write so many pictures with captions into --folder first")
    add("--measure", help=argparse.SUPPRESS)  # one source, by the JSON of its options
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(json.loads(args.measure), args)), flush=True)
    elif args.folder:
        if args.make:
            make(Path(args.folder), args.make)
        opened(args)
    else:
        shards(args)


def shards(args: argparse.Namespace) -> None:
    """Each source, in turn."""
    written = photographs(args.num_images, args.size)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.sources:
            options = written_shards.FORMATS[name](Path(folder) / name, written)
            alone({"name": name, **options}, args)


def opened(args: argparse.Namespace) -> None:
    """A folder, twice: its index is built, and is there."""
    time.sleep(3)  # what has changed just now is not kept
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            alone({"name": "folder", "root": args.folder}, args, LDM_JAX_CACHE=cache)


def alone(options: dict, args: argparse.Namespace, **environment: str) -> None:
    given = [f"--seconds={args.seconds}", f"--num_threads={args.num_threads}", f"--size={args.size}"]
    command = [sys.executable, __file__, "--measure", json.dumps(options), *given]
    subprocess.run(command, check=True, env={**os.environ, **environment})


def measure(options: dict, args: argparse.Namespace) -> dict[str, Any]:
    name, began = options.pop("name"), held()
    start, busy = time.perf_counter(), time.process_time()
    source = pipeline.open_source(name, "train", **options)
    fingerprint = source.fingerprint()
    opening, cpu, rss = time.perf_counter() - start, time.process_time() - busy, held()
    crop = transforms.recipe("plain", min(256, args.size), "train")
    can = pipeline.abilities(source)

    def transform(example: dict, rng: np.random.Generator) -> dict:
        return {"image": crop(can.pick(example, rng)["image"], rng)}

    batches = pipeline.batches(
        source, batch_size=32, transform=transform, seed=0, num_threads=args.num_threads
    )
    for _ in range(2):
        next(batches)
    start, busy, number = time.perf_counter(), time.process_time(), 0
    while number == 0 or time.perf_counter() - start < args.seconds:
        next(batches)
        number += 32
    seconds, used = time.perf_counter() - start, time.process_time() - busy
    return dict(
        source=name,
        entries=len(source),
        fingerprint=fingerprint[:12],
        open_seconds=round(opening, 3),
        open_cpu_seconds=round(cpu, 3),
        entries_per_second=round(len(source) / opening),
        images_per_second=round(number / seconds, 1),
        images_per_cpu_second=round(number / used, 1),
        began_mb=began,
        opened_mb=rss,
        rss_mb=held(),
        num_threads=args.num_threads,
        load=round(os.getloadavg()[0], 1),
        cores=os.cpu_count(),
    )


def held() -> int:
    """MB, the most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def photographs(number: int, size: int) -> written_shards.Pictures:
    """JPEGs of smooth noise: about as many bytes as a photograph of that size has."""
    rng, found = np.random.default_rng(0), []
    for i in range(number):
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append((f"{i:06d}.jpg", file.getvalue(), f"picture number {i}"))
    return found


def make(root: Path, number: int) -> None:
    """Small pictures with captions, a thousand to a folder."""
    ((_, data, _),) = written_shards.pictures(1, (64, 64))
    for i in range(number):
        folder = root / f"{i // 1000:05d}"
        if i % 1000 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:08d}.jpg").write_bytes(data)
        (folder / f"{i:08d}.txt").write_text(f"a picture, number {i} of many")


if __name__ == "__main__":
    main()
