"""How many pictures the inpainting models train on and draw in a second: table 6 of Rombach et al. 2022, measured here.

    python benchmarks/inpainting_throughput.py --batch_size 16
    python benchmarks/inpainting_throughput.py --small        # the same structures in eight channels, at 64 pixels

prints a JSON line for each model, appends it to benchmarks/results/inpainting_throughput.jsonl, and prints the table,
what was published beside what was measured. Weights are random: time does not depend on them. Training is at 256 x 256
and includes both passes of the first stage's encoder, sampling (DDIM, --steps) at 256 x 256 and 512 x 512 its decoder.
Models of which the file has a line from this machine are not measured again.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import cli
from ldm_jax.config import load_config
from ldm_jax.distributed import parallel
from ldm_jax.evaluation.report import markdown
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.system import make_system
from ldm_jax.training import program as training_program

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)

RESULTS = ROOT / "benchmarks" / "results" / "inpainting_throughput.jsonl"
# Table 6, one A100: training, sampling at 256 and 512, hours an epoch; FID of 2,000 pictures after six.
PUBLISHED = {
    "inpainting_ldm1": (0.11, 0.26, 0.07, 20.66, 24.74),
    "inpainting_kl4": (0.32, 0.97, 0.34, 7.66, 15.21),
    "inpainting_vq4": (0.33, 0.97, 0.34, 7.04, 14.99),
    "inpainting_vq4_noattn": (0.35, 0.99, 0.36, 6.66, 15.95),
}
EPOCH = 1_803_460  # pictures of Places365's training set


def filled(shapes: Any, scale: float = 0.0) -> Any:
    """Arrays of these shapes: zeros, or with scale normal numbers where they are floats."""
    rng = np.random.default_rng(0)

    def one(leaf: Any) -> np.ndarray:
        if scale and jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype) * scale
        return np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(one, shapes)


def rate(run: Callable[[], Any], number: int, rounds: int) -> float:
    """`number` divided by the median of the seconds that run() takes; the first, which compiles, is left out."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return number / statistics.median(seconds)


def training(config: dict[str, Any], rounds: int) -> float:
    """Pictures a second of one step of training."""
    placement = parallel.make("pmap", devices=jax.devices()[:1])
    program = training_program.make_training_program(config, placement)
    step = placement.compile(program.step, program.state, program.frozen)
    state = filled(program.state)
    state = placement.place(state.replace(params=filled(program.state.params, 0.02)))
    frozen, batch = filled(program.frozen, 0.02), filled(program.batch, 0.5)
    held = [state]

    def run() -> Any:
        held[0], metrics = step(held[0], frozen, batch, jnp.uint32(0))
        return metrics

    return rate(run, config["batch_size"], rounds)


def sampling(config: dict[str, Any], side: int, steps: int, rounds: int) -> float:
    """Pictures of side x side a second, drawn in `steps` and decoded."""
    system, number = make_system(config), config["batch_size"]
    model = LatentDiffusion(system, filled(system.param_shapes(), 0.02), 1.0, config)
    images = np.zeros((number, side, side, 3), np.uint8)
    masks = np.zeros((number, side, side), bool)
    masks[:, : side // 2] = True

    def run() -> Any:
        return model.sample(
            images=list(images), masks=list(masks), seeds=range(number), num_steps=steps, batch_size=number
        )

    return rate(run, number, rounds)


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    config = dict(load_config(f"{name}:runlocal" if args.small else name), batch_size=args.batch_size)
    config["first_stage_from"] = None
    sides = (config["image_size"], 2 * config["image_size"])
    found = dict(model=name, small=args.small, batch_size=args.batch_size, steps=args.steps, sides=sides)
    found["training"] = training(config, args.rounds)
    found["hours_an_epoch"] = EPOCH / found["training"] / 3600
    found["sampling"] = [sampling(config, side, args.steps, args.rounds) for side in sides]
    return found


def table(lines: list[dict[str, Any]]) -> str:
    """Table 6: of each model the newest line, and what was published."""
    newest = {line["model"]: line for line in lines}
    header = [
        "",
        "training, pictures/s",
        "sampling",
        "sampling at twice the side",
        "hours an epoch",
        "published",
    ]
    rows = []
    for name, (train, small, large, hours, fid) in PUBLISHED.items():
        said = f"{train}, {small}, {large}, {hours} h, FID {fid}"
        line = newest.get(name)
        figures = ["not measured"] * 4
        if line:
            figures = [f"{v:.3g}" for v in (line["training"], *line["sampling"], line["hours_an_epoch"])]
        rows.append([name, *figures, said])
    return markdown(header, rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", default=",".join(PUBLISHED), help="default %(default)s")
    add("--batch_size", type=int, default=8, help="default %(default)s")
    add("--steps", type=int, default=50, help="of sampling (default %(default)s)")
    add(
        "--rounds",
        type=int,
        default=3,
        help="that are timed, of which the median counts (default %(default)s)",
    )
    add("--small", action="store_true", help="the configs' :runlocal, which two cores can do")
    add("--results", type=Path, default=RESULTS, help="the file for the lines")
    args = parser.parse_args(argv)
    here = dict(device=jax.devices()[0].device_kind, machine=platform.machine(), jax=jax.__version__)
    asked = dict(small=args.small, batch_size=args.batch_size, steps=args.steps)
    for name in args.models.split(","):
        if name not in PUBLISHED:
            raise ValueError(f"--models has {name!r}, expected some of {', '.join(PUBLISHED)}")
        lines = report.read(args.results) if args.results.is_file() else []
        if any({**line, **here, **asked, "model": name} == line for line in lines):
            continue
        line = measured(name, args) | here | dict(date=time.strftime("%Y-%m-%d"))
        print(json.dumps(line), flush=True)
        report.append(args.results, [line])
    ours = [
        line for line in report.read(args.results) if {**line, **here, **asked} == line
    ]  # of this machine, asked for alike
    print(table(ours))


if __name__ == "__main__":
    cli.console(main)
