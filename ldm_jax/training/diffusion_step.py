"""One training step of the second stage: noise the latents, predict, compare, update (Rombach et al. 2022, eq. 2).

It is given the network, the conditioner and the schedule as functions and data; it knows no config and no data set.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax

from ldm_jax.diffusion import loss as diffusion_loss
from ldm_jax.diffusion import process
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.training import ema
from ldm_jax.training.state import TrainState, example_keys, global_norm
from ldm_jax.types import Array, PyTree

BINS = 10  # of timesteps, whose losses are logged apart


def sample_latents(moments: Array, keys: Array, scale_factor: Array) -> Array:
    """moments [B,h,w,2c] of the posterior, keys [B] -> latents [B,h,w,c]: a sample, scaled."""
    return DiagonalGaussian.from_moments(moments).sample(keys) * scale_factor


def sample_timesteps(keys: Array, position: Array, num_timesteps: int, stratify: int = 0) -> Array:
    """[B] int32, each uniform on [0, num_timesteps).

    stratify: 0 draws them independently, as the original does. A number n (the global batch size) makes the n draws of
    a step fill the range evenly: a shared offset plus position / n (Kingma et al. 2021, appendix I.1); `keys` then
    must hold the same offset key for every example.
    """
    uniform = jax.vmap(jax.random.uniform)(keys)
    if stratify:
        uniform = (uniform + position / stratify) % 1.0
    return jnp.minimum((uniform * num_timesteps).astype(jnp.int32), num_timesteps - 1)


def loss_by_timestep(per_example: Array, t: Array, num_timesteps: int, bins: int = BINS) -> Array:
    """[2, bins] float32: the sum of per_example [B] float32 over the examples of each of `bins` equal parts of
    [0, num_timesteps), and their number; t: [B] int32.

    Sums and numbers, as they may be averaged over devices and added up over steps, which means of few examples may not.
    """
    within = t[:, None] * bins // num_timesteps == jnp.arange(bins)  # [B, bins]
    return jnp.stack([jnp.where(within, per_example[:, None], 0.0).sum(0), within.sum(0, jnp.float32)])


def make_loss(
    predict: Callable,
    encode: Callable,
    schedule: NoiseSchedule,
    *,
    prediction_type: str,
    drop_condition: Callable,
    stratify: int = 0,
    logvar: Array | None = None,
    terms: Mapping[str, float] = MappingProxyType({}),
    **loss_options,
) -> Callable:
    """loss(params, frozen, batch, seed, step) -> (scalar, metrics).

    predict(params, frozen, x_t, t, batch, keys) -> [B,h,w,c] is the network with its conditioner; what is random in it
    has to come from each example's own key, or it would differ with the number of devices.
    encode(frozen, batch, keys) -> latents [B,h,w,c].
    drop_condition(batch, keys) -> batch, with the condition of some examples replaced by the null condition.
    logvar: [T] float32, fixed; None is zeros, unless params hold one that is learned.
    terms: further terms of the loss and their weights. With any, predict gives (prediction, {name: [B] float32}), and
    the metrics hold the means under loss_<name>; `loss` is the sum of all, weighted.
    loss_options go to ldm_jax.diffusion.loss.diffusion_loss. metrics: its, and those of `loss_by_timestep`, unweighted.
    """

    def loss(params, frozen, batch, seed, step):
        keys = example_keys(seed, step, batch["position"])
        posterior_key, noise_key, t_key, drop_key, network_key = jnp.moveaxis(
            jax.vmap(lambda k: jax.random.split(k, 5))(keys), 1, 0
        )
        if stratify:
            t_key = example_keys(seed, step, jnp.full_like(batch["position"], -1))
        x_start = encode(frozen, batch, posterior_key)
        noise = jax.vmap(lambda k: jax.random.normal(k, x_start.shape[1:]))(noise_key)
        t = sample_timesteps(t_key, batch["position"], schedule.num_timesteps, stratify)
        x_t = process.q_sample(schedule, x_start, t, noise)
        prediction = predict(params, frozen, x_t, t, drop_condition(batch, drop_key), network_key)
        prediction, further = prediction if terms else (prediction, {})
        target = diffusion_loss.target(prediction_type, schedule, x_start, noise, t)
        total, per_example, metrics = diffusion_loss.diffusion_loss(
            prediction,
            target,
            t,
            schedule=schedule,
            prediction_type=prediction_type,
            logvar=params.get("logvar", logvar),
            **loss_options,
        )
        for name, weight in terms.items():
            metrics[f"loss_{name}"] = further[name].mean()
            total = total + weight * metrics[f"loss_{name}"]
        if terms:
            metrics["loss"] = total
        table = loss_by_timestep(per_example, t, schedule.num_timesteps)
        return total, dict(metrics, loss_by_timestep=table)

    return loss


def make_step(
    loss: Callable,
    tx: optax.GradientTransformation,
    ema_decay: float,
    average: Callable = lambda tree: tree,
    accumulate: int = 1,
) -> Callable:
    """step(state, frozen, batch, seed) -> (state, metrics), to be compiled by parallel.Layout.compile.

    ema_decay: the limit of the average's decay; its warm-up is ema.decay's. average: over the devices,
    parallel.Layout.average.
    accumulate: how many batches tx makes one step of, which is what the average counts.
    """

    def step(state: TrainState, frozen: PyTree, batch: PyTree, seed: Array):
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, frozen, batch, seed, state.step
        )
        grads, metrics = average((grads, metrics))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = ema.after_batch(state.ema_params, params, state.step, ema_decay, accumulate)
        metrics = dict(metrics, gradient_norm=global_norm(grads), update_norm=global_norm(updates))
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return step
