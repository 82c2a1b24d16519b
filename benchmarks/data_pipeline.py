"""How many images a second the data pipeline alone gives, against what training on the shapes world takes on the same
machine:

    python benchmarks/data_pipeline.py

prints one JSON line for each of the two trainings and one for each pipeline: the scenes drawn on demand and a folder of
the same pictures as PNG files, which configs/shapes_kl_f4.py is trained on; their latents in a workdir, as
configs/shapes_text.py keeps them, and in a folder, as `ldm-precompute-latents` writes them. What is measured of a
pipeline is what train.py
asks of it: batches of the config, transformed, with tokens, in as many threads. What is measured of training is its
compiled step alone, without waiting for data. Pictures apart, the numbers are zeros or random: no time depends on them.

The two are measured in turn, `--rounds` times, so that what else the machine does falls on both: `times_consumed` is
the median of the ratios of one round, and is to be at least 3. `times_consumed_per_cpu` is the same of processor time.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ldm_jax.config import load_config
from ldm_jax.data import latents_builder, pipeline, transforms
from ldm_jax.data.latents import MadeOf
from ldm_jax.distributed import parallel
from ldm_jax.system import make_system
from ldm_jax.training import program as training_program
from ldm_jax.training.examples import conditions_of, inputs_of, needed_beside_moments
from ldm_jax.training.latents import MomentsSource

CONFIGS = {name: load_config(name) for name in ("shapes_kl_f4", "shapes_text")}
FIRST_STAGE = CONFIGS["shapes_kl_f4"]["first_stage"]
MOMENTS = (16, 16, 8)  # of that first stage


class Rate(NamedTuple):
    """Images per second, and per second of this process's time on all processors."""

    per_second: float
    per_cpu_second: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pipelines", nargs="+", choices=tuple(PIPELINES), default=list(PIPELINES))
    add("--num_images", type=int, default=2048, help="in the folders that are written")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="of each measurement of a round")
    add("--num_threads", type=int, default=2, help="of the loader; train.py has 2")
    args = parser.parse_args()
    names = dict.fromkeys(PIPELINES[name][0] for name in args.pipelines)
    configs = {name: CONFIGS[name] | dict(first_stage=FIRST_STAGE) for name in names}
    steps = {name: training(config) for name, config in configs.items()}
    with tempfile.TemporaryDirectory() as folder:
        loaders = {}
        for name in args.pipelines:
            config, source = PIPELINES[name]
            source = source(Path(folder), args.num_images)
            loaders[name] = batches(configs[config], source, args.num_threads)
        measured: dict[str, list[Rate]] = {name: [] for name in (*steps, *loaders)}
        for _ in range(args.rounds):
            for name, calls in (steps | loaders).items():
                size = configs[name if name in steps else PIPELINES[name][0]]["batch_size"]
                before = (
                    2 * args.num_threads + 1 if name in loaders else 0
                )  # prepared while it was not measured
                measured[name].append(rate(calls, size, args.seconds, before))
    shared = dict(rounds=args.rounds, num_threads=args.num_threads, load=round(os.getloadavg()[0], 1))
    shared |= dict(cpu=platform.processor() or platform.machine(), cores=os.cpu_count())
    for name, rates in measured.items():
        line = dict(measured=name, images_per_second=middle(r.per_second for r in rates))
        line |= dict(images_per_cpu_second=middle(r.per_cpu_second for r in rates))
        if name in loaders:
            consumed = measured[PIPELINES[name][0]]
            pairs = list(zip(rates, consumed, strict=True))
            line |= dict(for_training=PIPELINES[name][0])
            line |= dict(times_consumed=middle(a.per_second / b.per_second for a, b in pairs))
            line |= dict(times_consumed_per_cpu=middle(a.per_cpu_second / b.per_cpu_second for a, b in pairs))
        print(json.dumps(line | shared), flush=True)


def middle(values: Iterator[float]) -> float:
    return round(statistics.median(values), 2)


def rate(calls: Iterator, batch_size: int, seconds: float, before: int) -> Rate:
    """Of next(calls), which is `batch_size` images; before: calls that are not counted."""
    for _ in range(before):
        next(calls)
    start, busy, number = time.perf_counter(), time.process_time(), 0
    while number == 0 or time.perf_counter() - start < seconds:
        next(calls)
        number += batch_size
    return Rate(number / (time.perf_counter() - start), number / (time.process_time() - busy))


def training(config: dict) -> Iterator[None]:
    """Each next() is one training step on all devices, the first of them done already."""
    placement = parallel.make(config.get("parallelism", "pmap"), config.get("mesh"))
    program = training_program.make_training_program(config, placement)
    step = placement.compile(program.step, program.state, program.frozen)
    state, frozen, batch = (
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
        for tree in (program.state, program.frozen, program.batch)
    )
    state, frozen, batch = placement.place(state), placement.place(frozen), placement.place_batch(batch)

    def steps(state: Any) -> Iterator[None]:
        while True:
            state, _ = step(state, frozen, batch, np.uint32(0))
            jax.block_until_ready(state)
            yield

    calls = steps(state)
    next(calls)  # compiles
    return calls


def batches(config: dict, source: Any, num_threads: int) -> Iterator[dict]:
    """Those that train.py would ask for."""
    crop = transforms.recipe("none", config["image_size"], "train")
    if config["task"] == "first_stage":

        def transform(example: dict, rng: np.random.Generator) -> dict:
            return {"image": crop(example["image"], rng)}
    else:
        system = make_system(config)
        transform = inputs_of(system, conditions_of(dict(config, data={}), system, source, crop))

    size = config["batch_size"]
    return pipeline.batches(source, batch_size=size, transform=transform, seed=0, num_threads=num_threads)


# ---------------------------------------------------------------------------------------------------------- the sources


def drawn(folder: Path, number: int) -> Any:
    return pipeline.open_source("shapes", "train", num_scenes=number, annotations=False)


def png_files(folder: Path, number: int) -> Any:
    """The scenes as files; captions in metadata.jsonl."""
    scenes = drawn(folder, number)
    root = folder / "pictures"
    root.mkdir()
    with (root / "metadata.jsonl").open("w") as lines:
        for i in range(number):
            Image.fromarray(scenes[i]["image"]).save(root / f"{i:06d}.png")
            lines.write(json.dumps(dict(file_name=f"{i:06d}.png", text=scenes[i]["caption"])) + "\n")
    return pipeline.open_source("folder", "train", root=root)


def in_workdir(folder: Path, number: int) -> Any:
    """Random moments in a file, as data.precompute_latents keeps them."""
    path, config = folder / "latents.npy", CONFIGS["shapes_text"]
    np.save(path, np.random.default_rng(0).normal(size=(number, *MOMENTS)).astype(np.float32))
    fields = needed_beside_moments(config, make_system(dict(config, first_stage=FIRST_STAGE)))
    return MomentsSource(drawn(folder, number), np.load(path, mmap_mode="r"), fields)


def in_folder(folder: Path, number: int) -> Any:
    """Random moments in a folder of latents."""
    scenes = drawn(folder, number)
    made = MadeOf(
        first_stage="random",
        data=scenes.fingerprint(),
        source=repr(scenes),
        split="train",
        number=number,
        image_size=64,
        recipe="none",
        flip=False,
        moments=list(MOMENTS),
        has_variance=True,
        dtype="float32",
        computed_in="float32",
        fields=["caption", "class_label"],
        text_encoder=None,
        file_format="array_record",
        examples_per_shard=512,
    )
    rng, root = np.random.default_rng(0), folder / "latents"

    def example(i: int) -> dict:
        fields = {name: latents_builder.storable(name, scenes[i][name]) for name in made.fields}
        return {"moments": rng.normal(size=made.moments).astype(np.float32)} | fields

    for shard in latents_builder.begin(root, made):
        examples = [example(i) for i in made.examples(shard)]
        latents_builder.write_shard(root, made, shard, examples, {}, examples[0])
    latents_builder.finish(root, made, example(0), dict(scale_factor=1.0, mean=[0.0] * 4, std=[1.0] * 4))
    return pipeline.open_source("latents", "train", root=root)


PIPELINES: dict[str, tuple[str, Callable[[Path, int], Any]]] = {
    "drawn": ("shapes_kl_f4", drawn),
    "png_files": ("shapes_kl_f4", png_files),
    "latents_in_workdir": ("shapes_text", in_workdir),
    "latents_in_folder": ("shapes_text", in_folder),
}


if __name__ == "__main__":
    main()
