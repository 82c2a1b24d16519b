"""Teaches a shapes model something that it does not know, one way after the other, and measures what each learned:

    python benchmarks/personalization.py --rows purple:textual_inversion,ring:lora --workdir /tmp/taught
    python benchmarks/personalization.py --rows red_ring:dreambooth,red_ring:dreambooth_prior --steps 200
    python benchmarks/personalization.py --rows scene:break_a_scene,above:reversion,mulberry:e4t
    python benchmarks/personalization.py --table

A line of JSON for each goes to benchmarks/results/personalization.jsonl, and --table writes those into
docs/personalization.md. A row that is there for the same base, pictures and steps is passed over, and a run that was
stopped goes on where its --workdir stands: so a table can be made in pieces.

Of `--samples` pictures each, in `--sampling_steps` steps:
probe         how often the new thing is drawn right in captions of its kind, in sizes, shapes and colors of which the
              training has seen few; before: of the base, for which the word is an unknown one
ceiling       how often a drawn picture of the thing is right that the first stage has encoded and decoded
composition   how often it is right in a relation to a known object; before: the nearest known thing in its place
ordinary      how often ordinary captions are right
drift         by how much their pictures changed, in levels of 255
diversity     the entropy of the colors of "a circle", over that of the base

Taught from `--pictures` of the thing alone and `--pictures_beside` of it beside a known one, of other colors than in
what is asked: of pictures of it alone (`--pictures_beside 0`) a word learns that there is nothing else.
Things: those of shapes_world/new_things.py; `scene`, a ring and a square of two colors in one picture; `above`, a
relation that is known, under a new word, from pictures of red and blue things and asked of others. e4t is first trained
on `--domain` pictures of the known colors, and then on one of `mulberry` for 15 steps.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.report import append, read  # noqa: E402  (a script has its own folder on the path, not the repository)
from ldm_jax import grid  # noqa: E402
from ldm_jax.checkpoints import adapters  # noqa: E402
from ldm_jax.checkpoints.open import open_checkpoint  # noqa: E402
from ldm_jax.commands import train  # noqa: E402
from ldm_jax.config import load_config  # noqa: E402
from ldm_jax.inference import pipeline  # noqa: E402
from ldm_jax.models.ip_adapter import sites_of  # noqa: E402
from ldm_jax.params import fingerprint  # noqa: E402
from ldm_jax.shapes_world import new_things, oracle, prompts  # noqa: E402
from ldm_jax.shapes_world import scenes as world  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "personalization.jsonl"
DOCUMENT = ROOT / "docs" / "personalization.md"
BEGIN, END = "<!-- benchmarks/personalization.py -->\n", "<!-- end -->\n"
WORD = "zork"  # unknown to the base, whose tokenizer makes it [UNK]
TOKEN, OTHER = "<it>", "<b>"
METHODS = {  # section of personalization, learning rate
    "textual_inversion": (dict(name="textual_inversion", token=TOKEN), 3e-3),
    "textual_inversion_progressive": (
        dict(name="textual_inversion", token=TOKEN, vectors=2, progressive=50),
        3e-3,
    ),
    "extended_textual_inversion": (dict(name="extended_textual_inversion", token=TOKEN), 3e-3),
    "lora": (dict(name="lora", rank=8, token=TOKEN), 4e-4),
    "lora_dora": (dict(name="lora", rank=8, token=TOKEN, dora=True), 4e-4),
    "locon": (dict(name="lora", rank=8, text_rank=8, conv_rank=8, token=TOKEN), 1.5e-3),
    "loha": (dict(name="loha", rank=4, token=TOKEN), 6e-4),
    "lokr": (dict(name="lokr", rank=8, token=TOKEN), 1e-3),
    "custom_diffusion": (dict(name="custom_diffusion", token=TOKEN), 4e-4),
    "dreambooth": (dict(name="dreambooth", text_encoder=True), 1e-4),
    "dreambooth_prior": (dict(name="dreambooth", text_encoder=True), 1e-4),
    "break_a_scene": (dict(name="break_a_scene", tokens=[TOKEN, OTHER], begins="circle square"), 5e-3),
    "reversion": (dict(name="reversion", token=TOKEN, begins="and"), 3e-3),
    "e4t": (dict(name="e4t", token=TOKEN, side=32), 1e-3),
}
BEGINS = dict(purple="blue", mulberry="red", ring="circle", red_ring="circle")  # what a new word begins as
# Taught beside what the base draws, with --kept.
KEPT = ("lora", "lora_dora", "locon", "loha", "lokr", "custom_diffusion", "break_a_scene")
# Of the word that these learn beside kernels: that of textual inversion, as the word has most to learn.
WORD_RATE, BESIDE_KERNELS = 3e-3, ("lora", "lora_dora", "locon", "loha", "lokr", "custom_diffusion")
TABLE = "delta/conditioner/text/transformer/token_embed"  # where the word is, of a shapes model
ORDINARY = ("one", "relation")  # kinds of captions
SCENE = ("ring", "two_color")
# Of what stands beside a thing in the pictures; in what is asked it has others (new_things.beside).
COLORS_BESIDE = ("green", "blue")
Judged = tuple[str, Callable[[np.ndarray], bool]]  # a caption, and whether a picture is right


class Task(NamedTuple):
    """data: a config's. asked(word, i), beside(word, i): the i-th caption of the probe and of the composition, with
    `word` for the new one. known: what stands for it in the composition before, read by the oracle; '' for none.
    """

    data: dict
    asked: Callable[[str, int], Judged]
    beside: Callable[[str, int], Judged]
    known: str


# ------------------------------------------------------------------------------------------------------- what is taught


def task_of(args: argparse.Namespace, thing: str, word: str, folder: Path) -> Task:
    """The task of a thing, whose pictures are written into the folder unless they are there."""
    if thing == "scene":
        return _scene()
    plain = dict(name="folder", root=str(folder), recipe="none", split_folders=False)
    if thing == "above":
        _written(folder, (_above(i, word) for i in range(args.pictures + args.pictures_beside)))
        return Task(plain, _relation, _relation, "above")

    def pictures():
        rng = np.random.default_rng(0)
        for i in range(args.pictures):
            what = new_things.asked(thing, i)
            yield new_things.picture(what, rng), what.caption.replace("{}", word)
        for i in range(args.pictures_beside):
            both = new_things.beside(thing, i, COLORS_BESIDE)
            yield new_things.picture_beside(*both, rng), said(word, *both)

    def said(word: str, what: new_things.Asked, relation: str, other: str) -> str:
        return f"{what.caption.replace('{}', word)} {relation} {other}"

    def asked(word: str, i: int) -> Judged:
        what = new_things.asked(thing, i)
        return what.caption.replace("{}", word), lambda image: new_things.shows(image, what)

    def beside(word: str, i: int) -> Judged:
        what, relation, other = new_things.beside(thing, i)
        return said(word, what, relation, other), lambda image: new_things.shows_beside(
            image, what, relation, other
        )

    _written(folder, pictures())
    return Task(plain, asked, beside, new_things.KNOWN[thing])


def _written(folder: Path, pictures) -> None:
    if folder.is_dir():
        return
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for i, (image, caption) in enumerate(pictures):
        grid.write_png(partial / f"{i:04}.png", image)
        (partial / f"{i:04}.txt").write_text(caption)
    partial.rename(folder)


def _scene() -> Task:
    first, second = (new_things.asked(thing, 0) for thing in SCENE)
    both = [(TOKEN, first), (OTHER, second)]

    def asked(word: str, i: int) -> Judged:
        token, what = both[i % 2]
        return token if word == TOKEN else word, lambda image: new_things.shows(image, what)

    def beside(word: str, i: int) -> Judged:
        caption = f"{TOKEN} and {OTHER}" if word == TOKEN else f"{word} and {word}"
        return caption, lambda image: all(_shown_somewhere(image, what) for _, what in both)

    return Task(
        dict(name="shapes_scene", words=[TOKEN, OTHER], things=list(SCENE), margin=3), asked, beside, ""
    )


def _shown_somewhere(image: np.ndarray, what: new_things.Asked) -> bool:
    """Whether one of the picture's halves, left, right, upper or lower, shows it."""
    background = np.uint8(np.median(image.reshape(-1, 3), axis=0))
    half = world.SIZE // 2
    for rows, columns in ((slice(None), slice(half)), (slice(None), slice(half, None))):
        for part in ((rows, columns), (columns, rows)):
            alone = np.broadcast_to(background, image.shape).copy()
            alone[part] = image[part]
            if new_things.shows(alone, what):
                return True
    return False


def _above(index: int, word: str) -> tuple[np.ndarray, str]:
    """A red and a blue object, one above the other, and a caption of them."""
    rng = np.random.default_rng(index)
    background = world.background(rng)
    shapes = world.SHAPES[index % 4], world.SHAPES[(index + 1 + index // 4) % 4]
    colors = ("red", "blue")[:: (-1) ** index]
    objects = []
    for shape, color, y in zip(shapes, colors, (16, 47), strict=True):
        size = world.SIZES[rng.integers(2)]
        r, x = rng.uniform(*world.RADII[size]), rng.uniform(22, 42)
        objects.append(world.Object(shape, color, size, x, y + rng.uniform(-2, 2), r))
    image = world.render(world.Scene(tuple(objects), background))
    return image, f"a {colors[0]} {shapes[0]} {word} a {colors[1]} {shapes[1]}"


def _relation(word: str, i: int) -> Judged:
    """Two other objects in the relation."""
    shapes, colors = world.SHAPES[1:], ("orange", "black", "purple", "green")
    first, second = f"a {colors[i % 4]} {shapes[i % 3]}", f"a {colors[(i + 1) % 4]} {shapes[(i + 1) % 3]}"
    return f"{first} {word} {second}", lambda image: oracle.score(image, f"{first} above {second}").right


def _domain(folder: Path, number: int) -> None:
    """Single objects of the known colors, with the word in the place of the color."""

    def pictures():
        for i in range(number):
            scene = world.scene(i, max_objects=1)
            (obj,) = scene.objects
            yield world.render(scene), f"a {obj.size} {TOKEN} {obj.shape}"

    _written(folder, pictures())


# ---------------------------------------------------------------------------------------------------------- how it is


def config_of(
    args: argparse.Namespace, method: str, data: dict, section: dict, rate: float, workdir: Path
) -> dict:
    config = load_config("configs/lora.py:runlocal")
    schedule = dict(name="warmup_cosine", warm_up_steps=10)
    config["optimizer"] = dict(config["optimizer"], base_lr=rate, schedule=schedule)
    config["data"] = dict(data)
    config |= dict(
        base=args.base,
        personalization=section,
        total_steps=args.steps,
        batch_size=args.batch_size,
        ema_decay=0.0,
    )
    if method == "dreambooth_prior":
        config["prior"] = dict(prompt=args.prior_prompt, number=args.prior)
    elif method in KEPT and args.kept:
        # The ends less often; by a probe no better or worse than all noise levels alike.
        config["timestep_density"] = dict(mean=0.3, std=1.0)
        config["prior"] = dict(
            prompt=_captions(args.kept), number=args.kept, folder=str(workdir.parent / f"kept-{args.kept}")
        )
    elif method != "break_a_scene":
        config["data"]["precompute_latents"] = True
    if method == "break_a_scene":
        first = args.steps // 4
        later = [[0, 0.0], [first, 0.05]]
        config["loss"] = dict(
            loss_type="l2", masked=True, background=True, token_masks=dict(weight=0.05, form="peak")
        )
        config["optimizer"]["parts"] = {
            "delta/words": [[0, 1.0], [first, 0.1]],
            "delta/unet": later,
            "delta/conditioner": later,
        }
    if method in BESIDE_KERNELS:
        config["optimizer"]["parts"] = {TABLE: WORD_RATE / rate}
    if method == "reversion":
        config["timestep_density"] = dict(name="cosine", skew=0.5)
    every = dict(checkpoint_every=50, preview_every=args.steps + 1, log_every=max(1, args.steps // 4))
    return config | every


def _captions(number: int) -> list[str]:
    """Of training scenes of one and two objects."""
    scenes = (world.scene(i, "train", max_objects=2) for i in range(number))
    return [world.caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]


def taught(args: argparse.Namespace, method: str, task: Task, section: dict, workdir: Path) -> float:
    """Trains in the workdir, until run/ is there; the seconds that it took."""
    rate, began = args.rate or METHODS[method][1], time.time()
    if method == "e4t":
        _domain(workdir / "domain", args.domain)
        data = dict(task.data, root=str(workdir / "domain"))
        train.train(config_of(args, method, data, section, rate, workdir), workdir / "pretrained")
        one = argparse.Namespace(**{**vars(args), "steps": 15})
        config = config_of(one, method, task.data, section | dict(whole=True), rate / 5, workdir)
        config |= dict(adapter_from=str(workdir / "pretrained"), ema_decay=0.0, checkpoint_every=15)
        train.train(config, workdir / "run")
    else:
        train.train(config_of(args, method, task.data, section, rate, workdir), workdir / "run")
    return time.time() - began


def drawn(model: pipeline.LatentDiffusion, captions: list[str], steps: int, picture=None) -> np.ndarray:
    given = {} if picture is None else {"word_images": [picture] * len(captions)}
    at_once = min(len(captions), 32)
    return model.sample(captions, list(range(len(captions))), num_steps=steps, batch_size=at_once, **given)


def rate_of(model, judged: list[Judged], steps: int, picture=None) -> float:
    """The part of the captions that are drawn right."""
    images = drawn(model, [caption for caption, _ in judged], steps, picture)
    return float(np.mean([right(image) for image, (_, right) in zip(images, judged, strict=True)]))


def ordinary(model: pipeline.LatentDiffusion, samples: int, steps: int) -> tuple[np.ndarray, float, float]:
    """(pictures of ordinary captions, the part of them that is right, the entropy of the colors of "a circle")."""
    captions = [c for kind in ORDINARY for c in prompts.prompts(kind, samples // len(ORDINARY))]
    images = drawn(model, captions, steps)
    right = float(np.mean([oracle.score(i, c).right for i, c in zip(images, captions, strict=True)]))
    colors = [new_things.color_of_largest(image) for image in drawn(model, ["a circle"] * samples, steps)]
    parts = np.unique(colors, return_counts=True)[1] / samples
    return images, right, float(-(parts * np.log(parts)).sum())


def measure(args: argparse.Namespace, thing: str, method: str, workdir: Path, base: "Base") -> dict:
    section = dict(METHODS[method][0])
    if method == "extended_textual_inversion":
        section["sites"] = base.cross_sites
    if "token" in section and thing in BEGINS:
        section["begins"] = BEGINS[thing]
    word = section.get("token", TOKEN if "tokens" in section else WORD)
    if method.startswith("dreambooth") and thing in ("ring", "red_ring"):
        word = f"{WORD} circle"  # the new one and its class
    taken = dict(pictures=1, pictures_beside=0) if method == "e4t" else {}
    task = task_of(argparse.Namespace(**(vars(args) | taken)), thing, word, workdir / "photographs")
    seconds = taught(args, method, task, section, workdir)
    adapter = adapters.read(workdir / "run")
    model = pipeline.load(args.base, adapters=[str(workdir / "run")])
    picture = None
    if method == "e4t":
        picture = new_things.picture(new_things.asked(thing, 0), np.random.default_rng(0))
    asked, beside = ([make(word, i) for i in range(args.samples)] for make in (task.asked, task.beside))
    then, right_before, entropy_before = base.ordinary()  # the base first, as that is kept
    before = dict(right_before=right_before) | base.before(thing, task)
    images, right, entropy = ordinary(model, args.samples, args.sampling_steps)
    about = dict(thing=thing, method=method, base=args.base, base_fingerprint=base.fingerprint[:12])
    made = dict(
        pictures=number_of(args, thing, method),
        steps=args.steps,
        batch_size=args.batch_size,
        kept=args.kept if method in KEPT else 0,
        samples=args.samples,
        sampling_steps=args.sampling_steps,
        seconds=round(seconds, 1),
        bytes=4 * sum(leaf.size for leaf in jax.tree.leaves(adapter.delta)),
        hardware=platform.processor() or "cpu",
        jax=jax.__version__,
    )
    found = dict(
        probe=rate_of(model, asked, args.sampling_steps, picture),
        composition=rate_of(model, beside, args.sampling_steps, picture),
        right=right,
        drift=float(np.abs(images.astype(float) - then).mean()),
        diversity=entropy / entropy_before,
    )
    return about | made | found | before


class Base:
    """What the base does itself, measured once for all rows and kept in the workdir."""

    def __init__(self, args: argparse.Namespace, workdir: Path):
        self._args, self._workdir = args, workdir
        params = open_checkpoint(args.base).bundle().params
        self.fingerprint, self.cross_sites = fingerprint(params), len(sites_of(params["unet"]))

    def _model(self) -> pipeline.LatentDiffusion:
        return pipeline.load(self._args.base)

    def _file(self, name: str) -> Path:
        args = self._args
        return self._workdir / f"{name}-{self.fingerprint[:12]}-{args.samples}-{args.sampling_steps}"

    def ordinary(self) -> tuple[np.ndarray, float, float]:
        """As `ordinary` of it."""
        file = self._file("ordinary").with_suffix(".npz")
        if not file.exists():
            found = ordinary(self._model(), self._args.samples, self._args.sampling_steps)
            np.savez(file, images=found[0], right=found[1], entropy=found[2])
        with np.load(file) as kept:
            return kept["images"], float(kept["right"]), float(kept["entropy"])

    def before(self, thing: str, task: Task) -> dict[str, float]:
        """{'before': of the probe, 'composition_before'} of a thing."""
        file = self._file(f"before-{thing}").with_suffix(".json")
        if not file.exists():
            args = self._args
            asked = [task.asked(WORD, i) for i in range(args.samples)]
            known = [task.beside(task.known, i)[0] for i in range(args.samples)] if task.known else []
            judged = [
                (c, lambda image, c=c: oracle.score(image, c).right) for c in map(_without_twice, known)
            ]
            model = self._model()
            found = dict(
                before=rate_of(model, asked, args.sampling_steps),
                ceiling=_ceiling(model, thing, args.samples) if thing in new_things.THINGS else None,
                composition_before=rate_of(model, judged, args.sampling_steps) if judged else None,
            )
            file.write_text(json.dumps(found))
        return json.loads(file.read_text())


def _ceiling(model: pipeline.LatentDiffusion, thing: str, number: int) -> float:
    """The part of drawn pictures of a thing that show it still when the first stage has encoded and decoded them."""
    rng, asked = np.random.default_rng(0), [new_things.asked(thing, i) for i in range(number)]
    images = np.stack([new_things.picture(what, rng) for what in asked])
    decoded = grid.to_uint8(np.asarray(model.decode(model.encode(images / 127.5 - 1))))
    return float(np.mean([new_things.shows(image, what) for image, what in zip(decoded, asked, strict=True)]))


def _without_twice(caption: str) -> str:
    """A caption in which a known thing brought a color of its own, with that alone: 'a red red circle'."""
    words = caption.split()
    colors = [i for i, w in enumerate(words) if w in world.COLORS]
    drop = {i for i, j in zip(colors, colors[1:], strict=False) if j == i + 1}
    return " ".join(w for i, w in enumerate(words) if i not in drop)


# ------------------------------------------------------------------------------------------------------------ the table


def table(lines: list[dict]) -> str:
    """The lines as a table; of one thing and way the last."""
    last = {(line["thing"], line["method"]): line for line in lines}
    head = (
        "| thing | way | pictures | steps | seconds | bytes | probe (before) | ceiling | composition (known) "
    )
    rows = [head + "| ordinary (before) | drift | diversity | base |", "|" + "---|" * 13]

    def share(line: dict, name: str) -> str:
        return "" if line.get(name) is None else f"{line[name] + 0:.2f}"  # + 0: an entropy of nothing is -0.0

    def pair(line: dict, name: str, before: str) -> str:
        now, then = share(line, name), share(line, before)
        return f"{now} ({then})" if then else now

    for (thing, method), line in sorted(last.items()):
        rows.append(
            f"| {thing} | {method} | {line['pictures']} | {line['steps']} | {line['seconds']:.0f} | {line['bytes']:,} "
            f"| {pair(line, 'probe', 'before')} | {share(line, 'ceiling')} "
            f"| {pair(line, 'composition', 'composition_before')} "
            f"| {pair(line, 'right', 'right_before')} | {line['drift']:.1f} | {share(line, 'diversity')} "
            f"| {line.get('base_fingerprint', 'earlier')} |"
        )
    samples = " or ".join(map(str, sorted({line["samples"] for line in last.values()})))
    return (
        "\n".join(rows)
        + f"\n\nEach share is of {samples} pictures; base: the fingerprint of its parameters.\n"
    )


def number_of(args: argparse.Namespace, thing: str, method: str) -> int:
    """How many pictures a row is taught from."""
    return 1 if thing == "scene" or method == "e4t" else args.pictures + args.pictures_beside


def is_there(line: dict, args: argparse.Namespace, thing: str, method: str, base: Base) -> bool:
    wanted = dict(
        thing=thing,
        method=method,
        base_fingerprint=base.fingerprint[:12],
        pictures=number_of(args, thing, method),
        steps=args.steps,
        batch_size=args.batch_size,
        samples=args.samples,
    )
    return all(line.get(name) == value for name, value in wanted.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    things = (*new_things.THINGS, "scene", "above")
    add("--rows", help=f"THING:METHOD,…; things: {', '.join(things)}; methods: {', '.join(METHODS)}")
    add("--base", default="shapes")
    add("--pictures", type=int, default=6)
    add("--pictures_beside", type=int, default=6, help="further ones, with a known object beside the thing")
    add("--domain", type=int, default=240, help="pictures that e4t is pretrained on")
    add("--steps", type=int, default=400)
    add("--batch_size", type=int, default=8)
    add(
        "--kept",
        type=int,
        default=96,
        help=f"how many pictures of ordinary captions the base draws for {', '.join(KEPT)}",
    )
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
    add("--workdir", help="where runs are kept, and go on if they were stopped; seconds are the last part's")
    add("--table", action="store_true", help="write the results into the document")
    args = parser.parse_args()
    if args.table:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + table(read(RESULTS)) + END + rest.partition(END)[2])
        return
    rows = [row.partition(":")[::2] for row in (args.rows or "").split(",")]
    for thing, method in rows:
        if thing not in things or method not in METHODS:
            parser.error(f"--rows: got {thing}:{method}, expected THING:METHOD of those that --help lists")
        if (thing == "scene") != (method == "break_a_scene") or (method == "e4t" and thing != "mulberry"):
            parser.error(f"--rows: {thing}:{method} do not go together")
    with tempfile.TemporaryDirectory() as place:
        workdir = Path(args.workdir or place)
        workdir.mkdir(parents=True, exist_ok=True)
        base = Base(args, workdir)
        for thing, method in rows:
            if any(is_there(line, args, thing, method, base) for line in read(RESULTS)):
                continue
            number = number_of(args, thing, method)
            where = workdir / f"{thing}-{method}-{number}-{args.steps}-{base.fingerprint[:12]}"
            where.mkdir(exist_ok=True)
            line = measure(args, thing, method, where, base)
            print(json.dumps(line), flush=True)
            append(RESULTS, [line])


if __name__ == "__main__":
    main()
