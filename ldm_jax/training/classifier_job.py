"""What a run of the task 'classifier' consists of (loop.TrainingJob): a classifier of noised latents, for guidance.

The latents, the noise levels and the scale factor are those of config.base, the model that guidance/classifier.py is
to lead with it.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.data import pipeline
from ldm_jax.distributed import hosts, parallel
from ldm_jax.training import loop, program
from ldm_jax.training.classifier_loss import LABEL, init, make_network
from ldm_jax.training.diffusion_job import measure_latents, open_run
from ldm_jax.training.first_stage_job import batches_of, init_key


def classifier_job(config: dict, workdir: Path, placement: parallel.Placement) -> loop.TrainingJob:
    """Raises: ValueError for data without classes, or with more than config.classifier has."""
    config, system, frozen, source, crop = open_run(config, workdir)
    can = pipeline.abilities(source)
    check_labels(config, source, can.class_names)
    with hosts.first_alone("the latents"):
        source, scale = measure_latents(config, workdir, system, frozen, source, crop, {LABEL})
    frozen["latent_scale"] = scale

    def transform(example: dict, rng: np.random.Generator) -> dict:
        fields = can.pick(example, rng)
        shown = (
            {"moments": fields["moments"]} if "moments" in fields else {"image": crop(fields["image"], rng)}
        )
        return shown | {LABEL: np.int32(example[LABEL])}

    with parallel.on_host():
        step, begin = program.classifier_parts(config, system, placement)
        state = begin(init(config, system, init_key(config)))
    _, learning_rate = program.make_optimizer(config, jax.device_count())
    return loop.TrainingJob(
        state,
        step,
        frozen,
        batches_of(config, source, transform),
        drawn=lambda state: state.ema_params,
        preview=lambda params: {},
        learning_rate=learning_rate,
        fingerprint=source.fingerprint(),
        class_names=list(can.class_names) or None,
        unreadable=can.unreadable_files,
    )


def check_labels(config: dict, source: Any, class_names) -> None:
    """Raises: ValueError for data without classes, or with more than config.classifier has."""
    if LABEL not in source[0]:
        raise ValueError(f"task 'classifier' needs a {LABEL} for each image, and {source!r} has none")
    number = make_network(config).num_classes
    if class_names and len(class_names) != number:
        raise ValueError(
            f"config.classifier.num_classes is {number}, expected {len(class_names)}, those of {source!r}"
        )
