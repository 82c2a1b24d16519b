"""One training step of the first stage: autoencoder and discriminator on the same batch, each with its own optimizer.

Source: Rombach et al. 2022, appendix G; CompVis/latent-diffusion@a506df5 ldm/models/autoencoder.py. As there, each
optimizer makes its own forward pass, so that the posterior's noise differs between the two, and the discriminator sees
the autoencoder that this step has already updated.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.config import options_of
from ldm_jax.training import ema, equivariance, first_stage_loss
from ldm_jax.training.state import TrainState, example_keys, global_norm
from ldm_jax.types import KEY_IMPL, Array, PyTree


def init_state(
    key: Array,
    init_autoencoder: Callable,
    discriminator: Any,
    image_shape: tuple[int, ...],
    txs: Mapping,
    ema_decay: float | None,
    logvar_init: float = 0.0,
) -> TrainState:
    """The state before the first step: params {'autoencoder', 'logvar'} and with a discriminator also {'discriminator',
    'batch_stats'}; opt_state {'autoencoder', 'discriminator'}. txs: the optimizers by the same two names.
    logvar_init: log of the output's scale, which KL losses divide by."""
    autoencoder_key, discriminator_key = jax.random.split(key)
    params = {"autoencoder": init_autoencoder(autoencoder_key), "logvar": jnp.float32(logvar_init)}
    opt_state = {"autoencoder": txs["autoencoder"].init(_generator(params))}
    if discriminator is not None:
        images = jax.random.uniform(
            discriminator_key, (4, *image_shape), minval=-1.0
        )  # ActNorm looks at them
        variables = jax.jit(discriminator.init)(discriminator_key, images)
        params["discriminator"] = variables["params"]
        params["batch_stats"] = variables.get("batch_stats", {})
        opt_state["discriminator"] = txs["discriminator"].init(params["discriminator"])
    ema_params = None if ema_decay is None else ema.init(params["autoencoder"])
    return TrainState(jnp.zeros((), jnp.int32), params, ema_params, opt_state)


def _generator(params: PyTree) -> PyTree:
    return {name: params[name] for name in ("autoencoder", "logvar")}


def _discriminate_with(discriminator: Any, params: PyTree) -> Callable:
    """(batch_stats, images) -> (logits, batch_stats), in training mode."""

    def discriminate(batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = discriminator.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, updated.get("batch_stats", {})

    return discriminate


def _reconstruct(
    autoencoder: Any, params: PyTree, images: Array, keys: Array, view: equivariance.View | None = None
):
    """(reconstruction, posterior, features) in training mode; keys: [B], from which all that is random is drawn. view:
    what is done to the latents in between."""

    def apply(images, keys):
        dropout_key, remap_key = jax.random.split(jax.random.fold_in(keys[0], 1))
        rngs = {"dropout": dropout_key, "remap": remap_key}
        more = {} if view is None else {"view": view}
        return autoencoder.apply(
            {"params": params}, images, keys, train=True, return_features=True, rngs=rngs, **more
        )

    if not autoencoder.dropout:
        return apply(images, keys)
    # Each example by itself, as its dropout may not depend on which others its device has; a loss is then [B].
    found = jax.vmap(lambda image, key: apply(image[None], key[None]))(images, keys)
    return jax.tree.map(lambda x: x.mean() if x.ndim == 1 else x.reshape(-1, *x.shape[2:]), found)


def _generator_loss(
    generator_loss,
    autoencoder,
    discriminator,
    perceptual,
    disc_start,
    disc_factor,
    disc_weight,
    average,
    loss_options,
):
    """(view, trained, params, frozen, batch, keys, step) -> (loss, (metrics, batch_stats)). trained: see
    `_generator`."""
    divides_by_scale = "logvar" in options_of(generator_loss)

    def loss(view, trained, params, frozen, batch, keys, step):
        x = batch["image"]
        x_rec, posterior, features = _reconstruct(autoencoder, trained["autoencoder"], x, keys, view)
        x = x if view is None else view(x)
        options = dict(loss_options, average=average)
        if divides_by_scale:
            options["logvar"] = trained["logvar"]
        if perceptual is not None:
            perceptual_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys)
            options["perceptual"] = lambda a, b: perceptual(frozen, a, b, perceptual_keys)
        if discriminator is not None:
            last_layer, kernel = first_stage_loss.last_layer_of(autoencoder, trained["autoencoder"], features)
            options |= dict(
                discriminate=_discriminate_with(discriminator, params["discriminator"]),
                batch_stats=params["batch_stats"],
                last_layer=last_layer,
                kernel=kernel,
                disc_weight=disc_weight,
                disc_factor=first_stage_loss.disc_factor(step, disc_start, disc_factor),
            )
        return generator_loss(x, x_rec, posterior, **options)

    return loss


def _discriminator_loss(autoencoder, discriminator, disc_start, disc_factor, disc_loss):
    """(view, trained, autoencoder_params, batch_stats, batch, keys, step) -> (loss, (metrics, batch_stats))."""

    def loss(view, trained, autoencoder_params, batch_stats, batch, keys, step):
        x = batch["image"]
        return first_stage_loss.discriminator_loss(
            x if view is None else view(x),
            _reconstruct(autoencoder, autoencoder_params, x, keys, view)[0],
            discriminate=_discriminate_with(discriminator, trained),
            batch_stats=batch_stats,
            disc_loss=disc_loss,
            disc_factor=first_stage_loss.disc_factor(step, disc_start, disc_factor),
        )

    return loss


def make_step(
    generator_loss: Callable,
    autoencoder: Any,
    discriminator: Any,
    txs: Mapping[str, optax.GradientTransformation],
    *,
    perceptual: Callable | None = None,
    disc_start: int = 0,
    disc_factor: float = 1.0,
    disc_loss: str = "hinge",
    disc_weight: float = 0.5,
    ema_decay: float | None = None,
    average: Callable = lambda tree: tree,
    accumulate: int = 1,
    views: tuple[float, tuple[float, ...]] = (0.0, ()),
    **loss_options,
) -> Callable:
    """step(state, frozen, batch, seed) -> (state, metrics), to be compiled by parallel.Placement.compile.

    generator_loss: one of first_stage_loss.GENERATOR_LOSSES, which loss_options go to. autoencoder, discriminator:
    linen modules; discriminator None leaves out every adversarial term.
    perceptual: (frozen, x, x_rec, keys) -> [B,1,1,1], or None. average: parallel.Placement.average; the
    discriminator's axis_name has to be the placement's. accumulate: how many batches the optimizers make one
    step of. views: the share of batches that are shrunk and turned in their latents, and the scales
    (training/equivariance.py).
    batch: 'image' [B,H,W,C] float32 in [-1,1], 'position' [B] int32. seed: [] uint32.
    """
    weighed_loss = _generator_loss(
        generator_loss,
        autoencoder,
        discriminator,
        perceptual,
        disc_start,
        disc_factor,
        disc_weight,
        average,
        loss_options,
    )
    discriminator_loss = _discriminator_loss(autoencoder, discriminator, disc_start, disc_factor, disc_loss)

    def step(state: TrainState, frozen: PyTree, batch: PyTree, seed: Array):
        params, opt_state = dict(state.params), dict(state.opt_state)
        keys = jax.vmap(jax.random.split)(example_keys(seed, state.step, batch["position"]))

        def seen(loss):
            key = jax.random.fold_in(jax.random.key(seed, impl=KEY_IMPL), state.step)
            key = jax.random.fold_in(key, 2**32 - 1)  # no example's: those are folded in with their places
            return lambda *args: equivariance.seen(lambda view: loss(view, *args), *views, key)

        trained = _generator(params)
        grads, (metrics, batch_stats) = jax.grad(seen(weighed_loss), has_aux=True)(
            trained, params, frozen, batch, keys[:, 0], state.step
        )
        grads, metrics = average((grads, metrics))
        updates, opt_state["autoencoder"] = txs["autoencoder"].update(
            grads, state.opt_state["autoencoder"], trained
        )
        params |= optax.apply_updates(trained, updates)
        norms = dict(gradient_norm=global_norm(grads), update_norm=global_norm(updates["autoencoder"]))
        metrics = metrics | norms

        if discriminator is not None:
            grads, (more, batch_stats) = jax.grad(seen(discriminator_loss), has_aux=True)(
                params["discriminator"], params["autoencoder"], batch_stats, batch, keys[:, 1], state.step
            )
            grads, more, params["batch_stats"] = average((grads, more, batch_stats))
            updates, opt_state["discriminator"] = txs["discriminator"].update(
                grads, state.opt_state["discriminator"], params["discriminator"]
            )
            params["discriminator"] = optax.apply_updates(params["discriminator"], updates)
            metrics |= more | dict(disc_gradient_norm=global_norm(grads))

        ema_params = state.ema_params
        if ema_decay is not None:
            ema_params = ema.after_batch(ema_params, params["autoencoder"], state.step, ema_decay, accumulate)
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return step
