"""How many images a second the data pipeline alone gives, against what training on the shapes world takes:

    python benchmarks/data_pipeline.py

prints one JSON line for training and one for each source: the scenes drawn on demand, a folder of the same pictures as PNG
files with captions, and a folder of their latents as `python -m ldm_jax.data.precompute_latents` writes them. What is measured
of a source is what train.py asks of it: batches of the config, transformed, with tokens, in as many threads; its latents are
random numbers of the right shape, since the time does not depend on them. What training takes is the last rate that
`train.py --config configs/shapes_text.py` logs in a run of its own, whose latents lie in memory; --consumed gives it instead.
`times_consumed` is to be at least 3. On a machine that does other things too, compare `images_per_cpu_second`.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs import shapes_text
from ldm_jax.data import latents_builder, pipeline, transforms
from ldm_jax.data.latents import MadeOf
from ldm_jax.examples import conditions_of
from ldm_jax.system import System, make_system

ROOT = Path(__file__).parent.parent
FIRST_STAGE = dict(
    name="kl", channels=16, channel_mult=[1, 2, 2], num_res_blocks=1, z_channels=4, embed_dim=4, num_groups=8
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sources", nargs="+", choices=tuple(SOURCES), default=list(SOURCES))
    add("--num_images", type=int, default=2048, help="in the folders that are written")
    add("--seconds", type=float, default=10.0, help="how long each source is measured")
    add("--num_threads", type=int, default=2, help="of the loader; train.py has 2")
    add("--steps", type=int, default=40, help="of the training; the second half is measured")
    add("--consumed", type=float, help="images/s that training takes, where it has been measured")
    args = parser.parse_args()
    machine = dict(cpu=platform.processor() or platform.machine(), cores=os.cpu_count())
    config = shapes_text.get_config().to_dict()
    consumed = args.consumed or training_rate(args.steps)
    print(json.dumps(dict(measured="training", images_per_second=round(consumed, 1), **machine)), flush=True)
    config["first_stage"] = FIRST_STAGE
    system = make_system(config)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.sources:
            options = SOURCES[name](Path(folder), args.num_images)
            rates = loader_rate(config, system, options, args.seconds, args.num_threads)
            line = dict(
                measured=name, **rates, times_consumed=round(rates["images_per_second"] / consumed, 2)
            )
            line |= dict(num_threads=args.num_threads, batch_size=config["batch_size"])
            print(json.dumps(line | dict(load=round(os.getloadavg()[0], 1)) | machine), flush=True)


def training_rate(steps: int) -> float:
    """Images/s of the second half of a run of `steps` steps, as train.py logs it."""
    with tempfile.TemporaryDirectory() as workdir:
        changes = dict(
            total_steps=steps, log_every=steps // 2, checkpoint_every=steps, preview_every=10 * steps
        )
        changes |= {"first_stage_from": "shapes", "data.num_scenes": 512, "sampling.num_steps": 1}
        command = [sys.executable, "train.py", "--config=configs/shapes_text.py", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in changes.items()]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rates = re.findall(rf"step \d+/{steps}\b.*?([\d.]+) images/s", run.stderr)
    if run.returncode or not rates:
        raise RuntimeError(f"train.py measured nothing: {run.stderr[-500:]}")
    return float(rates[-1])


def loader_rate(
    config: dict, system: System, options: dict, seconds: float, num_threads: int
) -> dict[str, float]:
    """Images per second, and per second of processor time, of the batches that train.py would ask for."""
    source = pipeline.open_source(options.pop("name"), "train", **options)
    crop = transforms.recipe("none", config["image_size"], "train")
    conditions = conditions_of(dict(config, data={}), system, source, crop)

    def transform(example: dict, rng: np.random.Generator) -> dict:
        shown, given = conditions(example, rng)
        inputs = system.inputs({name: [value] for name, value in given.items()})
        return shown | {key: value[0] for key, value in inputs.items()}

    size = config["batch_size"]
    batches = pipeline.batches(source, batch_size=size, transform=transform, seed=0, num_threads=num_threads)
    for _ in range(2 * num_threads + 1):  # what was prepared before the clock runs
        next(batches)
    start, busy, number = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        number += size
    taken, busy = time.perf_counter() - start, time.process_time() - busy
    return dict(images_per_second=round(number / taken, 1), images_per_cpu_second=round(number / busy, 1))


# ---------------------------------------------------------------------------------------------------------- the sources


def drawn(folder: Path, number: int) -> dict[str, Any]:
    return dict(name="shapes", num_scenes=number, annotations=False)


def png_files(folder: Path, number: int) -> dict[str, Any]:
    """The scenes as files; captions in metadata.jsonl."""
    scenes = pipeline.open_source(**drawn(folder, number), split="train")
    root = folder / "pictures"
    root.mkdir()
    with (root / "metadata.jsonl").open("w") as lines:
        for i in range(number):
            Image.fromarray(scenes[i]["image"]).save(root / f"{i:06d}.png")
            lines.write(json.dumps(dict(file_name=f"{i:06d}.png", text=scenes[i]["caption"])) + "\n")
    return dict(name="folder", root=root)


def stored(folder: Path, number: int) -> dict[str, Any]:
    """Moments of the shipped first stage's shape, 16 x 16 x 8, drawn at random."""
    scenes = pipeline.open_source(**drawn(folder, number), split="train")
    made = MadeOf(
        first_stage="random",
        data=scenes.fingerprint(),
        source=repr(scenes),
        split="train",
        number=number,
        image_size=64,
        recipe="none",
        flip=False,
        moments=[16, 16, 8],
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
    statistics = dict(scale_factor=1.0, mean=[0.0] * 4, std=[1.0] * 4)
    latents_builder.finish(root, made, example(0), statistics)
    return dict(name="latents", root=root)


SOURCES: dict[str, Callable[[Path, int], dict]] = {"shapes": drawn, "folder": png_files, "latents": stored}


if __name__ == "__main__":
    main()
