"""Encodes the data of a config with its first stage and stores the result, so that training need not encode them again.

Decides what is computed, by which host, and in which order. data/latents.py defines the folder's contents,
commands/precompute_latents.py is the command, and training/precompute_beam.py does the same as an Apache Beam pipeline.
Pictures are cropped as in training, but each only once.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax import cli, paths
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.data import latents_builder, pipeline, transforms
from ldm_jax.data.latents import MOMENTS, TEXT, MadeOf
from ldm_jax.first_stage import make_first_stage
from ldm_jax.params import check_params, fingerprint
from ldm_jax.system import System, make_system
from ldm_jax.training.examples import check_example, needed_beside_moments, open_source
from ldm_jax.training.latents import LatentStatistics, measure
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)

ALWAYS = ("caption", "class_label")  # fields that are stored wherever the data have them


class PrecomputeOptions(NamedTuple):
    """Options of the command. batch_size: per device. fields: None stores those that the conditioning needs."""

    dtype: str = "float32"
    flip: bool = False
    text: bool = False
    fields: tuple[str, ...] | None = None
    file_format: str = "array_record"
    examples_per_shard: int = 1024
    batch_size: int = 32
    num_threads: int = 4


class Precomputation(NamedTuple):
    """A prepared computation: the data and functions that produce the stored examples.

    transform: (example, rng) -> {'image' [H, W, 3] float32 in [-1, 1], and the fields}. encode: images [n, H, W, 3] ->
    moments [n, h, w, 2c] float32, any n. say: examples -> {'text_context' [n, L, D], …} float32, see data/latents.py,
    or {}. example: one as it is stored, its numbers zero.
    """

    made: MadeOf
    source: Any
    transform: Callable
    encode: Callable
    say: Callable
    example: dict
    num_threads: int


# ------------------------------------------------------------------------------------------------------- the networks


def read_first_stage(config: Mapping[str, Any]) -> tuple[dict, PyTree]:
    """(section, parameters) of the trained first stage that a config names.

    Raises: ValueError if it names none, or one that does not fit its `first_stage`.
    """
    name = config.get("first_stage_from")
    if not name:
        if config.get("first_stage") and not make_first_stage(config["first_stage"]).has_parameters:
            return config["first_stage"], {}
        raise ValueError(
            "config.first_stage_from names no trained first stage to encode with: --config.first_stage_from=…"
        )
    opened = open_checkpoint(name).bundle()
    section, params = opened.config["first_stage"], opened.params["first_stage"]
    if config.get("first_stage"):
        section = config["first_stage"]
        shapes = jax.eval_shape(make_first_stage(section).init, jax.random.key(0))
        check_params(shapes, params, f"first_stage_from {name!r}")
    return section, params


def read_text_encoder(config: Mapping[str, Any], system: System) -> PyTree:
    """params['conditioner'] of a model whose text can be stored: one kind, that of the text, which is not trained.

    Raises: ValueError for a config without, one that trains it, or one that does not say where its parameters are.
    """
    if len(system.parts) != 1 or not hasattr(system.parts[0].kind, "TOKENIZERS"):
        kinds = ", ".join(part.name for part in system.parts) or "nothing"
        raise ValueError(f"--text: the model is conditioned on {kinds}, expected text alone")
    if "conditioner" not in (config.get("freeze") or ()):
        raise ValueError(
            "--text: the text encoder is trained with the model, expected config.freeze to name 'conditioner'"
        )
    if not config.get("init_from"):
        raise ValueError(
            "--text: config.init_from names no model to take the text encoder from: --config.init_from=…"
        )
    params = open_checkpoint(config["init_from"]).bundle().params.get("conditioner", {})
    expected = jax.eval_shape(system.init, jax.random.key(0))["conditioner"]
    check_params(expected, params, f"init_from {config['init_from']!r}")
    return params


def text_encoder_fingerprint(conditioner: PyTree) -> str:
    """What a latents folder says that its text is of. conditioner: params['conditioner'].

    The name of an only kind is left out, as it was from parameters' names when the first folders were made; several
    are those of no folder.
    """
    trees = list(conditioner.values())
    return fingerprint({"conditioner": trees[0] if len(trees) == 1 else conditioner})


def on_all_devices(fn: Callable, params: PyTree, batch_size: int) -> Callable:
    """fn(params, tree of [n, …]) -> tree of [n, …] float32, computed for any n on this host's devices, batch_size on
    each."""
    mesh = Mesh(np.asarray(jax.local_devices()), ("images",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))
    params, rows = jax.device_put(params, whole), batch_size * mesh.size
    program = jax.jit(
        lambda p, x: jax.tree.map(lambda y: y.astype(jnp.float32), fn(p, x)),
        in_shardings=(whole, split),
        out_shardings=split,
    )

    def run(tree: PyTree) -> PyTree:
        number, out = len(jax.tree.leaves(tree)[0]), []
        for start in range(0, number, rows):
            at = np.minimum(np.arange(start, start + rows), number - 1)
            out.append(jax.device_get(program(params, jax.tree.map(lambda x, at=at: x[at], tree))))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:number], *out)

    return run


# ----------------------------------------------------------------------------------------------------------- the data


def open_data(config: Mapping[str, Any]) -> tuple[Any, Callable]:
    """(the config's source, its crop (image uint8, rng) -> [size, size, 3] float32 in [-1, 1], which mirrors
    nothing)."""
    data = dict(config["data"])
    recipe = data.get("recipe", "none")
    if data.get("name") == "latents":
        raise ValueError(
            "config.data.name is 'latents', expected the pictures that latents are to be made of"
        )
    return open_source(config), transforms.recipe(recipe, config["image_size"], "train", flip=0.0)


def transform_of(config: Mapping[str, Any], source: Any, crop: Callable, fields: Sequence[str]) -> Callable:
    """See Precomputation."""

    cut = pipeline.abilities(source).cut

    def transform(example: dict, rng: np.random.Generator) -> dict:
        if cut:
            example = example | cut(example, config["image_size"], rng)
            image = example["image"]
        else:
            image = crop(example["image"], rng)
        kept = {name: example[name] for name in fields if name != "image"}
        if "image" in fields:
            kept["picture"] = transforms.to_bytes(image)
        return {"image": image} | {
            name: latents_builder.storable(name, value) for name, value in kept.items()
        }

    return transform


def choose_fields(config: dict, system: System, source: Any, options: PrecomputeOptions) -> list[str]:
    """The fields to store: those asked for, or what conditioning needs, the captions and the classes.

    Raises: ValueError for one that the data do not have, or that lies on a picture which is to be mirrored.
    """
    example = source[0]
    if options.fields is None:
        check_example(config, system, source)
        chosen = [f for f in (*ALWAYS, *sorted(needed_beside_moments(config, system))) if f in example]
    else:
        chosen = list(options.fields)
    chosen = list(dict.fromkeys(chosen))
    for name in chosen:
        if name not in example:
            raise ValueError(
                f"--fields: {source!r} has no {name!r}; it has: {', '.join(k for k in example if k != 'index')}"
            )
        if options.flip and (isinstance(example[name], Mapping) or np.ndim(example[name])):
            raise ValueError(f"--flip: {name} lies on the picture and would not be mirrored; leave one out")
    return chosen


# ------------------------------------------------------------------------------------------------------------ the job


def open_job(config: dict, options: PrecomputeOptions = PrecomputeOptions()) -> Precomputation:
    """Reads the networks and opens the data that `config` names.

    Raises: ValueError for a config of a first stage, options that there are not, or as what it calls.
    """
    _check_options(options)
    if config.get("task") != "diffusion":
        raise ValueError(
            f"config.task is {config.get('task')!r}, expected 'diffusion', whose data are encoded"
        )
    section, params = read_first_stage(config)
    config = dict(config, first_stage=section)
    system = make_system(config)
    source, crop = open_data(config)
    fields = choose_fields(config, system, source, options)
    first_stage, size = system.first_stage, config["image_size"]
    text_params = read_text_encoder(config, system) if options.text else None
    picture = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    moments = jax.eval_shape(first_stage.encode, params, picture).shape[1:]
    made = MadeOf(
        first_stage=fingerprint({"first_stage": params}),
        data=source.fingerprint(),
        source=repr(source),
        split=config["data"].get("split", "train"),
        number=len(source),
        image_size=size,
        recipe=config["data"].get("recipe", "none"),
        flip=options.flip,
        moments=list(moments),
        has_variance=first_stage.has_variance,
        dtype=options.dtype,
        computed_in=config.get("dtype", "float32"),
        fields=fields,
        text_encoder=text_encoder_fingerprint(text_params) if options.text else None,
        file_format=options.file_format,
        examples_per_shard=options.examples_per_shard,
    )
    transform = transform_of(config, source, crop, fields)
    say, said = _say(system, text_params, options)
    kept = _renamed(next(pipeline.in_order(source, transform=transform, indices=[0], num_threads=0)))
    example = {"moments": np.zeros(moments, np.float32)} | kept | said(kept)
    if options.flip:
        example["moments_flipped"] = example["moments"]
    encode = on_all_devices(first_stage.encode, params, options.batch_size)
    return Precomputation(made, source, transform, encode, say, example, options.num_threads)


def _check_options(options: PrecomputeOptions) -> None:
    for name, known in (("dtype", latents_builder.DTYPES), ("file_format", latents_builder.FILE_FORMATS)):
        if getattr(options, name) not in known:
            raise ValueError(f"--{name} {getattr(options, name)!r} not found; there are: {', '.join(known)}")
    for name in ("examples_per_shard", "batch_size"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}, expected at least 1")


def _renamed(example: dict) -> dict:
    """What `transform` gives, as it is stored: without what is encoded, and with the picture under its own name."""
    kept = {name: value for name, value in example.items() if name not in ("image", "index", "picture")}
    return kept | ({"image": example["picture"]} if "picture" in example else {})


def _say(system: System, params: PyTree | None, options: PrecomputeOptions) -> tuple[Callable, Callable]:
    """(Precomputation.say, example -> the same of one example in zeros, for its shapes)."""
    if params is None:
        return lambda examples: {}, lambda example: {}

    null = system.null_inputs(1)

    def outputs(params: PyTree, inputs: dict) -> dict:
        cond = system.condition({"conditioner": params}, inputs)
        if cond.vector is None:
            return {"text_context": cond.context}
        nothing = system.condition({"conditioner": params}, system.unconditional(inputs, null))
        values = (cond.context, cond.vector, nothing.vector)
        return dict(zip(TEXT, values, strict=True))

    def inputs(examples: Sequence[dict]) -> dict:
        given = {
            name: [e[field] for e in examples]
            for name, field in system.example.items()
            if field in examples[0]
        }
        return system.inputs(given)

    run = on_all_devices(outputs, params, options.batch_size)

    def zeros(example: dict) -> dict:
        shapes = jax.eval_shape(outputs, params, inputs([example]))
        return {name: np.zeros(shape.shape[1:], np.float32) for name, shape in shapes.items()}

    return lambda examples: run(inputs(examples)), zeros


# --------------------------------------------------------------------------------------------------------- the shards


def shards_of(index: int, count: int, shards: Iterable[int]) -> list[int]:
    """The shards of host `index` of `count`: every count-th. Raises: ValueError for an index outside [0, count)."""
    if not 0 <= index < count:
        raise ValueError(f"--shard is {index}/{count}, expected i/n with 0 <= i < n")
    return [shard for shard in shards if shard % count == index]


def write_shard(
    job: Precomputation, root: Path, shard: int, transformed: Iterator[dict] | None = None
) -> int:
    """Encodes and writes one shard. transformed: an iterator whose next examples are the shard's, where there is one.

    Returns: how many examples that were.
    """
    indices = job.made.examples(shard)
    if transformed is None:
        transformed = pipeline.in_order(
            job.source, transform=job.transform, indices=indices, num_threads=job.num_threads
        )
    given = list(itertools.islice(transformed, len(indices)))
    images = np.stack([example["image"] for example in given])
    kept = [_renamed(example) for example in given]
    computed = {"moments": job.encode(images)} | job.say(kept)
    if job.made.flip:
        computed["moments_flipped"] = job.encode(images[:, :, ::-1])
    examples = [
        {name: values[i] for name, values in computed.items()} | fields for i, fields in enumerate(kept)
    ]
    encoded = [values for name, values in computed.items() if name in MOMENTS]
    batches = [{"image": values, "valid": np.ones(len(values), bool)} for values in encoded]
    statistics = measure(batches, lambda moments: moments, job.made.has_variance)
    latents_builder.write_shard(
        root, job.made, shard, examples, dict(statistics=statistics._asdict()), job.example
    )
    return len(examples)


def pooled(parts: Sequence[LatentStatistics]) -> LatentStatistics:
    """The statistics of several parts of a data set together; each part's pictures are of one size."""
    number = np.asarray([part.number for part in parts], np.float64)
    mean, std = (np.asarray([getattr(part, name) for part in parts]) for name in ("mean", "std"))
    share = (number / number.sum())[:, None]
    first, second = (share * mean).sum(0), (share * (std**2 + mean**2)).sum(0)
    total = np.sqrt(second.mean() - first.mean() ** 2)
    return LatentStatistics(
        float(1 / total), first.tolist(), np.sqrt(second - first**2).tolist(), int(number.sum())
    )


def finish(job: Precomputation, root: Path) -> dict | None:
    """Makes a data set of the shards, if all of them are there. Returns the statistics of its latents, else None."""
    missing = latents_builder.missing_shards(root, job.made)
    if missing:
        log.info(
            "%d of %d shards are not there yet, such as %s", len(missing), job.made.num_shards, missing[:5]
        )
        return None
    parts = [LatentStatistics(**shard["statistics"]) for shard in latents_builder.done(root, job.made)]
    statistics = pooled(parts)._asdict()
    del statistics["number"]  # counts mirror images as well
    latents_builder.finish(root, job.made, job.example, statistics)
    return statistics


def precompute(
    config: dict,
    root: str | Path,
    options: PrecomputeOptions = PrecomputeOptions(),
    host: tuple[int, int] = (0, 1),
):
    """Writes the shards of this host, (index, count), that are not there yet, and makes a data set of all if none is
    missing.

    Returns: as `finish`. Raises: ValueError for a folder that holds something else; OSError for a disk that is full.
    """
    root = paths.of(root).expanduser()
    paths.check(root)
    job = open_job(config, options)
    shards_of(*host, [])
    missing = latents_builder.begin(root, job.made)
    own = shards_of(*host, missing)
    latents_builder.check_space(root, job.made, len(own))
    indices = [i for shard in own for i in job.made.examples(shard)]
    log.info("%d of %d shards are to be written here", len(own), job.made.num_shards)
    transformed = iter(())
    if indices:
        transformed = pipeline.in_order(
            job.source, transform=job.transform, indices=indices, num_threads=job.num_threads
        )
    shown, done = cli.progress("pictures encoded", len(indices)), 0
    for shard in own:
        done += write_shard(job, root, shard, transformed)
        shown(done)
    return finish(job, root)
