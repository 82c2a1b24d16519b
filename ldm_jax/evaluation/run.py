"""What `ldm-evaluate` does with images from anywhere: gathers what is measured of each, and makes the result.

A run keeps in its folder what it measured of every image, so that one which was stopped goes on, and gives the same
numbers. Decides what a result says of itself: everything that is needed to repeat it. Parsing is
commands/evaluate.py's, the metrics are evaluation/'s.
"""

import argparse
import dataclasses
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax import atomic, cli, grid, text_files
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints import open as checkpoints
from ldm_jax.checkpoints.base import options_from
from ldm_jax.evaluation import networks as metric_networks
from ldm_jax.evaluation import prompts, report
from ldm_jax.evaluation.pairs import Pairs
from ldm_jax.evaluation.store import Store
from ldm_jax.metrics import features, statistics, table
from ldm_jax.metrics.features import Extractor
from ldm_jax.metrics.images import COLORS, ArrayImages, Images, open_images
from ldm_jax.metrics.statistics import FeatureRecipe, Statistics
from ldm_jax.metrics.table import Reference, Settings
from ldm_jax.shapes_world.oracle import score

SHOWN = 36  # images on the page
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "scipy", "pillow")


class Networks(NamedTuple):
    """extractors: by the names that table.METRICS speaks of, with their weights on all devices. embed: captions ->
    [N, D], CLIP's, or None."""

    extractors: dict[str, Extractor]
    embed: Callable[[Sequence[str]], np.ndarray] | None = None


class Weights(NamedTuple):
    """Where files of weights are; None looks in the cache directory. resize: of Inception."""

    inception: str | None = None
    clip: str | None = None
    resize: str = "tf1"


def networks(names: Sequence[str], weights: Weights = Weights()) -> Networks:
    """The networks that the metrics need. Raises: ValueError that says which file is not there."""
    wanted = table.layers(names)
    extractors, embed = {}, None
    if "inception" in wanted:
        extractors["inception"] = metric_networks.inception(weights.inception, weights.resize)
    if "shapes" in wanted:
        extractors["shapes"] = metric_networks.shapes()
    if "clip" in wanted:
        extractors["clip"], embed = metric_networks.clip(weights.clip)
    devices = jax.local_devices()
    return Networks({name: features.placed(e, devices) for name, e in extractors.items()}, embed)


def weights(args: argparse.Namespace) -> Weights:
    """Of the command's arguments."""
    return Weights(args.inception, args.clip, args.resize)


def open_bundle(args: argparse.Namespace, name: str) -> bundle.Bundle:
    """Any checkpoint, read. Raises: ValueError in one sentence for what is none."""
    options = options_from(args)._replace(first_stage=None)  # --first_stage is what is measured
    return checkpoints.open_checkpoint(name, options).bundle()


def settings(args: argparse.Namespace) -> table.Settings:
    """Of the command's arguments."""
    return table.Settings(
        splits=args.splits, kid_size=args.kid_size, resamples=args.bootstrap, allow_few=args.allow_few
    )


class ImageSet(NamedTuple):
    """Images to measure.

    piece: (start, stop) -> the images in between. count: of all. prompts: one per image, or None. about: identifies
    these images (Store). recipe: their fields of FeatureRecipe: image_size, crop, color, rounding.
    """

    piece: Callable[[int, int], Images]
    count: int
    prompts: Sequence[str] | None
    about: dict[str, Any]
    recipe: dict[str, Any]
    kinds: Sequence[str] | None = None


class ImageRange:
    """Images start ... stop - 1 of others; see Images."""

    def __init__(self, images: Images, start: int, stop: int):
        self._images, self._start, self._length = images, start, stop - start
        self.crop, self.color = images.crop, images.color

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[self._start + index]

    def name(self, index: int) -> str:
        return self._images.name(self._start + index)

    def fingerprint(self) -> str:
        return f"{self._images.fingerprint()}[{self._start}:{self._start + self._length}]"


def source_of(images: Images, prompts: Sequence[str] | None = None) -> ImageSet:
    """Raises: ValueError if there are prompts, and not one for each image."""
    if prompts is not None and len(prompts) != len(images):
        raise ValueError(
            f"--prompts has {len(prompts)} lines for {len(images)} images, expected one for each, sorted by path"
        )
    height, width = images[0].shape[:2]
    recipe = dict(image_size=f"{height} x {width}", crop=images.crop, color=images.color, rounding="files")
    about = dict(recipe, images=images.fingerprint(), prompts=digest(prompts))
    return ImageSet(lambda start, stop: ImageRange(images, start, stop), len(images), prompts, about, recipe)


def digest(value: Any) -> str | None:
    """Hex digest of plain data; None of None."""
    return None if value is None else hashlib.sha256(json.dumps(value).encode()).hexdigest()


def gather(
    store: Store,
    source: ImageSet,
    nets: Networks,
    layers: Mapping[str, Sequence[str]],
    chunk: int,
    label: str = "images",
    keep: Callable[[int, Images], Any] | None = None,
    pairs: Pairs | None = None,
) -> None:
    """Measures every image that the store has not got, `chunk` at a time. keep: (start, images) of each piece, to save
    them. pairs: what each is compared with.

    Raises: ValueError that names the image, for one that cannot be read or whose features are not finite.
    """
    shown = cli.progress(label, source.count, store.done)
    while store.done < source.count:
        start, stop = store.done, min(store.done + chunk, source.count)
        images = source.piece(start, stop)
        rows: dict[str, np.ndarray] = {}
        for name, extractor in nets.extractors.items():
            per_device = max(1, min(32, chunk // jax.local_device_count()))
            found = features.extract(
                images, extractor, layers=layers[name], batch_size=per_device, devices=jax.local_devices()
            )
            parts = [values for _, values in found]
            rows |= {f"{name}.{layer}": np.concatenate([p[layer] for p in parts]) for layer in layers[name]}
        if "oracle" in layers:
            right = [score(images[i], source.prompts[start + i]).right for i in range(len(images))]
            rows["oracle.right"] = np.asarray(right, np.float32)
        if start < SHOWN:
            rows["shown"] = np.stack([images[i] for i in range(len(images))])
        if pairs:
            rows |= pairs.rows(start, images, shown=start < SHOWN)
        if keep:
            keep(start, images)
        store.put(start, rows)
        shown(stop)


def about_store(source: ImageSet, nets: Networks, layers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a store of these rows is of."""
    used = {name: dict(hash=e.hash, resize=e.resize) for name, e in nets.extractors.items()}
    return dict(source.about, extractors=used, layers={k: list(v) for k, v in layers.items()})


def recipe(source: ImageSet, extractor: Extractor) -> FeatureRecipe:
    """How the rows of one extractor came from the source."""
    return FeatureRecipe(extractor.name, extractor.hash, extractor.resize, flip=False, **source.recipe)


def _without_statistics(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return table.layers([name for name in names if table.METRICS[name].reference])


class Against(NamedTuple):
    """What samples are compared with. reference: None until its images are gathered. images: of a folder, or None."""

    reference: Reference | None
    images: Images | None
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = {}


def open_reference(
    where: str | None, names: Sequence[str], source: ImageSet, nets: Networks, crop: int | None, color: str
) -> Against:
    """Opens the reference of the metrics, and rejects one that cannot be compared before anything is drawn.

    where: a folder or .npz of images, or a file of statistics; None is the shipped reference of shapes_fid.
    """
    needed = [name for name in names if table.METRICS[name].reference]
    images = stats = None
    if not needed:
        return Against(None, None)
    if where is None and needed == ["shapes_fid"]:
        where, stats = "shipped with ldm_jax: rendered held-out scenes", metric_networks.shapes_reference()
    elif where is not None and _is_statistics(where):
        stats = statistics.read(where)
    elif where is not None:
        images = open_images(where, crop, color)
    if stats is None:
        table.check_reference(needed, None, images is not None)
        return Against(None, images, (), dict(reference=str(where), num_images=len(images)))
    rows = {f"{name}.{layer}": g for name in nets.extractors for layer, g in stats.gaussians.items()}
    reference = Reference(rows, {}, str(where))
    table.check_reference(needed, reference, False)
    notes = []
    for name in _without_statistics(needed):
        own = Statistics({}, recipe(source, nets.extractors[name]), None, None)
        notes.append(statistics.check_comparable(own, stats))
    stated = None if stats.recipe is None else dataclasses.asdict(stats.recipe)
    about = dict(
        reference=str(where), recipe=stated, num_images=stats.num_images, fingerprint=stats.fingerprint
    )
    return Against(reference, None, tuple(note for note in notes if note), about)


def _is_statistics(where: str) -> bool:
    path = Path(where).expanduser()
    if path.suffix != ".npz":
        return False
    if not path.is_file():
        raise ValueError(
            f"reference {where!r} is not there, expected a folder of images or an .npz of statistics"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "arr_0" not in arrays
    except (OSError, EOFError, ValueError):
        return True  # statistics.read says what is wrong with it


def gather_reference(
    against: Against, names: Sequence[str], source: ImageSet, nets: Networks, folder: Path, chunk: int
) -> Reference | None:
    """The reference with rows and statistics of its images, which are measured now if they were not yet."""
    if against.images is None:
        return against.reference
    layers = _without_statistics(names)
    used = Networks({name: nets.extractors[name] for name in layers})
    other = source_of(against.images)
    for name in layers:
        mine, theirs = recipe(source, nets.extractors[name]), recipe(other, nets.extractors[name])
        statistics.check_comparable(Statistics({}, mine, None, None), Statistics({}, theirs, None, None))
    store = Store(folder, about_store(other, used, layers), other.count, {"shown": SHOWN})
    gather(store, other, used, layers, chunk, "reference")
    rows = {f"{name}.{layer}": store.array(f"{name}.{layer}") for name in layers for layer in layers[name]}
    wanted = {table.METRICS[n].rows for n in names if table.METRICS[n].reference == "statistics"}
    gaussians = {name: table.gaussian(rows[name]) for name in wanted}
    return Reference(gaussians, rows, against.about["reference"])


class Evaluation(NamedTuple):
    """values: {metric: {'value', …}}. warnings: what must be said beside them. repeat: what is needed to repeat
    them."""

    values: dict[str, dict[str, float]]
    warnings: list[str]
    repeat: dict[str, Any]

    def line(self) -> dict[str, Any]:
        """The last line that is printed."""
        return {name: found["value"] for name, found in self.values.items()}


def evaluate(
    names: Sequence[str],
    source: ImageSet,
    nets: Networks,
    against: Against,
    settings: Settings,
    out: Path,
    *,
    chunk: int,
    repeat: Mapping[str, Any] = {},
    keep: Callable[[int, Images], Any] | None = None,
    title: str = "Evaluation",
    reference_out: Path | None = None,
    pairs: Pairs | None = None,
    called: Mapping[str, str] = {},
) -> Evaluation:
    """Gathers the rows, computes the metrics, and writes out/result.json and out/index.html. Goes on where it stopped.

    reference_out: where what is measured of the reference's images is kept; in `out` by default. pairs: the originals
    that each image is compared with as well. called: metrics that the result has under another name.
    Raises: ValueError for metrics that cannot be made of these images, before the first of them is drawn.
    """
    layers = table.layers(names)
    table.check_counts(names, source.count, settings.allow_few)
    check_prompts(names, source)
    if against.images is not None and not settings.allow_few:
        for name in names:
            if table.METRICS[name].dim:
                table.check_enough(name, "reference", len(against.images), table.METRICS[name].dim)
    about = about_store(source, nets, layers) | (pairs.about() if pairs else {})
    store = Store(out / "samples", about, source.count, {"shown": SHOWN})
    used = {name: dataclasses.asdict(recipe(source, e)) for name, e in nets.extractors.items()}
    said = dict(
        repeat, num_images=source.count, recipes=used, reference=against.about, settings=settings._asdict()
    ) | (pairs.about() if pairs else {})
    finished = _finished(out, said) if store.done == source.count else None
    if finished:
        return finished
    gather(store, source, nets, layers, chunk, keep=keep, pairs=pairs)
    reference = gather_reference(against, names, source, nets, reference_out or out / "reference", chunk)
    values = values_of(names, store, source, nets, reference, settings)
    values = {called.get(name, name): value for name, value in values.items()}
    values |= pairs.values(store, settings) if pairs else {}
    warned = [*against.notes, *table.warnings(names, source.count)]
    outcome = Evaluation(values, warned, said | surroundings())
    _write(out, outcome, title, np.array(store.array("shown")), _figures(names, store, reference))
    return outcome


def check_prompts(names: Sequence[str], source: ImageSet) -> None:
    """Raises: ValueError for a metric that reads captions, of images that have none."""
    for name in names:
        if table.METRICS[name].prompts and source.prompts is None:
            raise ValueError(f"metric {name!r} needs the captions of the images: name a file with --prompts")


def values_of(
    names: Sequence[str],
    store: Store,
    source: ImageSet,
    nets: Networks,
    reference: Reference | None,
    settings: Settings,
) -> dict[str, dict[str, float]]:
    """The metrics of a store that is full; the accuracy of every kind of prompt beside that of all."""
    layers = table.layers(names)
    rows = {f"{name}.{layer}": store.array(f"{name}.{layer}") for name in layers for layer in layers[name]}
    captions = _captions(nets, source.prompts) if "clip" in layers else None

    def say(name: str) -> None:
        print(f"computing {name}", file=sys.stderr, flush=True)

    values = table.compute(names, rows, reference, settings, captions, say)
    if "accuracy" in values and source.kinds and len(source.kinds) <= source.count:
        right, number = rows["oracle.right"], len(source.kinds)
        values["accuracy"] |= {kind: float(right[i::number].mean()) for i, kind in enumerate(source.kinds)}
    return values


def _finished(out: Path, said: Mapping[str, Any]) -> "Evaluation | None":
    """The result that is in the folder, if it is of the same run; the command line and the machine do not count."""
    if not (out / "result.json").is_file() or not (out / "index.html").is_file():
        return None
    fields = {"values": dict, "warnings": list, "repeat": dict}
    kept = text_files.read_object(out / "result.json", "the result of an evaluation", fields)
    asked = json.loads(json.dumps(said, default=str))
    apart = {"command", *surroundings()}
    same = {k: v for k, v in kept["repeat"].items() if k not in apart} == {
        k: v for k, v in asked.items() if k not in apart
    }
    return Evaluation(**kept) if same else None


def _captions(nets: Networks, prompts: Sequence[str]) -> np.ndarray:
    distinct = sorted(set(prompts))
    embedded = nets.embed(distinct)
    place = {prompt: i for i, prompt in enumerate(distinct)}
    return embedded[[place[prompt] for prompt in prompts]]


def _figures(names: Sequence[str], store: Store, reference: Reference | None) -> dict[str, str]:
    found = {}
    for name in names:
        metric = table.METRICS[name]
        if metric.dim:
            points = table.by_number(name, store.array(metric.rows), reference.gaussians[metric.rows])
            if len(points) > 1:
                found[f"{name} by number of images"] = report.curve({name: points}, "images", name)
    return found


def surroundings() -> dict[str, Any]:
    """What it ran on, and with which versions."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    from ldm_jax import __version__

    devices = [d.device_kind for d in jax.local_devices()]
    return dict(
        versions={"ldm_jax": __version__, "python": sys.version.split()[0], **versions},
        devices=f"{len(devices)} x {devices[0]}",
    )


def _write(out: Path, outcome: Evaluation, title: str, shown: np.ndarray, figures: Mapping[str, str]) -> None:
    picture = grid.grid(shown)
    grid.write_png(out / "grid.png", picture)
    text = report.page(
        title, outcome.values, warnings=outcome.warnings, repeat=outcome.repeat, grid=picture, figures=figures
    )
    report.write_page(out / "index.html", text)
    write_json(out / "result.json", outcome._asdict())


def last_line(outcome: Evaluation, out: Path, count: int) -> dict[str, Any]:
    """The command's last line, of an outcome with `count` images; warnings go to standard error as well."""
    for text in outcome.warnings:
        print(f"warning: {text}", file=sys.stderr)
    print(f"{out / 'index.html'}", file=sys.stderr)
    return outcome.line() | dict(num_images=count, warnings=outcome.warnings, out=str(out))


def write_json(path: Path, value: Any) -> None:
    """Beside its place, and renamed into it."""
    atomic.write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def write_stats(path: str, images: Images, name: str, nets: Networks, batch_size: int) -> dict[str, Any]:
    """Writes the statistics of a set of images with one extractor, 'inception' or 'shapes'. Returns what the file
    says."""
    extractor = nets.extractors[name]
    layers = ("pool", "spatial") if name == "inception" else ("pool",)
    shown = cli.progress("images", len(images))
    collected = features.collect(
        images, extractor, gaussians=layers, batch_size=batch_size, progress=lambda done, _: shown(done)
    )
    described = statistics.describe(images, extractor, collected)
    statistics.write(path, described)
    stated = dataclasses.asdict(described.recipe)
    return dict(
        stats=str(path), recipe=stated, num_images=described.num_images, fingerprint=described.fingerprint
    )


def samples_of(
    model: Any,
    given: Mapping[str, Sequence],
    count: int,
    first_seed: int,
    rows: int,
    about: Mapping[str, Any],
    color: str = "strict",
    kinds: Sequence[str] | None = None,
    **options: Any,
) -> ImageSet:
    """`count` samples of a model, of seeds first_seed, first_seed + 1, ….

    model: inference.pipeline.LatentDiffusion. given: what each is told. rows: of a batch, a multiple of the devices.
    about: what
    model it is. options: of LatentDiffusion.sample.
    """

    def piece(start: int, stop: int) -> Images:
        seeds = range(first_seed + start, first_seed + stop)
        told = {name: values[start:stop] for name, values in given.items()}
        return ArrayImages(
            prompts.draw(model, told, seeds, rows, **options), [f"the sample of seed {s}" for s in seeds]
        )

    size = model.system.image_size
    # grid.to_uint8 cuts off what is behind the point, as the original's scripts do
    stated = dict(image_size=f"{size} x {size}", crop="none", color=COLORS[color], rounding="cut off")
    said = dict(about, first_seed=first_seed, conditions=digest(dict(given)), **options)
    return ImageSet(piece, count, given.get("prompts"), said, stated, kinds)
