"""What a second stage's run consists of (loop.TrainingJob): its first stage, its latents, its step, its
pictures."""

import logging
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import atomic, grid, paths, text_files
from ldm_jax.atomic import write_json
from ldm_jax.checkpoints import adapters, bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.checkpoints.warm_start import start_from
from ldm_jax.data import pipeline
from ldm_jax.distributed import hosts, parallel
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.inference.settings import check_sampling
from ldm_jax.models import latent_scale
from ldm_jax.params import fingerprint, flatten, unflatten
from ldm_jax.personalization import base as personalization
from ldm_jax.system import System, make_system
from ldm_jax.tasks import boxes, labels
from ldm_jax.training import held_out, latents, loop, program, vocabulary, watch
from ldm_jax.training.base_model import text_of, tokenizer_of, with_words
from ldm_jax.training.examples import (
    check_example,
    check_words,
    conditions_of,
    inputs_of,
    needed_beside_moments,
    open_source,
    order_of,
)
from ldm_jax.training.first_stage_job import batches_of, image_transform, init_key
from ldm_jax.training.precompute import read_first_stage, text_encoder_fingerprint
from ldm_jax.training.prior import with_prior
from ldm_jax.training.workdir import (
    has_checkpoints,
    read_unreadable,
)
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


def open_first_stage(config: dict, workdir: Path) -> bundle.Bundle:
    """The first stage that the latents are of: the workdir's own copy, or else the one that the config names, copied
    there.

    The copy comes first so that a run goes on in the latents that it began in, whatever has become of the original.
    """
    kept = workdir / "first_stage"
    if kept.is_dir() and (has_checkpoints(workdir) or not hosts.is_first()):
        return bundle.read(kept)
    if config.get("first_stage_from"):
        section, params = read_first_stage(config)
    else:
        first_stage = make_first_stage(config["first_stage"])
        if first_stage.has_parameters:
            log.warning("config.first_stage_from names no trained first stage: a fresh one is used")
        section, params = config["first_stage"], first_stage.init(init_key(config))
    opened = bundle.Bundle(dict(task="first_stage", first_stage=section), {"first_stage": params})
    bundle.save(kept, opened)
    return opened


def open_run(config: dict, workdir: Path) -> tuple[dict, System, dict, Any, Callable]:
    """What a run in the latents of a first stage stands on: the config with that first stage, the system, its frozen
    parameters, the source of the data, and what crops a picture."""
    source, crop = open_source(config, read_unreadable(workdir)), image_transform(config)
    with hosts.first_alone("the first stage"):
        first = open_first_stage(config, workdir)
    config = dict(config, first_stage=first.config["first_stage"])
    frozen = {"first_stage": first.params["first_stage"]}
    tokenizer = tokenizer_of(config) or vocabulary.of_run(config, workdir, source)
    system = make_system(config, tokenizer)
    return config, system, frozen, source, crop


def diffusion_job(config: dict, workdir: Path, placement: parallel.Placement) -> loop.TrainingJob:
    config, system, frozen, source, crop = open_run(config, workdir)
    source = with_prior(config, workdir, source)
    can = pipeline.abilities(source)
    check_example(config, system, source)
    check_words(config, source)
    check_sampling(config.get("sampling", {}), system.schedule)
    if {"class_labels", "layouts"} & set(system.takes) and not config.get("class_names"):
        config["class_names"] = list(can.class_names) or None
    with hosts.first_alone("the latents"):
        if system.tokenizer is not None and hosts.is_first():
            with atomic.writing(workdir / "tokenizer.json") as partial:
                system.tokenizer.save(str(partial))
        source, scale = measure_latents(config, workdir, system, frozen, source, crop)
    frozen["latent_scale"] = scale

    conditions = conditions_of(config, system, source, crop)
    with parallel.on_host():
        params = first_params(config, system)
        if program.stands_on_base(config):  # a copy: a step may write over what it trains
            frozen["base"] = jax.tree.map(
                np.array, {k: params[k] for k in ("unet", "conditioner") if k in params}
            )
        if config.get("personalization"):
            params = {"delta": first_delta(config, params)}
        if can.has_text:
            frozen_text = "conditioner" in (config.get("freeze") or ())
            trees = frozen.get("base", params)["conditioner"]
            can.check_text(text_encoder_fingerprint(trees) if frozen_text else None)
        step, begin = program.diffusion_parts(config, system, placement, params)
        state = begin(params)
    _, learning_rate = program.make_optimizer(config, jax.device_count())
    preview = preview_of(config, system, frozen, source, conditions)
    order = order_of(config, system, source)
    batches = batches_of(config, source, inputs_of(system, conditions), order)
    data_fingerprint = source.fingerprint()
    drawn, names = operator.attrgetter("ema_params"), config.get("class_names")
    return loop.TrainingJob(
        state,
        step,
        frozen,
        batches,
        drawn,
        preview,
        learning_rate,
        data_fingerprint,
        names,
        can.unreadable_files,
        held_out.make(config, system, frozen, crop, read_unreadable(workdir)),
    )


def first_params(config: dict, system: System) -> PyTree:
    """Those of the network and its conditioner before the first step, and what the loss learns."""
    params = system.init(init_key(config))
    if config.get("init_from"):
        opened = with_words(config, open_checkpoint(config["init_from"]).bundle()).params
        params, notes = start_from(params, opened, config.get("freeze") or ())
        log.info("init_from %r: %s", config["init_from"], notes)
    if text := text_of(config):
        params, notes = start_from(params, text, ("conditioner",))
        log.info("text_from %r: %s", config["text_from"], notes)
    return params | program.learned(config, system, params, jax.random.fold_in(init_key(config), 1))


def first_delta(config: dict, params: PyTree) -> PyTree:
    """The delta before the first step: a fresh one, or, with config.adapter_from, that adapter's, beside which what it
    does not have is fresh.

    params: of the base. Raises: ValueError for an adapter of another way, or one that does not fit.
    """
    section = config["personalization"]
    delta = personalization.init_delta(section, init_key(config), params)
    if not config.get("adapter_from"):
        return delta
    adapter = adapters.read(config["adapter_from"])
    flat, there = flatten(delta), flatten(adapter.delta)
    wrong = sorted("/".join(k) for k, v in there.items() if k not in flat or flat[k].shape != v.shape)
    if adapter.section["name"] != section["name"] or wrong:
        raise ValueError(
            f"config.adapter_from {config['adapter_from']!r} is an adapter of {adapter.section['name']}"
            + (f" with {wrong[0]}, which" if wrong else ", which")
            + f" config.personalization, {section['name']}, has not"
        )
    return unflatten({path: jnp.asarray(there.get(path, leaf), jnp.float32) for path, leaf in flat.items()})


def measure_latents(
    config: dict,
    workdir: Path,
    system: System,
    frozen: PyTree,
    source: Any,
    crop: Callable,
    fields: set[str] | None = None,
):
    """(source, LatentScale of float32): what the config gives, or else what is measured of the latents of the whole
    data set (`latents.used`).

    Latents that were stored ahead of training have theirs with them. With data.precompute_latents the source then gives
    moments, and beside them `fields` of the examples, by default what the conditioning needs. Both are kept in the
    workdir.
    """

    def plain(example, rng):
        return {"image": crop(example["image"], rng)}

    has_variance = system.first_stage.has_variance
    encode = jax.jit(lambda x: system.first_stage.encode(frozen["first_stage"], x))
    batches = pipeline.evaluation_batches(source, batch_size=64, transform=plain)
    made_of = dict(first_stage=fingerprint(frozen), data=source.fingerprint())
    can = pipeline.abilities(source)
    can.check(first_stage=made_of["first_stage"], image_size=config["image_size"])
    path, record = workdir / "latents.npy", workdir / "latents.json"
    precompute = config["data"].get("precompute_latents", False)
    before = text_files.read_object(record, "record of latents", latents.RECORD) if record.exists() else {}
    differing = [k for k in made_of if before.get(k) != made_of[k]]
    if differing and has_checkpoints(workdir):
        raise ValueError(
            f"workdir {workdir} was trained on other {'data' if 'data' in differing else 'latents'} than it "
            f"would go on with; "
            "restore them, or take another --workdir"
        )
    if differing or (precompute and not path.exists()):
        if can.statistics:
            measured = can.statistics
        elif precompute:
            measured = latents.precompute(path, batches, len(source), encode, has_variance, made_of)._asdict()
        else:
            measured = latents.measure(batches, encode, has_variance)._asdict()
        before = dict(made_of, **measured) | latents.used(config, measured)
        write_json(record, before)
    log.info(
        "latents: mean %s, std %s, %sscale factor %.5f",
        np.round(before["mean"], 3),
        np.round(before["std"], 3),
        "both taken off per channel, " if before.get("latents_mean") else "",
        before["scale_factor"],
    )
    if precompute:
        fields = needed_beside_moments(config, system) if fields is None else fields
        source = latents.MomentsSource(source, np.load(paths.local(path), mmap_mode="r"), fields)
    scale = latent_scale.of_config(before, system.first_stage.channels)
    return source, scale._replace(factor=np.float32(scale.factor))


def preview_of(config: dict, system: System, frozen: PyTree, source: Any, conditions: Callable) -> Callable:
    """Eight samples of fixed seeds, for the conditions of the first eight examples."""
    sampling, seeds = dict(config.get("sampling", {})), range(8)
    given: dict[str, list] = {}
    if system.parts:
        seeds = range(min(8, len(source)))
        for i in seeds:
            _, values = conditions({"index": i, **source[i]}, np.random.default_rng(i))
            values.pop("seeds", None)  # the pictures' own
            for name, value in values.items():
                given.setdefault(name, []).append(value)

    def preview(ema_params: PyTree) -> dict:
        if config.get("personalization"):
            ema_params = personalization.merge_delta(
                config["personalization"], frozen["base"], ema_params["delta"]
            )
        params = dict(ema_params, first_stage=frozen["first_stage"])
        model = LatentDiffusion(system, params, frozen["latent_scale"], {"sampling": sampling})
        # Not `sample`: it refuses masks of nothing and of everything, which training may draw, and puts known pixels
        # back.
        batch_size = sampling.get("batch_size", 8)
        latents = model.sample_latents(given, seeds, batch_size=batch_size, **model.resolve())
        samples = watch.preview(model.decode(latents))
        pictures = {"samples": grid.grid(samples, columns=4)}
        if "layouts" in given:
            names = config.get("class_names")
            told = [labels.told(system, layout, None) for layout in given["layouts"]]  # labels are numbers
            drawn = [boxes.draw(*pair, names) for pair in zip(samples, told, strict=True)]
            pictures["layouts"] = grid.grid(np.stack(drawn), columns=4)
        return pictures

    return preview
