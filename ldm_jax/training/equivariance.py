"""Latents that turn and shrink with the picture (EQ-VAE, Kouzelis et al. 2025, arXiv:2502.09509).

Decides how a batch is seen in a training step of a first stage: as it is, or shrunk and turned in its latents, whose
decoding is held against the shrunk and turned picture. It knows no loss. Such latents are smoother, for a second stage
to learn them in fewer steps.

Source: equation 6 of the paper, and zelaki/eqvae ldm/models/autoencoder.py: half of the batches, bilinear without a
filter before it, a quarter turn or more each time. There scales are n / 32 from 1 / 4 to 1, or of {1/4, 1/2, 3/4}: the
latter here, as each size is a program of its own. Of the rest, the original encodes an eighth of all batches shrunk;
here they are seen as they are.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.config import call
from ldm_jax.types import Array

SCALES = (0.25, 0.5, 0.75)
View = Callable[[Array], Array]


def shrunk_and_turned(x: Array, scale: float, turns: Array) -> Array:
    """x [B, s, s, C] -> [B, scale s, scale s, C]: bilinear, turned counterclockwise by `turns` quarters,
    [] int32, 1 to 3."""
    batch, side, _, channels = x.shape
    small = round(scale * side)
    x = jax.image.resize(x, (batch, small, small, channels), "linear", antialias=False)
    return lax.switch(turns - 1, [partial(jnp.rot90, k=k, axes=(1, 2)) for k in (1, 2, 3)], x)


def check(section: Mapping[str, Any] | None, image_size: int, factor: int) -> tuple[float, tuple[float, ...]]:
    """(the share of batches that are turned and shrunk, the scales) of a config's loss.equivariance; without one
    a share of 0.

    Raises: ValueError for another option, a share outside [0, 1], and scales that leave no whole latent cells.
    """
    if not section:
        return 0.0, ()
    return call(_checked, section, "loss.equivariance", image_size=image_size, factor=factor)


def _checked(image_size: int, factor: int, share: float = 0.5, scales: tuple[float, ...] = SCALES) -> tuple:
    if not 0 <= share <= 1:
        raise ValueError(f"loss.equivariance: share is {share}, expected a share, 0 to 1")
    if not share:
        return 0.0, ()
    cells = image_size // factor
    for scale in scales:
        if not 0 < scale < 1 or (scale * cells) % 1:
            raise ValueError(
                f"loss.equivariance: scale {scale} of {cells} x {cells} latents, expected a number between 0 and 1 "
                "that leaves whole cells"
            )
    return share, scales


def seen(f: Callable, share: float, scales: tuple[float, ...], key: Array) -> Any:
    """f(view): view is None, or with probability `share`, drawn with `key`, one that shrinks and turns images and
    latents alike. The results of all views are of the same shapes."""
    if not share:
        return f(None)
    chance, place, turn = jax.random.split(key, 3)
    turns = jax.random.randint(turn, (), 1, 4)
    views = [partial(shrunk_and_turned, scale=scale, turns=turns) for scale in scales]
    which = 1 + jax.random.randint(place, (), 0, len(scales))
    which = jnp.where(jax.random.uniform(chance) < share, which, 0)
    return lax.switch(which, [partial(f, view) for view in (None, *views)])
