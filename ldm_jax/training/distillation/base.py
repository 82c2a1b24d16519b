"""Few steps: a network learns to draw in a few steps what another, which stays as it is, draws in many.

Each other file of this room is one way and has:
    distill(*, system, **options) -> Way
The options are those of the config's section `distillation`, beside its name. The teacher is config.base, which the
student begins as: the whole network is trained on, or with config.personalization a delta of it alone. It knows no way.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.config import call
from ldm_jax.control.base import Control
from ldm_jax.diffusion import learned_variance
from ldm_jax.diffusion.process import x_start_and_eps
from ldm_jax.find import find
from ldm_jax.models.controlnet import apply_network
from ldm_jax.system import System
from ldm_jax.training import objective
from ldm_jax.training.state import example_keys
from ldm_jax.types import Array, PyTree


class Prediction(NamedTuple):
    """What a network says of x_t: x_start and eps [B, h, w, c] float32, and what a control recorded."""

    x_start: Array
    eps: Array
    taps: dict[str, Array]


class Networks(NamedTuple):
    """Each (x [B, h, w, c], t [B], scale=None, control=None, told=None) -> Prediction, under the batch's conditions.

    scale: [B], of classifier-free guidance; None is none. told: [B], the scale that the network is told of, if it is.
    average: the running average of the student; None where the way does not look at it. params: what is trained, with
    what the way learns beside the network.
    """

    student: Callable[..., Prediction]
    teacher: Callable[..., Prediction]
    average: Callable[..., Prediction] | None
    params: PyTree


class Way(NamedTuple):
    """One way of distillation.

    loss: (Networks, x_start [B, h, w, c], keys [B], one for each example) -> ([B] float32, {name: [] metrics}).
    init: (key, params) -> what it learns beside the network, {name: tree}; params: those of the network and its
    conditioner, arrays or shapes. sees_average: whether `loss` calls Networks.average.
    """

    loss: Callable[[Networks, Array, Array], tuple[Array, dict[str, Array]]]
    init: Callable[[Array, PyTree], PyTree] | None = None
    sees_average: bool = False


def way(config: Mapping[str, Any], system: System) -> Way:
    """Of config.distillation. Raises: ValueError for an unknown name or option."""
    options = dict(config["distillation"])
    name = options.pop("name", None)
    distill = find("training/distillation", name).distill
    return call(distill, options, f"distillation {name!r}", system=system)


def distillation_objective(config: Mapping[str, Any], system: System) -> Callable:
    """loss(params, frozen, batch, seed, step) -> (scalar, metrics), as objective.diffusion_objective.

    frozen: {'first_stage', 'latent_scale', 'base': the teacher's parameters, and 'average' if the way sees it}. Nothing
    is dropped out of the networks.
    """
    null, made = system.null_inputs(1), way(config, system)

    def loss(params, frozen, batch, seed, step):
        keys = example_keys(seed, step, batch["position"])
        keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        posterior_key, drop_key, way_key = keys
        x_start = objective.encode(system, frozen, batch, posterior_key)
        inputs = {k: batch[k] for k in null}
        inputs = objective.drop_condition(system, inputs, null, config.get("condition_dropout"), drop_key)
        inputs = system.encode_inputs(frozen["first_stage"], frozen["latent_scale"], inputs)
        of = partial(predictor, system, inputs=inputs, null=null)
        average = of(frozen["average"]) if "average" in frozen else None
        networks = Networks(of(params), of(frozen["base"]), average, params)
        per_example, metrics = made.loss(networks, x_start, way_key)
        total = per_example.mean()
        return total, dict(metrics, loss=total)

    return loss


def predictor(
    system: System, params: PyTree, *, inputs: Mapping[str, Array], null: Mapping[str, Array]
) -> Callable[..., Prediction]:
    """One of Networks, of these parameters. inputs: [B, ...] of the conditions. null: system.null_inputs(1)."""

    def raw(x: Array, t: Array, given: Mapping[str, Array], control: Control | None):
        cond = system.condition(params, given)
        prediction, taps = apply_network(system.unet, params["unet"], x, t, cond, control)
        if system.learned_variance:
            prediction, _ = learned_variance.split(prediction)
        read = x_start_and_eps(system.schedule, x, t, prediction.astype(jnp.float32), system.prediction_type)
        return Prediction(*read, taps)

    def predict(
        x: Array,
        t: Array,
        scale: Array | None = None,
        control: Control | None = None,
        told: Array | None = None,
    ) -> Prediction:
        given = inputs
        if told is not None and system.unet.guidance_dim is not None:
            given = dict(inputs) | {"guidance_scales": told}
        found = raw(x, t, given, control)
        if scale is None or not system.drops:
            return found
        without, by = raw(x, t, system.unconditional(given, null), None), scale[:, None, None, None]
        guided = (b + by * (a - b) for a, b in zip(found[:2], without[:2], strict=True))
        return Prediction(*guided, found.taps)

    return predict


def init_learned(config: Mapping[str, Any], system: System, params: PyTree, key: Array) -> PyTree:
    """What config.distillation learns beside the network, {name: tree}; {} without."""
    if not config.get("distillation"):
        return {}
    init = way(config, system).init
    return {} if init is None else init(key, params)


def truncated_snr(log_alpha_bars: Array) -> Array:
    """[B]: max(SNR, 1) at log alpha_bar [B, 1, 1, 1], by which an error of x_start weighs: Salimans and Ho 2022
    (arXiv:2202.00512), section 4.
    """
    return jnp.maximum(1 / jnp.expm1(-log_alpha_bars), 1).reshape(-1)


def uniform(keys: Array, number: int) -> Array:
    """[B] int32, each uniform on [0, number), by keys [B]."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, number))(keys)


def normal(keys: Array, x: Array) -> Array:
    """Standard normal noise as x [B, ...], by keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)


def split(keys: Array, number: int) -> Array:
    """[number, B] keys of keys [B]."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, number))(keys), 1, 0)
