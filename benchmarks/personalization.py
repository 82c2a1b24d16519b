"""Teaches a shapes model something that it does not know, one way after the other, and measures what each learned:

    python benchmarks/personalization.py --thing purple --method textual_inversion
    python benchmarks/personalization.py --thing ring --method lora --steps 200
    python benchmarks/personalization.py --table

A line of JSON for each goes to benchmarks/results/personalization.jsonl, and --table writes those into
docs/personalization.md. Probe: how often the new thing is drawn right in captions of its kind, of `--samples`; right:
how often ordinary captions are; drift: by how much their pictures changed, in levels of 255.
The new word stands at a place of the vocabulary that no caption has used, [UNK], where a way
brings none of its own.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.report import append  # noqa: E402  (a script has its own folder on the path, and not the repository)
from ldm_jax import grid  # noqa: E402
from ldm_jax.checkpoints import adapters  # noqa: E402
from ldm_jax.commands import train  # noqa: E402
from ldm_jax.config import load_config  # noqa: E402
from ldm_jax.inference import pipeline  # noqa: E402
from ldm_jax.shapes_world import new_things, oracle, prompts  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "personalization.jsonl"
DOCUMENT = ROOT / "docs" / "personalization.md"
BEGIN, END = "<!-- benchmarks/personalization.py -->\n", "<!-- end -->\n"
WORD = "zork"  # unknown to the base, whose tokenizer makes it [UNK]
TOKEN = "<it>"
METHODS = {  # section of personalization, learning rate
    "textual_inversion": (dict(name="textual_inversion", token=TOKEN), 1e-2),
    "extended_textual_inversion": (dict(name="extended_textual_inversion", token=TOKEN, sites=4), 1e-2),
    "lora": (dict(name="lora", rank=8, text_rank=8), 2e-3),
    "lora_dora": (dict(name="lora", rank=8, text_rank=8, dora=True), 2e-3),
    "loha": (dict(name="loha", rank=4), 2e-3),
    "lokr": (dict(name="lokr", rank=8), 2e-3),
    "custom_diffusion": (dict(name="custom_diffusion", token=TOKEN), 2e-3),
    "dreambooth": (dict(name="dreambooth", text_encoder=True), 2e-4),
    "dreambooth_prior": (dict(name="dreambooth", text_encoder=True), 2e-4),
}
ORDINARY = ("one", "relation")  # kinds of captions


def photographs(folder: Path, thing: str, word: str, number: int) -> None:
    """Pictures of the thing with captions beside them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(number):
        what = new_things.asked(thing, i)
        grid.write_png(folder / f"{i}.png", new_things.picture(what, rng))
        (folder / f"{i}.txt").write_text(what.caption.replace("{}", word))


def config_of(args: argparse.Namespace, folder: Path, section: dict, rate: float) -> dict:
    config = load_config("configs/lora.py:runlocal")
    config["optimizer"] = dict(
        config["optimizer"], base_lr=rate, schedule=dict(name="constant", warm_up_steps=10)
    )
    config["data"] = dict(name="folder", root=str(folder), recipe="plain", split_folders=False)
    config |= dict(
        base=args.base, personalization=section, total_steps=args.steps, batch_size=4, ema_decay=0.9
    )
    every = dict(checkpoint_every=25, preview_every=args.steps + 1, log_every=max(1, args.steps // 4))
    if args.method == "dreambooth_prior":
        config["prior"] = dict(prompt=args.prior_prompt, number=args.prior)
    return config | every


def drawn(model: pipeline.LatentDiffusion, captions: list[str], steps: int) -> np.ndarray:
    return model.sample(captions, list(range(len(captions))), num_steps=steps, batch_size=16)


def probe(model: pipeline.LatentDiffusion, thing: str, word: str, samples: int, steps: int) -> float:
    """The part of captions of the thing, in sizes, shapes and colors in turns, that are drawn right."""
    asked = [new_things.asked(thing, i) for i in range(samples)]
    images = drawn(model, [what.caption.replace("{}", word) for what in asked], steps)
    return float(np.mean([new_things.shows(image, what) for image, what in zip(images, asked, strict=True)]))


def ordinary(model: pipeline.LatentDiffusion, samples: int, steps: int) -> tuple[np.ndarray, float]:
    """(pictures of ordinary captions, the part of them that is right)."""
    captions = [c for kind in ORDINARY for c in prompts.prompts(kind, samples // len(ORDINARY))]
    images = drawn(model, captions, steps)
    return images, float(np.mean([oracle.score(i, c).right for i, c in zip(images, captions, strict=True)]))


def measure(args: argparse.Namespace, workdir: Path) -> dict:
    section, rate = METHODS[args.method]
    word = section.get("token", WORD)
    folder = workdir / "photographs"
    if not folder.is_dir():
        photographs(folder, args.thing, word, args.pictures)
    began = time.time()
    train.train(config_of(args, folder, section, args.rate or rate), workdir / "run")
    seconds = time.time() - began
    adapter = adapters.read(workdir / "run")
    taught, plain = pipeline.load(args.base, adapters=[str(workdir / "run")]), pipeline.load(args.base)
    found = dict(
        probe=probe(taught, args.thing, word, args.samples, args.sampling_steps),
        before=probe(plain, args.thing, WORD, args.samples, args.sampling_steps),
    )
    (now, right), (then, right_before) = (
        ordinary(model, args.samples, args.sampling_steps) for model in (taught, plain)
    )
    drift = float(np.abs(now.astype(float) - then).mean())
    about = dict(
        thing=args.thing, method=args.method, base=args.base, pictures=args.pictures, steps=args.steps
    )
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(adapter.delta))
    made = dict(
        samples=args.samples, seconds=round(seconds, 1), bytes=size, hardware=platform.processor() or "cpu"
    )
    return (
        about | made | found | dict(right=right, right_before=right_before, drift=drift, jax=jax.__version__)
    )


def table() -> str:
    """The lines of RESULTS as a table; of one thing and way the last."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    last = {(line["thing"], line["method"]): line for line in lines}
    head = "| thing | way | pictures | steps | seconds | bytes | probe (before) | ordinary right (before) "
    rows = [head + "| drift |", "|" + "---|" * 9]
    for (thing, method), line in sorted(last.items()):
        rows.append(
            f"| {thing} | {method} | {line['pictures']} | {line['steps']} | {line['seconds']:.0f} | {line['bytes']:,} "
            f"| {line['probe']:.2f} ({line['before']:.2f}) | {line['right']:.2f} ({line['right_before']:.2f}) "
            f"| {line['drift']:.1f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--thing", choices=new_things.THINGS)
    add("--method", choices=METHODS)
    add("--base", default="shapes")
    add("--pictures", type=int, default=6)
    add("--steps", type=int, default=200)
    add("--rate", type=float, help="the learning rate, in the place of the way's own")
    add("--samples", type=int, default=32)
    add("--sampling_steps", type=int, default=20)
    add(
        "--prior",
        type=int,
        default=48,
        help="how many pictures of the class the base draws for dreambooth_prior",
    )
    add("--prior_prompt", default="a circle")
    add(
        "--workdir",
        help="where the run is kept, and goes on if it was stopped; seconds are those of the last part",
    )
    add("--table", action="store_true", help="write the results into the document")
    args = parser.parse_args()
    if args.table:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table() + END + rest.partition(END)[2])
        return
    with tempfile.TemporaryDirectory() as place:
        workdir = Path(args.workdir or place)
        workdir.mkdir(parents=True, exist_ok=True)
        line = measure(args, workdir)
    print(json.dumps(line))
    append(RESULTS, [line])


if __name__ == "__main__":
    main()
