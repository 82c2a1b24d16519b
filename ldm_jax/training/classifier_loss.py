"""The loss of a classifier of noised latents: cross-entropy at every noise level.

Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4; openai/guided-diffusion scripts/classifier_train.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ldm_jax.config import call
from ldm_jax.diffusion.process import q_sample
from ldm_jax.models.noisy_classifier import NoisyClassifier
from ldm_jax.system import System
from ldm_jax.training import objective
from ldm_jax.training.state import example_keys
from ldm_jax.types import Array, PyTree

LABEL = "class_label"  # of an example


def classifier_loss(config: Mapping[str, Any], system: System) -> Callable:
    """loss(params, frozen, batch, seed, step) -> (scalar, metrics): cross-entropy, accuracy, and the loss by timestep.

    params: {'classifier'}. frozen: as of objective.diffusion_objective. batch: 'moments' or 'image', LABEL [B] int32,
    'position' [B] int32.
    """
    network, timesteps = make_network(config), system.schedule.num_timesteps

    def loss(params, frozen, batch, seed, step):
        keys = example_keys(seed, step, batch["position"])
        posterior_key, noise_key, t_key, dropout_key = jnp.moveaxis(
            jax.vmap(lambda key: jax.random.split(key, 4))(keys), 1, 0
        )
        x_start = objective.encode(system, frozen, batch, posterior_key)
        noise = jax.vmap(lambda key: jax.random.normal(key, x_start.shape[1:]))(noise_key)
        t = objective.sample_timesteps(t_key, batch["position"], timesteps)
        logits = predict(
            network, params["classifier"], q_sample(system.schedule, x_start, t, noise), t, dropout_key
        )
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch[LABEL])
        right = (logits.argmax(-1) == batch[LABEL]).astype(jnp.float32)
        table = objective.loss_by_timestep(each, t, timesteps)
        return each.mean(), dict(loss=each.mean(), accuracy=right.mean(), loss_by_timestep=table)

    return loss


def predict(network: NoisyClassifier, params: PyTree, x: Array, t: Array, keys: Array) -> Array:
    """Logits [B, K]; with dropout, each example's by its own key [B]."""
    if not network.dropout:
        return network.apply({"params": params}, x, t)

    def alone(x, t, key):
        return network.apply({"params": params}, x[None], t[None], False, rngs={"dropout": key})[0]

    return jax.vmap(alone)(x, t, keys)


def make_network(config: Mapping[str, Any]) -> NoisyClassifier:
    """Raises: ValueError for an unknown option of config.classifier, or none."""
    return call(NoisyClassifier, dict(config.get("classifier") or {}), "classifier")


def init(config: Mapping[str, Any], system: System, key: Array) -> PyTree:
    """{'classifier': fresh parameters}."""
    x = jnp.zeros((1, *system.latent_shape))
    return {"classifier": jax.jit(make_network(config).init)(key, x, jnp.zeros(1, jnp.int32))["params"]}
