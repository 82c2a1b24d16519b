"""Reading: what of its caption the network makes use of, by how much its error grows when the caption says otherwise.

Held-out scenes of two things are noised, and the network's error under their true caption is compared with that under a
caption that tells the relation the other way round, has the two colors exchanged, or says nothing. It takes seconds,
and shows what a network has begun to learn long before its pictures do.
"""

import argparse
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.data import transforms
from ldm_jax.diffusion import loss
from ldm_jax.diffusion.process import q_sample
from ldm_jax.evaluation.shapes.base import FIRST_SEED, Model, Outcome
from ldm_jax.models.controlnet import apply_network
from ldm_jax.shapes_world import prompts
from ldm_jax.shapes_world import scenes as world
from ldm_jax.system import System
from ldm_jax.types import KEY_IMPL, Array, PyTree

NOISES = (0.999, 0.9, 0.75, 0.6, 0.4)  # of the timesteps
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


def score(args: argparse.Namespace) -> Outcome:
    """How much the error grows when the caption is wrong, by level of noise."""
    model = Model(args)
    model.check_takes("prompts")
    said = prompts.scenes_and_prompts("relation", args.num_samples)
    captions = [caption for _, caption in said]
    x_start = np.asarray(
        model.model._in_batches(
            model.model.encode,
            np.stack([transforms.to_float(world.render(scene)) for scene, _ in said]),
            args.batch_size,
        )
    )
    asked = {
        "right": captions,
        "relation": [turned(caption) for caption in captions],
        "color": [exchanged(caption) for caption in captions],
        "none": [""] * len(captions),
    }
    inputs = {name: inputs_of(model, told) for name, told in asked.items()}
    errors_of = jax.jit(functools.partial(errors, model.system))
    figures: dict = {}
    for noise in NOISES:
        t = np.int32(noise * model.system.schedule.num_timesteps)
        found = {
            name: in_batches(errors_of, model, x_start, t, args.batch_size, told)
            for name, told in inputs.items()
        }
        right = found.pop("right")
        figures[str(t)] = {"error": float(right.mean())} | {
            name: dict(more=float(value.mean() / right.mean() - 1), worse=float((value > right).mean()))
            for name, value in found.items()
        }
    return Outcome(figures | dict(num_samples=args.num_samples, checkpoint=args.checkpoint), {})


def inputs_of(model: Model, captions: list[str]) -> dict[str, np.ndarray]:
    """The inputs of captions, the model's null ones where a caption is empty."""
    inputs, null = model.system.inputs({"prompts": captions}), model.system.null_inputs(1)
    empty = np.asarray([not caption for caption in captions])
    for key in model.system.drops:
        rows = empty.reshape(-1, *[1] * (inputs[key].ndim - 1))
        inputs[key] = np.where(rows, np.asarray(null[key]), inputs[key])
    return inputs


def errors(system: System, params: PyTree, x_start: Array, seeds: Array, t: Array, inputs: dict) -> Array:
    """[B] float32: the mean square error of the prediction at timestep t [] of scaled latents x_start [B, h, w, c],
    with the noise of seeds [B]."""
    key, at = jax.random.key(0, impl=KEY_IMPL), jnp.full(len(x_start), t)
    noise = jax.vmap(lambda seed: jax.random.normal(jax.random.fold_in(key, seed), x_start.shape[1:]))(seeds)
    x_t = q_sample(system.schedule, x_start, at, noise)
    cond = system.condition(params, inputs)
    prediction, _ = apply_network(system.unet, params["unet"], x_t, at, cond)
    wanted = loss.target(system.prediction_type, system.schedule, x_start, noise, at)
    return jnp.square(prediction - wanted).mean(axis=(1, 2, 3))


def in_batches(
    errors_of, model: Model, x_start: np.ndarray, t: np.int32, size: int, inputs: dict
) -> np.ndarray:
    """[N] float32: `errors` of N examples, `size` at once."""
    found = []
    for start in range(0, len(x_start), size):
        rows = np.arange(start, start + size) % len(x_start)  # the last batch is filled up
        told = {name: value[rows] for name, value in inputs.items()}
        found.append(
            errors_of(model.model.params, x_start[rows], (FIRST_SEED + rows).astype(np.uint32), t, told)
        )
    return np.concatenate(found)[: len(x_start)]


def turned(caption: str) -> str:
    """A caption with a relation, with the opposite one in its place."""
    where = next(where for where in OPPOSITE if f" {where} " in caption)
    return caption.replace(f" {where} ", f" {OPPOSITE[where]} ")


def exchanged(caption: str) -> str:
    """A caption of two things with each one's color given to the other."""
    colors = "|".join(world.COLOR_NAMES)
    others = reversed(re.findall(rf"\b({colors})\b", caption))
    return re.sub(rf"\b({colors})\b", lambda _: next(others), caption)
