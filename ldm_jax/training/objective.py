"""What the second stage minimises: its config's loss, put together from the parts of its system; and what it leaves
alone.

It knows config and models; where batches come from and what is done with the gradient is train.py's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.conditioning.base import drop
from ldm_jax.config import call
from ldm_jax.data.latents import TEXT
from ldm_jax.diffusion.loss import diffusion_loss
from ldm_jax.models.unet import apply_unet
from ldm_jax.params import is_below
from ldm_jax.system import System
from ldm_jax.training import diffusion_step, stored_text, token_masks
from ldm_jax.training.examples import MASKS
from ldm_jax.types import PyTree


def diffusion_objective(config: Mapping[str, Any], system: System) -> Callable:
    """loss(params, frozen, batch, seed, step) -> (scalar, metrics), see diffusion_step.make_loss.

    frozen: {'first_stage': parameters, 'scale_factor': [] float32}. batch: 'moments' [B,h,w,2c] or 'image' [B,H,W,C],
    the inputs of
    the conditioning, 'position' [B] int32. Raises: ValueError for an option of `loss` that there is not.
    """

    null = system.null_inputs(1)
    drops_out = has_dropout(system)

    def encode(frozen, batch, keys):
        moments = (
            batch["moments"]
            if "moments" in batch
            else system.first_stage.encode(frozen["first_stage"], batch["image"])
        )
        if system.first_stage.name == "kl":
            return diffusion_step.sample_latents(moments, keys, frozen["scale_factor"])
        return moments * frozen["scale_factor"]

    options = dict(config.get("loss", {}))
    masked = call(token_masks.term, options.pop("token_masks", None) or {}, "loss.token_masks")

    def network(params, x_t, t, inputs, key=None):
        inputs = dict(inputs)
        masks = inputs.pop(MASKS, None)
        network_key, conditioner_key = (None, None) if key is None else jax.random.split(key)
        cond = stored_text.condition(system, params, inputs, null, key is None, conditioner_key)
        prediction, maps = apply_unet(
            system.unet, params["unet"], x_t, t, cond, masked and masked.recorder, dropout_key=network_key
        )
        return (prediction, {MASKS: token_masks.loss(maps, masks)}) if masked else prediction

    def predict(params, frozen, x_t, t, batch, keys):
        inputs = {k: batch[k] for k in (*null, *TEXT, MASKS) if k in batch}
        inputs = system.encode_inputs(frozen["first_stage"], frozen["scale_factor"], inputs)
        params = _stop_gradients(params, config.get("freeze") or ())
        if not drops_out:
            return network(params, x_t, t, inputs)

        def alone(*example):  # with its own key: its dropout may not depend on which others its device has
            *example, key = example
            given = jax.tree.map(lambda x: x[None], example)
            return jax.tree.map(lambda x: x[0], network(params, *given, key))

        return jax.vmap(alone)(x_t, t, inputs, keys)

    def drop_condition(batch, keys):
        if not system.drops or not config.get("condition_dropout"):
            return batch
        keep = jax.vmap(jax.random.uniform)(keys) >= config["condition_dropout"]
        inputs = {k: batch[k] for k in system.drops}
        nothing = {k: jnp.broadcast_to(null[k], inputs[k].shape) for k in inputs}
        if masked:  # the words that are left out speak of nothing
            inputs[MASKS] = batch[MASKS]
            nothing[MASKS] = jnp.zeros_like(batch[MASKS])
        return dict(batch, **drop(inputs, nothing, keep))

    learned, logvar = options.pop("learn_logvar", False), options.pop("logvar_init", 0.0)
    fixed = None if learned or not logvar else jnp.full(system.schedule.num_timesteps, logvar, jnp.float32)
    return call(
        diffusion_step.make_loss,
        options,
        "loss",
        then=diffusion_loss,
        predict=predict,
        encode=encode,
        schedule=system.schedule,
        prediction_type=system.prediction_type,
        drop_condition=drop_condition,
        stratify=config["batch_size"] if config.get("stratified_timesteps") else 0,
        logvar=fixed,
        terms={MASKS: masked.weight} if masked else {},
    )


def has_dropout(system: System) -> bool:
    """Whether the network or what it is conditioned on leaves out anything at random."""
    modules = [system.unet, *(part.conditioner for part in system.parts)]
    return any(getattr(m, name, 0.0) for m in modules for name in ("dropout", "embedding_dropout"))


def _stop_gradients(params: PyTree, prefixes: Sequence[str]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if is_below(path, prefixes) else leaf, params
    )


def freeze(tx: optax.GradientTransformation, prefixes: Sequence[str], params: PyTree):
    """tx for all parameters but those below `prefixes`, such as 'conditioner' or 'conditioner/clip', which stay as they
    are: they get no update, no weight decay and no optimizer state.

    Raises: ValueError for a prefix that no parameter has.
    """
    for prefix in prefixes:
        if not any(is_below(path, [prefix]) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
            raise ValueError(f"config.freeze: {prefix!r} has no parameters; there are: {', '.join(params)}")

    def labels(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if is_below(path, prefixes) else "trained", params
        )

    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels) if prefixes else tx
