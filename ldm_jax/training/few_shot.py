"""Tunes a text model to segment by example: a picture and its mask in, the mask of another picture out.

Decides what the tuned network begins with and its loss; what it computes is recognition/diffews.py's, and where
examples come from the caller's.
Source: Zhu et al. 2024 (arXiv:2410.02369), section 4.3, and aim-uofa/DiffewS: all of the UNet is trained, at t = 1 and
under the empty prompt, by the mean square of the latents; the kernel of what an example adds is half of the base's for
the picture and half for the mask.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.checkpoints.base import Bundle
from ldm_jax.conditioning.few_shot import as_picture
from ldm_jax.config import conditioning_kinds
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.inference.program import coders
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.recognition import diffews
from ldm_jax.system import System, make_system
from ldm_jax.training import ema
from ldm_jax.types import Array, PyTree

KIND = "few_shot"


class Episodes(NamedTuple):
    """B questions of K examples each. shots: [B, K, H, W, 3] uint8. shot_masks: [B, K, H, W], above .5 inside. queries:
    [B, H, W, 3] uint8. masks: [B, H, W], what is to be found in them."""

    shots: np.ndarray
    shot_masks: np.ndarray
    queries: np.ndarray
    masks: np.ndarray


def in_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model that takes examples, of a text or unconditional one.

    Raises: ValueError for a model that is conditioned by channels already.
    """
    model, channels = dict(config["model"]), config["model"]["out_channels"]
    if model["in_channels"] != channels:
        raise ValueError(
            f"few_shot: the model sees {model['in_channels']} channels, expected {channels}, those of its latents alone"
        )
    kinds = conditioning_kinds(config.get("conditioning")) | {KIND: {}}
    return dict(config) | dict(model=model | dict(in_channels=3 * channels), conditioning=kinds)


def begin(base: Bundle) -> Bundle:
    """A model as one that takes examples, of which nothing is tuned yet. Raises: ValueError as `in_config`."""
    config, channels = in_config(base.config), base.config["model"]["out_channels"]
    kernel = np.asarray(base.params["unet"]["conv_in"]["kernel"])
    own = kernel[:, :, :channels] / 2  # behind them a network may see its cells' places
    wide = np.concatenate([kernel, own, own], 2)
    unet = base.params["unet"] | {"conv_in": base.params["unet"]["conv_in"] | {"kernel": wide}}
    return Bundle(config, base.params | {"unet": unet}, base.tokenizer)


def make_loss(system: System, params: PyTree, scale) -> Callable:
    """(unet params, first stage's, Episodes of pictures in [-1, 1]) -> [] float32. params: of the conditioners."""
    # What is encoded, the concat, is each row's own.
    null = system.null_inputs(1) | {
        k: np.zeros((1, *system.latent_shape), np.float32) for k in system.encodes
    }
    cond = system.condition(params, {k: jnp.asarray(v) for k, v in null.items()})
    visited = jnp.asarray([round(diffews.LEVELS[0] * system.schedule.num_timesteps)], jnp.int32)

    def loss(unet: PyTree, first_stage: PyTree, episodes: Episodes) -> Array:
        decode, encode = coders(system, scale, first_stage)

        def network(x, t, cond, control=None):
            return apply_network(system.unet, unet, x, t, cond, control)

        about = system.schedule, system.prediction_type, visited
        denoiser = Denoiser(network, cond, None, *about, 1, None, decode, encode)
        shots, masks = (encode(v.reshape(-1, *v.shape[2:])) for v in episodes[:2])
        queries, truth = encode(episodes.queries), encode(episodes.masks)
        found = diffews.masks_of(denoiser, shots, masks, queries, cond, len(queries))
        return jnp.square(found - truth).mean()

    return loss


def train(
    begun: Bundle,
    episodes: Iterator[Episodes],
    *,
    num_steps: int,
    learning_rate: float = 1e-4,
    decay: float = 0.999,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Bundle:
    """The bundle after num_steps of AdamW at a cosine; its parameters are their running average.

    decay: of the average. report: (step, mean loss of the last 20 steps) at every 20th.
    """
    system = make_system(begun.config, begun.tokenizer)
    params = jax.tree.map(jnp.asarray, begun.params)
    loss = make_loss(system, params, latent_scale.of_config(begun.config, system.first_stage.channels))
    tx = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(learning_rate, num_steps))
    )

    @jax.jit
    def step(unet, average, state, first_stage, given, number):
        value, gradient = jax.value_and_grad(loss)(unet, first_stage, given)
        updates, state = tx.update(gradient, state, unet)
        unet = optax.apply_updates(unet, updates)
        return unet, ema.update(average, unet, number + 1, decay), state, value

    unet, average = params["unet"], ema.init(params["unet"])
    state, losses = tx.init(unet), []
    for number in range(num_steps):
        drawn = next(episodes)
        shown = Episodes(
            *(
                as_picture(v) if name.endswith("masks") else np.asarray(v, np.float32) / 127.5 - 1
                for name, v in drawn._asdict().items()
            )
        )
        unet, average, state, value = step(unet, average, state, params["first_stage"], shown, number)
        losses.append(value)
        if (number + 1) % 20 == 0:
            report(number + 1, float(np.mean(jax.device_get(losses))))
            losses = []
    return Bundle(begun.config, begun.params | {"unet": jax.tree.map(np.asarray, average)}, begun.tokenizer)
