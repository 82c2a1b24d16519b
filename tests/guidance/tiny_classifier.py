"""A classifier of noised latents, of random parameters, as a bundle on disk."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.checkpoints import bundle
from ldm_jax.models.noisy_classifier import NoisyClassifier

NETWORK = dict(
    in_channels=2, num_classes=3, latent_size=4, channels=8, channel_mult=[1], num_res_blocks=1, head_dim=4,
    num_groups=4,
)  # fmt: skip


def write(folder: Path, schedule: dict, **changes) -> str:
    """The folder, with a classifier at the noise levels of a config's `schedule`; changes: of NETWORK."""
    options = NETWORK | changes
    network = NoisyClassifier(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    x = jnp.zeros((1, options["latent_size"], options["latent_size"], options["in_channels"]))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))).astype(
            np.float32
        ),
        shapes,
    )
    config = dict(
        task="classifier", classifier=options, schedule=schedule, class_names=["red", "green", "blue"]
    )
    bundle.save(folder, bundle.Bundle(config, {"classifier": params}))
    return str(folder)
