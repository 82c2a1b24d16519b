"""The programs that train either stage, put together from a config: the optimizer, the step, and the state before the
first one.

It has neither data nor weights: train.py brings both, and commands/dry_run.py compiles the same step where neither
they nor the devices are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.config import call, options_of
from ldm_jax.convert import lpips
from ldm_jax.distributed import parallel
from ldm_jax.first_stage import FIRST_STAGES, FirstStage, make_first_stage
from ldm_jax.models.autoencoder import check_size
from ldm_jax.models.discriminator import NLayerDiscriminator
from ldm_jax.models.lpips import LPIPS
from ldm_jax.personalization import base as personalization
from ldm_jax.system import System, make_system
from ldm_jax.training import (
    classifier_loss,
    diffusion_step,
    ema,
    equivariance,
    first_stage_loss,
    first_stage_step,
    latents,
    optimizer,
)
from ldm_jax.training.alignment import ALIGNMENT, class_counts
from ldm_jax.training.distillation import base as distillation
from ldm_jax.training.examples import counts_background, has_token_masks
from ldm_jax.training.objective import diffusion_objective, init_learned
from ldm_jax.training.perceptual import OFF
from ldm_jax.training.state import TrainState, example_keys
from ldm_jax.training.token_masks import MASKS, UNNAMED
from ldm_jax.types import PyTree

PENALTY = 1  # folded into an example's key, of which the objective splits off its own


class TrainingProgram(NamedTuple):
    """step(state, frozen, batch, seed) -> (state, metrics), for parallel.Placement.compile; the others are trees of
    jax.ShapeDtypeStruct, batch the global one."""

    step: Callable
    state: TrainState
    frozen: PyTree
    batch: PyTree


def make_training_program(config: Mapping[str, Any], placement: parallel.Placement) -> TrainingProgram:
    """config: with its first stage's section, of any task. Raises: ValueError as the makers of its parts."""
    programs = dict(
        first_stage=first_stage_program, diffusion=diffusion_program, classifier=classifier_program
    )
    return programs[config["task"]](config, placement)


def make_optimizer(config: Mapping[str, Any], num_devices: int) -> tuple[Any, Callable]:
    """(the optimizer that the config names, its learning rate by step), at the original's rate
    (training/optimizer.py)."""
    options = dict(config["optimizer"])
    if "base_lr" not in options:
        raise ValueError(f"config.optimizer has no 'base_lr'; it has: {', '.join(options)}")
    accumulate, run_steps = options.get("accumulate", 1), optimizer_steps(config)
    base_lr, scale_lr = options.pop("base_lr"), options.pop("scale_lr", True)
    per_device = config["batch_size"] // num_devices
    lr = optimizer.learning_rate(base_lr, per_device, num_devices, accumulate, scale_lr)
    tx = call(optimizer.make_optimizer, {}, "optimizer", learning_rate=lr, run_steps=run_steps, **options)
    return tx, optimizer.make_lr_schedule(lr, options.get("schedule"), run_steps)


def optimizer_steps(config: Mapping[str, Any]) -> int:
    """How many steps the optimizer makes in the whole run: config.total_steps counts batches."""
    accumulate = config["optimizer"].get("accumulate", 1)
    return config["total_steps"] // accumulate if isinstance(accumulate, int) and accumulate > 0 else 0


# ------------------------------------------------------------------------------------------------------ the second
# stage


def diffusion_parts(
    config: Mapping[str, Any], system: System, placement: parallel.Placement, params: PyTree
) -> tuple[Callable, Callable]:
    """(step, params -> state before the first step). params: arrays or shapes, of which config.freeze picks by name."""
    tx, _ = make_optimizer(config, placement.mesh.size)
    optimizer.check_prefixes("optimizer.parts", list(config["optimizer"].get("parts") or ()), params)
    tx = optimizer.freeze(tx, config.get("freeze") or (), params)
    distilled = bool(config.get("distillation"))
    objective = (distillation.distillation_objective if distilled else diffusion_objective)(config, system)
    ema_decay = config.get("ema_decay", 0.9999)
    sees_average = distilled and distillation.way(config, system).sees_average
    accumulate = config["optimizer"].get("accumulate", 1)
    if config.get("personalization"):
        objective = of_delta(config["personalization"], objective, system.tokenizer, accumulate)
    gradients = placement.gradients(objective, system.in_compute_dtype)
    step = diffusion_step.make_step(gradients, tx, ema_decay, accumulate, sees_average)

    def begin(params: PyTree) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))

    return step, begin


def stands_on_base(config: Mapping[str, Any]) -> bool:
    """Whether the loss looks at the parameters that the run began with, frozen['base']."""
    return bool(config.get("personalization") or config.get("distillation"))


def learned(config: Mapping[str, Any], system: System, params: PyTree, key: jax.Array) -> PyTree:
    """What the loss learns beside the network, {name: tree}.

    Raises: ValueError for a distillation that does with config.personalization, which trains the delta alone.
    """
    more = distillation.init_learned(config, system, params, jax.random.fold_in(key, 1))
    if more and config.get("personalization"):
        raise ValueError(
            f"config.distillation {config['distillation']['name']!r} learns a {', '.join(more)}, and with "
            "config.personalization the delta alone is trained: expected it left out"
        )
    return init_learned(config, system, params, key) | more


def of_delta(
    section: Mapping[str, Any], objective: Callable, tokenizer: Any, accumulate: int = 1
) -> Callable:
    """The objective of {'delta': …}, which is `objective` of the merged parameters; frozen['base'] holds the base's.

    tokenizer: that of the run, with its words. accumulate: as of diffusion_step.make_step.
    """
    prepared = personalization.prepare(section, tokenizer)

    def loss(params, frozen, batch, seed, step):
        batch = personalization.shown(section, batch, step // accumulate, prepared)

        def whole(params):
            return personalization.merge_delta(section, frozen["base"], params["delta"])

        average = {"average": whole(frozen["average"])} if "average" in frozen else {}
        total, metrics = objective(whole(params), frozen | average, batch, seed, step)
        keys = example_keys(seed, step, batch["position"])
        keys = jax.vmap(lambda key: jax.random.fold_in(key, PENALTY))(keys)
        seen = personalization.Seen(batch, keys, prepared)
        return total + personalization.penalty(section, frozen["base"], params["delta"], seen), metrics

    return loss


def diffusion_program(config: Mapping[str, Any], placement: parallel.Placement) -> TrainingProgram:
    """Of the second stage, whose examples are images, or moments with data.precompute_latents."""
    system, key = make_system(config), jax.random.key(0)
    params = jax.eval_shape(system.init, key)
    frozen = {
        "first_stage": jax.eval_shape(system.first_stage.init, key),
        "latent_scale": latents.scale_shapes(config, system.first_stage.channels),
    }
    if stands_on_base(config):
        frozen["base"] = params
    params |= jax.eval_shape(partial(learned, config, system), params, key)
    if config.get("personalization"):
        make = partial(personalization.init_delta, config["personalization"])
        params = {"delta": jax.eval_shape(make, key, params)}
    step, begin = diffusion_parts(config, system, placement, params)
    return TrainingProgram(step, jax.eval_shape(begin, params), frozen, diffusion_batch(config, system))


def diffusion_batch(config: Mapping[str, Any], system: System) -> dict[str, jax.ShapeDtypeStruct]:
    """'image' [B, H, W, 3] or 'moments' [B, h, w, c], the inputs of the conditioning, 'position' [B]."""
    number, (h, w, _) = config["batch_size"], system.latent_shape
    inputs = {k: (v.shape[1:], v.dtype) for k, v in system.null_inputs(1).items()}
    if config["data"].get("precompute_latents"):
        inputs["moments"] = ((h, w, system.first_stage.encoded_channels), np.float32)
    else:
        inputs["image"] = ((*system.image_shape, 3), np.float32)
    if has_token_masks(config):
        inputs[MASKS] = ((inputs["tokens"][0][0], h, w), np.float32)
        if counts_background(config):
            inputs[UNNAMED] = ((h, w), np.float32)
    if classes := class_counts(config):
        inputs[ALIGNMENT] = ((h, w, sum(number + 1 for number in classes.values())), np.float32)
    inputs["position"] = ((), np.int32)
    return {k: jax.ShapeDtypeStruct((number, *shape), dtype) for k, (shape, dtype) in inputs.items()}


# ---------------------------------------------------------------------------------------- a classifier for guidance


def classifier_parts(
    config: Mapping[str, Any], system: System, placement: parallel.Placement
) -> tuple[Callable, Callable]:
    """(step, params -> state before the first step)."""
    tx, _ = make_optimizer(config, placement.mesh.size)
    accumulate = config["optimizer"].get("accumulate", 1)
    step = diffusion_step.make_step(
        placement.gradients(classifier_loss.classifier_loss(config, system)),
        tx,
        config.get("ema_decay", 0.9999),
        accumulate,
    )

    def begin(params: PyTree) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, ema.init(params), tx.init(params))

    return step, begin


def classifier_program(config: Mapping[str, Any], placement: parallel.Placement) -> TrainingProgram:
    """As program.diffusion_program."""
    system, key = make_system(config), jax.random.key(0)
    step, begin = classifier_parts(config, system, placement)
    params = jax.eval_shape(lambda key: classifier_loss.init(config, system, key), key)
    frozen = {
        "first_stage": jax.eval_shape(system.first_stage.init, key),
        "latent_scale": latents.scale_shapes(config, system.first_stage.channels),
    }
    number, (h, w, _) = config["batch_size"], system.latent_shape
    batch = {name: jax.ShapeDtypeStruct((number,), jnp.int32) for name in (classifier_loss.LABEL, "position")}
    if config["data"].get("precompute_latents"):
        batch["moments"] = jax.ShapeDtypeStruct(
            (number, h, w, system.first_stage.encoded_channels), jnp.float32
        )
    else:
        batch["image"] = jax.ShapeDtypeStruct((number, *system.image_shape, 3), jnp.float32)
    return TrainingProgram(step, jax.eval_shape(begin, params), frozen, batch)


# ------------------------------------------------------------------------------------------------------- the first
# stage


def first_stage_parts(
    config: Mapping[str, Any], placement: parallel.Placement
) -> tuple[FirstStage, Callable, Callable]:
    """(the first stage, step, key -> state before the first step), with the perceptual loss where config.lpips names
    weights, which the step then finds in frozen['lpips']."""
    first_stage = make_first_stage(config["first_stage"], config.get("dtype", "float32"))
    if not first_stage.losses:
        trained = " or ".join(name for name, module in FIRST_STAGES.items() if module.losses)
        raise ValueError(f"first_stage {first_stage.name!r} has nothing to train; name {trained}")
    generator_loss = first_stage_loss.GENERATOR_LOSSES[first_stage.losses]
    size, ema_decay = config["image_size"], config.get("ema_decay")
    check_size(size, size, first_stage.factor)
    discriminator = None
    if config.get("discriminator"):
        options = dict(config["discriminator"])
        discriminator = call(NLayerDiscriminator, options, "discriminator", axis_name=placement.axis_name)
    txs = {part: make_optimizer(config, placement.mesh.size)[0] for part in ("autoencoder", "discriminator")}
    loss_options = dict(config.get("loss", {}))
    views = equivariance.check(loss_options.pop("equivariance", None), size, first_stage.factor)
    if views[0] and first_stage.losses != "kl":
        raise ValueError(f"loss.equivariance is of first stage 'kl', got {first_stage.name!r}")
    logvar_init = loss_options.pop("logvar_init", 0.0)
    if "n_embed" in options_of(generator_loss) and hasattr(first_stage.module, "n_embed"):
        loss_options.setdefault("n_embed", first_stage.module.n_embed)
    step = call(
        first_stage_step.make_step,
        loss_options,
        "loss",
        then=generator_loss,
        generator_loss=generator_loss,
        autoencoder=first_stage.module,
        discriminator=discriminator,
        txs=txs,
        perceptual=_perceptual(config["lpips"]) if has_perceptual(config) else None,
        ema_decay=ema_decay,
        average=placement.average,
        accumulate=config["optimizer"].get("accumulate", 1),
        views=views,
    )

    def begin(key: jax.Array) -> TrainState:
        shape = (size, size, 3)
        return first_stage_step.init_state(
            key, first_stage.init, discriminator, shape, txs, ema_decay, logvar_init
        )

    return first_stage, placement.gathering(step), begin


def first_stage_program(config: Mapping[str, Any], placement: parallel.Placement) -> TrainingProgram:
    """Of the first stage; the weights of its perceptual loss are not read."""
    _, step, begin = first_stage_parts(config, placement)
    size, number = config["image_size"], config["batch_size"]
    frozen = {"lpips": jax.eval_shape(lambda: lpips.template())} if has_perceptual(config) else {}
    batch = {
        "image": jax.ShapeDtypeStruct((number, size, size, 3), np.float32),
        "position": jax.ShapeDtypeStruct((number,), np.int32),
    }
    return TrainingProgram(step, jax.eval_shape(begin, jax.random.key(0)), frozen, batch)


def has_perceptual(config: Mapping[str, Any]) -> bool:
    """Whether config.lpips names weights (training/perceptual.py)."""
    return (config.get("lpips") or {}).get("vgg_path") not in ("", None, OFF)


def _perceptual(section: Mapping[str, Any]) -> Callable:
    """(frozen, x, x_rec, keys) -> [B,1,1,1] float32."""
    module = LPIPS(dropout=section.get("dropout", False))

    def perceptual(frozen, x, x_rec, keys):
        if not module.dropout:
            return module.apply({"params": frozen["lpips"]}, x, x_rec)

        def alone(x, x_rec, key):  # its dropout depends on its own key, not on which others its device has
            rngs = {"dropout": key}
            return module.apply({"params": frozen["lpips"]}, x[None], x_rec[None], rngs=rngs)[0]

        return jax.vmap(alone)(x, x_rec, keys)

    return perceptual
