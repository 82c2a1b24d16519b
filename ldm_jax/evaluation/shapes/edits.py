"""Edits, beside plain re-prompting and SDEdit: does what should change change, and what should stay stay?

The two to compare with draw the same cases from the same seeds: re-prompting draws the new caption instead of
the old one, SDEdit (Meng et al. 2022, arXiv:2108.01073) draws it over the noised picture. What was measured
of each picture is kept in OUT/edits.jsonl, so that a command that was stopped, or is run again for more
pictures or another method, goes on.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ldm_jax import atomic, cli
from ldm_jax.evaluation.shapes.base import FIRST_SEED, SHOWN, Model, Outcome
from ldm_jax.evaluation.shapes.rows import Rows
from ldm_jax.find import did_you_mean, find, names
from ldm_jax.shapes_world import edits
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import parse, score_objects

BASES = ("reprompt", "sdedit")
SDEDIT_STRENGTH = 0.6
SOURCES = ("drawn", "rendered")
TRIES = 12  # pictures drawn, for each that is wanted, until the oracle reads one right
OPTIONS = {
    "--method": dict(default="prompt_to_prompt", help="edits: files of ldm_jax/editing, a,b (default %(default)s)"),
    "--kinds": dict(default=",".join(edits.KINDS), help="edits: what is asked for (default %(default)s)"),
    "--sources": dict(default="drawn", help="edits: drawn by the model, or rendered scenes (default %(default)s)"),
    "--inversion": dict(help="edits: of rendered scenes, a file of ldm_jax/inversion, or it with options as JSON"),
    "--options": dict(default="{}", help="edits: of the methods, JSON of {method: {option: value}}; strength too"),
}  # fmt: skip


class Source(NamedTuple):
    """A picture to edit, which the oracle reads right. number: of the case among those of its kind."""

    case: edits.Case
    number: int
    picture: np.ndarray

    @property
    def seed(self) -> int:
        return FIRST_SEED + 10_000 * edits.KINDS.index(self.case.kind) + self.number


def score(args: argparse.Namespace) -> Outcome:
    """How well editing methods change what they are asked to and leave the rest alone, beside re-prompting
    and SDEdit."""
    methods, kinds, options = _asked(args)
    model = Model(args)
    model.check_takes("prompts")
    kept = Kept(args, options)
    sources = [
        s for kind in kinds for s in _sources(model, kind, max(1, args.num_samples // len(kinds)), kept)
    ]
    found = {name: _judged(model, name, sources, options.get(name, {}), kept) for name in (*BASES, *methods)}
    figures = {name: _figures(found, name, sources) for name in found}
    shown = [np.stack([s.picture for s in sources[:SHOWN]])] if sources else []
    shown += [
        kept.pictures[name] for name in found if len(kept.pictures.get(name, ())) == len(sources[:SHOWN])
    ]
    about = model.settings() | dict(num_samples=len(sources), sources=args.sources, inversion=args.inversion)
    return Outcome(figures | about, {"edits": shown} if shown else {})


def _asked(args: argparse.Namespace) -> tuple[list[str], list[str], dict[str, dict]]:
    """(methods, kinds, {method: its options}). Raises: ValueError for unknown ones."""
    asked = {"method": args.method.split(","), "kinds": args.kinds.split(","), "sources": [args.sources]}
    known = {"method": [*BASES, *names("editing")], "kinds": edits.KINDS, "sources": SOURCES}
    for what, given in asked.items():
        for one in given:
            if one not in known[what]:
                raise ValueError(
                    f"--{what}: {one!r} not found; there are: {', '.join(known[what])}{did_you_mean(one, known[what])}"
                )
    form = f"{{method: {{option: value}}}} of {', '.join(asked['method'])}"
    options = cli.json_object("--options", args.options, form)
    if not {*options} <= {*asked["method"]}:
        raise ValueError(f"--options is {args.options}, expected {form}")
    if (args.inversion or "").startswith("{"):
        args.inversion = cli.json_object("--inversion", args.inversion)
    if args.inversion and args.sources == "drawn":
        raise ValueError("--inversion is for --sources rendered: pictures that the model draws need none")
    return [name for name in asked["method"] if name not in BASES], asked["kinds"], options


class Kept:
    """What was measured before, in a file of JSON lines where there is a folder, and what is measured now.

    pictures: {method: the first SHOWN, of this run}.
    """

    def __init__(self, args: argparse.Namespace, options: dict):
        self.folder = Path(args.out) if args.out else None
        self.about = dict(
            checkpoint=args.checkpoint, steps=args.steps, sampler=args.sampler, guidance_scale=args.guidance_scale,
            sources=args.sources,
        )  # fmt: skip
        self.inversion, self.options = args.inversion, options
        self.pictures: dict[str, np.ndarray] = {}
        self.rows = Rows(self.folder and self.folder / "edits.jsonl")

    def key(self, name: str, kind: str) -> dict:
        """What identifies the rows of a method, or of 'source'."""
        how = (
            {}
            if name in ("source", *BASES)
            else dict(options=self.options.get(name, {}), inversion=self.inversion)
        )
        return self.about | how | dict(method=name, kind=kind)

    def of(self, name: str, kind: str) -> dict[int, dict]:
        """{number of the case: what was measured}."""
        return self.rows.of(self.key(name, kind))

    def add(self, name: str, kind: str, rows: Sequence[dict]) -> None:
        self.rows.add(self.key(name, kind), rows)

    def picture(
        self, kind: str, number: int, make: Callable[[], np.ndarray] | None = None
    ) -> np.ndarray | None:
        """The picture of a source, which is on the disk where there is a folder; given `make`, it is put
        there."""
        path = self.folder and self.folder / "sources" / f"{kind}_{number}.npy"
        if make is None:
            return np.load(path) if path and path.is_file() else None
        made = make()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.writing(path) as partial, open(partial, "wb") as file:
                np.save(file, made)
        return made


def _sources(model: Model, kind: str, number: int, kept: Kept) -> list[Source]:
    """The first `number` cases of a kind whose picture the oracle reads right; fewer where TRIES times as
    many are not enough."""
    found: list[Source] = []
    stream, at, before = edits.cases(kind), 0, kept.of("source", kind)
    while len(found) < number and at < TRIES * number:
        some = [(at + i, next(stream)) for i in range(model.args.batch_size)]
        at += len(some)
        if kept.about["sources"] == "rendered":
            pictures = {n: world.render(case.scene) for n, case in some}
        else:
            pictures = {n: kept.picture(kind, n) for n, _ in some}
            todo = [(n, case) for n, case in some if n not in before]
            if todo:
                drawn = _draw(model, [c.source for _, c in todo], [Source(c, n, None).seed for n, c in todo])
                rights = [
                    score_objects(parse(x), c.source).right for x, (_, c) in zip(drawn, todo, strict=True)
                ]
                kept.add(
                    "source", kind, [dict(number=n, right=r) for (n, _), r in zip(todo, rights, strict=True)]
                )
                before = kept.of("source", kind)
                for (n, _), x, right in zip(todo, drawn, rights, strict=True):
                    pictures[n] = kept.picture(kind, n, lambda x=x: x) if right else None
        found += [
            Source(case, n, pictures[n]) for n, case in some
            if pictures[n] is not None and score_objects(parse(pictures[n]), case.source).right
        ]  # fmt: skip
    return found[:number]


def _draw(model: Model, prompts: Sequence[str], seeds: Sequence[int], **more) -> np.ndarray:
    args = model.args
    return model.model.sample(
        list(prompts), list(seeds), num_steps=args.steps, sampler=args.sampler, guidance_scale=args.guidance_scale,
        batch_size=args.batch_size, **more,
    )  # fmt: skip


def _judged(model: Model, name: str, sources: Sequence[Source], options: dict, kept: Kept) -> list[dict]:
    """What was measured of each source's edit by one method."""
    report, before = cli.progress(name, len(sources)), {}
    for kind in dict.fromkeys(s.case.kind for s in sources):
        before[kind] = kept.of(name, kind)
    todo = [s for s in sources if s.number not in before[s.case.kind]]
    size = model.args.batch_size
    for start in range(0, len(todo), size):
        some = todo[start : start + size]
        began = time.time()
        originals, edited = _edited(model, name, some, options)
        each = (time.time() - began) / len(some)
        for s, original, image in zip(some, originals, edited, strict=True):
            verdict = edits.judge(s.case, original, image, parse(original), parse(image))
            row = dict(number=s.number, right=verdict.right, **verdict._asdict(), seconds=round(each, 3))
            kept.add(name, s.case.kind, [row])
        kept.pictures[name] = np.concatenate([kept.pictures.get(name, edited[:0]), edited])[:SHOWN]
        report(len(sources) - len(todo) + start + len(some))
    return [kept.of(name, s.case.kind)[s.number] for s in sources]


def _edited(
    model: Model, name: str, sources: Sequence[Source], options: dict
) -> tuple[np.ndarray, np.ndarray]:
    """(what is edited, what becomes of it), [N, 64, 64, 3] uint8 each."""
    args, pictures, seeds = model.args, np.stack([s.picture for s in sources]), [s.seed for s in sources]
    old, new = ([getattr(s.case, which) for s in sources] for which in ("source", "target"))
    if name == "reprompt":
        return pictures, _draw(model, new, seeds)
    if name == "sdedit":
        strength = options.get("strength", SDEDIT_STRENGTH)
        return pictures, _draw(model, new, seeds, init_images=list(pictures), strength=strength)
    module = find("editing", name)
    given = {}
    # What is for given pictures alone, and a run that begins with a part of the noise, begin from pictures.
    if args.sources == "rendered" or hasattr(module, "INVERSION") or "strength" in options:
        given = dict(image=list(pictures), inversion=args.inversion)
    given |= {"strength": options["strength"]} if "strength" in options else {}
    options = {option: value for option, value in options.items() if option != "strength"}
    edited = model.model.edit(
        old, new, name, seeds, options=options, num_steps=args.steps, sampler=args.sampler,
        guidance_scale=args.guidance_scale, batch_size=args.batch_size, **given,
    )  # fmt: skip
    return pictures, edited.images


def _figures(found: dict[str, list[dict]], name: str, sources: Sequence[Source]) -> dict[str, Any]:
    """right: changed and kept, with its Wilson interval of 95 %; still: mean PSNR; p: McNemar's exact test
    against the others."""
    rows = found[name]
    if not rows:
        return {}
    right = np.asarray([row["right"] for row in rows])
    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    still = np.asarray([row["still"] for row in rows], float)
    of_kind = {
        kind: float(np.mean([r for r, s in zip(right, sources, strict=True) if s.case.kind == kind]))
        for kind in dict.fromkeys(s.case.kind for s in sources)
    }
    figures = dict(
        right=float(right.mean()), interval=[round(float(end), 3) for end in interval],
        changed=float(np.mean([row["changed"] for row in rows])), kept=float(np.mean([row["kept"] for row in rows])),
        still=float(np.mean(still[np.isfinite(still)])) if np.isfinite(still).any() else None,
        seconds=float(np.mean([row["seconds"] for row in rows])), **of_kind,
    )  # fmt: skip
    against = {
        f"p_{base}": mcnemar(right, [row["right"] for row in found[base]]) for base in BASES if base != name
    }
    return figures | against


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """The two-sided p of McNemar's exact test of pairs (McNemar 1947): do a and b hold equally often?"""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
