"""Evaluation while a second stage trains: every `evaluate_every` steps, on fixed seeds and prompts, with the averaged
weights.

A config's `evaluate` has metrics (of metrics/table.py), num_images, reference (a folder or statistics; None is what is
shipped, for shapes_fid) and batch_size; samples are drawn as its `sampling` says. All of it is checked before the first
step.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ldm_jax import paths, text_files
from ldm_jax.checkpoints import bundle
from ldm_jax.distributed import parallel
from ldm_jax.evaluation import prompts, run
from ldm_jax.evaluation.store import Store
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.metrics import table
from ldm_jax.metrics.table import Settings
from ldm_jax.models import latent_scale
from ldm_jax.system import make_system
from ldm_jax.training import latents
from ldm_jax.training.state import TrainState
from ldm_jax.types import PyTree

log = logging.getLogger(__name__)

OPTIONS = {"metrics": ("accuracy", "shapes_fid"), "num_images": 96, "reference": None, "batch_size": 16}
SETTINGS = Settings(resamples=0)


def read_options(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """OPTIONS with what the config says; None where it evaluates nothing. Raises: ValueError for what cannot be."""
    every = config.get("evaluate_every") or 0
    if every < 0:
        raise ValueError(f"config.evaluate_every is {every}, expected a number of steps, or 0 for none")
    if not every:
        return None
    if config["task"] != "diffusion":
        raise ValueError("config.evaluate_every is for task 'diffusion': a first stage has nothing to sample")
    given = dict(config.get("evaluate") or {})
    for name in given:
        if name not in OPTIONS:
            raise ValueError(f"config.evaluate has no option {name!r}; it has: {', '.join(OPTIONS)}")
    options = OPTIONS | given
    options["metrics"] = table.parse(options["metrics"])
    table.check_counts(options["metrics"], options["num_images"], False)
    return options


def every(config: Mapping[str, Any], workdir: Path) -> Callable[[Any, int, TrainState], bool]:
    """(writer, steps done, state on the devices) -> whether it was time to evaluate; then the scalars are written. All
    processes have to ask.

    Raises: ValueError as `make`.
    """
    evaluate, total = make(config, workdir), config["total_steps"]

    def due(writer: Any, done: int, state: TrainState) -> bool:
        if not config.get("evaluate_every") or (done != total and done % config["evaluate_every"]):
            return False
        params = parallel.fetch(state.ema_params)
        if evaluate is None:  # the first process does
            return True
        found = evaluate(params)
        writer.write_scalars(done, found)
        log.info("step %d  %s", done, "  ".join(f"{k.split('/')[1]} {v:.4g}" for k, v in found.items()))
        return True

    return due


def make(config: Mapping[str, Any], workdir: Path) -> Callable[[PyTree], dict[str, float]] | None:
    """(averaged parameters) -> {'evaluation/accuracy': …}; None where the config evaluates nothing, or on other
    processes than the first.

    workdir: of a run whose first stage and latents are measured. Raises: ValueError as `read_options`, for weights that
    are not there, and for metrics that this model cannot be measured with.
    """
    options = read_options(config)
    if options is None or jax.process_index():
        return None
    first = bundle.read(workdir / "first_stage")
    config = dict(config, first_stage=first.config["first_stage"])
    measured = text_files.read_object(workdir / "latents.json", "record of latents", latents.RECORD)
    params = {"first_stage": first.params["first_stage"]}
    system = make_system(config, bundle.read_tokenizer(workdir))
    scale = latent_scale.of_config(measured, system.first_stage.channels)
    base = LatentDiffusion(system, params, scale, config)
    names, count = options["metrics"], options["num_images"]
    given = prompts.conditions(base, count)
    sampling = base.resolve()
    rows = options["batch_size"] * jax.local_device_count()
    nets, layers = run.networks(names), table.layers(names)

    def source(sampler: Any) -> run.ImageSet:
        kinds = prompts.kinds(base)
        return run.samples_of(sampler, given, count, 0, rows, {}, kinds=kinds, **sampling)

    against = run.open_reference(options["reference"], names, source(base), nets, None, "strict")
    reference = run.gather_reference(
        against, names, source(base), nets, paths.scratch(workdir / "evaluation"), rows
    )
    run.check_prompts(names, source(base))

    def evaluate(params: PyTree) -> dict[str, float]:
        whole = dict(params, first_stage=first.params["first_stage"])
        base.place(whole)
        drawn = source(base)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder, {}, count, {"shown": run.SHOWN})
            run.gather(store, drawn, nets, layers, rows, "evaluation")
            values = run.values_of(names, store, drawn, nets, reference, SETTINGS)
        found = {f"evaluation/{name}": value["value"] for name, value in values.items()}
        by_kind = values.get("accuracy", {})
        found |= {f"evaluation/accuracy_{k}": by_kind[k] for k in drawn.kinds or () if k in by_kind}
        return found

    return evaluate
