"""What a first stage's run consists of (loop.TrainingJob): its step, its data, its pictures."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax import grid
from ldm_jax.config import call
from ldm_jax.convert.lpips import load_lpips
from ldm_jax.data import pipeline, transforms
from ldm_jax.distributed import parallel
from ldm_jax.training import loop, program, watch
from ldm_jax.training.examples import (
    open_source,
)
from ldm_jax.training.state import TrainState
from ldm_jax.training.workdir import read_unreadable
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)


def image_transform(config: dict) -> Callable:
    """(image uint8, rng) -> [size, size, 3] float32 in [-1, 1], with the recipe's random crops and flips."""
    data = config["data"]
    return transforms.recipe(data.get("recipe", "none"), config["image_size"], "train", data.get("flip"))


def batches_of(
    config: dict, source: Any, transform: Callable, order: Sequence | None = None
) -> Callable[[int], Iterator]:
    """start_step -> the batches of this process. order: as of pipeline.batches."""

    def batches(start_step: int) -> Iterator:
        return pipeline.batches(
            source,
            batch_size=config["batch_size"] // jax.process_count(),
            transform=transform,
            seed=config["seed"],
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=number_of_threads(config),
            order=order,
        )

    return batches


def number_of_threads(config: dict) -> int:
    """That read and decode ahead: config.data.num_threads, by default as many as this host has processors, at most 16.
    Raises: ValueError for a number below 0."""
    given = config["data"].get("num_threads")
    if given is not None and (not isinstance(given, int) or given < 0):
        raise ValueError(f"data.num_threads is {given!r}, expected a number of threads, 0 for none")
    return min(16, os.cpu_count() or 2) if given is None else given


def init_key(config: dict):
    """The key that fresh parameters are drawn with. One program draws them all; with threefry, it compiles for
    minutes."""
    return jax.random.key(config["seed"], impl="unsafe_rbg")


def first_stage_job(config: dict, workdir: Path, placement: parallel.Placement) -> loop.TrainingJob:
    source, crop = open_source(config, read_unreadable(workdir)), image_transform(config)
    first_stage, step, begin = program.first_stage_parts(config, placement)
    frozen = {}
    if program.has_perceptual(config):
        options = {k: v for k, v in config["lpips"].items() if v not in ("", None) and k != "dropout"}
        frozen["lpips"] = call(load_lpips, options, "lpips")
    else:
        log.info("no perceptual loss: config.lpips names no weights, and none are at hand or it is off")
    with parallel.on_host():
        state = begin(init_key(config))

    def transform(example, rng):
        return {"image": crop(example["image"], rng)}

    shown = next(pipeline.evaluation_batches(source, batch_size=8, transform=transform))["image"]
    reconstruct = jax.jit(lambda p, x: first_stage.module.apply({"params": p}, x, sample_posterior=False)[0])

    def drawn(state: TrainState) -> PyTree:
        return state.params["autoencoder"] if state.ema_params is None else state.ema_params

    def preview(params: PyTree) -> dict:
        pictures = np.concatenate([shown, np.asarray(reconstruct(params, shown))])
        return {"reconstructions": grid.grid(watch.preview(pictures), columns=8)}

    _, learning_rate = program.make_optimizer(config, jax.device_count())
    batches = batches_of(config, source, transform)
    job = loop.TrainingJob(state, step, frozen, batches, drawn, preview, learning_rate, source.fingerprint())
    return job._replace(unreadable=pipeline.abilities(source).unreadable_files)
