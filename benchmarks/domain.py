"""The recipe of docs/personalization.md for a domain, from a folder of pictures with captions to a score, on three
things that the shapes world does not have:

    python benchmarks/domain.py --workdir /tmp/domain
    python benchmarks/domain.py --table

Writes DIR/train (--pictures of each thing, with metadata.jsonl) and DIR/real (--real of each, which nothing is
trained on), teaches the base a LoRA, draws --drawn of each thing, and trains a classifier on what it drew, which is
tested on DIR/real beside one that was trained on DIR/train. What is there in the workdir is not made again. Lines of
JSON go to benchmarks/results/domain.jsonl, and --table writes the last ones into the document.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.report import append, read  # noqa: E402
from ldm_jax import grid  # noqa: E402
from ldm_jax.checkpoints.open import open_checkpoint  # noqa: E402
from ldm_jax.commands import classifier_score, train  # noqa: E402
from ldm_jax.config import load_config  # noqa: E402
from ldm_jax.inference import pipeline  # noqa: E402
from ldm_jax.params import fingerprint  # noqa: E402
from ldm_jax.shapes_world import new_things  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "domain.jsonl"
DOCUMENT = ROOT / "docs" / "personalization.md"
BEGIN, END = "<!-- benchmarks/domain.py -->\n", "<!-- end of the domain -->\n"
CLASSES = {"ring": "zork", "two_color": "flim", "mulberry": "brup"}  # and words that the base does not know


def written(folder: Path, number: int, seed: int) -> None:
    """Pictures by classes, and metadata.jsonl with a caption of each."""
    if folder.is_dir():
        return
    partial, rows = folder.with_suffix(".partial"), []
    for thing, word in CLASSES.items():
        rng = np.random.default_rng([seed, *thing.encode()])
        (partial / thing).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            what = new_things.asked(thing, i)
            name = f"{thing}/{i:04}.png"
            grid.write_png(partial / name, new_things.picture(what, rng))
            rows.append(json.dumps(dict(file_name=name, text=what.caption.replace("{}", word))))
    (partial / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    partial.rename(folder)


def config_of(args: argparse.Namespace, folder: Path) -> dict:
    """As `--config configs/lora.py` with the options that the document gives."""
    config = load_config("configs/lora.py")
    config["data"] |= dict(root=str(folder), split_folders=False, precompute_latents=True)
    config["optimizer"] |= dict(base_lr=2e-3)
    config |= dict(base=args.base, total_steps=args.steps, checkpoint_every=25, preview_every=args.steps + 1)
    return config | dict(personalization=dict(name="lora", rank=8, text_rank=8))


def drawn(model: pipeline.LatentDiffusion, folder: Path, number: int, steps: int) -> None:
    for thing, word in CLASSES.items():
        (folder / thing).mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(number) if not (folder / thing / f"{i:04}.png").exists()]
        captions = [new_things.asked(thing, i).caption.replace("{}", word) for i in missing]
        if missing:
            for i, image in zip(
                missing, model.sample(captions, missing, num_steps=steps, batch_size=16), strict=True
            ):
                grid.write_png(folder / thing / f"{i:04}.png", image)


def measure(args: argparse.Namespace, workdir: Path) -> list[dict]:
    written(workdir / "train", args.pictures, 0)
    written(workdir / "real", args.real, 1)
    began = time.time()
    train.train(config_of(args, workdir / "train"), workdir / "lora")
    seconds, lines = time.time() - began, []
    about = dict(
        base=args.base,
        base_fingerprint=fingerprint(open_checkpoint(args.base).bundle().params)[:12],
        pictures=args.pictures,
        steps=args.steps,
        seconds=round(seconds, 1),
    )
    for name, adapters in (("base", []), ("lora", [str(workdir / "lora")])):
        drawn(
            pipeline.load(args.base, adapters=adapters),
            workdir / name / "drawn",
            args.drawn,
            args.sampling_steps,
        )
        compare = str(workdir / "train") if name == "lora" else None
        found = classifier_score.measured(str(workdir / name / "drawn"), str(workdir / "real"), compare)
        lines.append(about | dict(model=name, drawn=args.drawn) | found)
    return lines


def table(lines: list[dict]) -> str:
    last = {line["model"]: line for line in lines}
    if not {"lora", "base"} <= last.keys():
        return "Not measured yet.\n"
    rows = [
        "| trained on | pictures | accuracy on real ones | ring | two_color | mulberry |",
        "|" + "---|" * 6,
    ]

    def row(what: str, found: dict) -> str:
        low, high = found["interval"]
        each = " | ".join(f"{found['by_class'][thing]:.2f}" for thing in CLASSES)
        return (
            f"| {what} | {found['trained_on']} | {found['accuracy']:.2f} ({low:.2f} to {high:.2f}) | {each} |"
        )

    rows.append(row("the pictures that the LoRA was taught", last["lora"]["of_real"]))
    rows.append(row("what the LoRA draws", last["lora"]))
    rows.append(row("what the base draws of the same captions", last["base"]))
    rows.append(f"\nBase {last['lora']['base_fingerprint']}, {last['lora']['number']} real pictures.")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", default="shapes")
    add("--workdir", help="where everything is kept")
    add("--pictures", type=int, default=8, help="of each thing, that are taught")
    add("--real", type=int, default=100, help="of each thing, that the classifier is tested on")
    add("--drawn", type=int, default=48, help="of each thing")
    add("--steps", type=int, default=300)
    add("--sampling_steps", type=int, default=20)
    add("--table", action="store_true", help="write the results into the document")
    args = parser.parse_args()
    if args.table:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table(read(RESULTS)) + END + rest.partition(END)[2])
        return
    if not args.workdir:
        parser.error("--workdir is missing: the folder for pictures and the run")
    lines = measure(args, Path(args.workdir))
    print("\n".join(map(json.dumps, lines)))
    append(RESULTS, lines)


if __name__ == "__main__":
    main()
