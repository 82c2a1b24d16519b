"""Conditioning on CLIP's embedding of a picture, noised, and on how much: unCLIP's decoder, as Stable unCLIP has it.

Decides the schedule of that noise, that the embedding is noised in units of the deviation of embeddings, and that no
picture is zeros in the place of all of it. It embeds nothing: the embedding is of a picture, or what a prior makes of a
caption's (inference/embedding_prior.py). Text is a kind of its own beside it.
Source: Ramesh et al. 2022 (arXiv:2204.06125); Stability-AI/stablediffusion@cf1d67a
ldm/modules/encoders/modules.py CLIPEmbeddingNoiseAugmentation, ldm/models/diffusion/ddpm.py
ImageEmbeddingConditionedLatentDiffusion.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.conditioning.upscale import cosine_alphas_cumprod, seed_noise
from ldm_jax.models.layers import timestep_embedding
from ldm_jax.types import Array, Cond

TAKES = ("image_embeddings", "noise_levels", "seeds")
OPTIONAL = TAKES[1:]
EXAMPLE = {"image_embeddings": "image_embedding", "noise_levels": "noise_level", "seeds": "seed"}
DROPS = ("image_embeddings", "image_shown")
ENCODES = ()

DEFAULT_LEVEL = 0  # of diffusers' pipelines


class Conditioner(nn.Module):
    """Its parameters, `mean` and `std` [1, width], are statistics of embeddings and are not trained: name
    'conditioner/unclip' in config.freeze, or an optimizer's weight decay moves them. Fresh ones are 0 and 1.

    width: of an embedding. num_timesteps: of the noise's schedule, a cosine (squaredcos_cap_v2), of which levels are
    timesteps. The network's vector is twice as wide.
    """

    width: int
    num_timesteps: int = 1000

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(vector [B, 2 width]): the noised embedding, and its level's cosines and
        sines."""
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, (1, self.width)))
        std = jax.lax.stop_gradient(self.param("std", nn.initializers.ones, (1, self.width)))
        levels, embeddings = inputs["noise_levels"], inputs["image_embeddings"]
        alphas_cumprod = jnp.asarray(cosine_alphas_cumprod(self.num_timesteps), jnp.float32)[levels][:, None]
        noise = seed_noise(inputs["seeds"], embeddings.shape[1:])
        noised = jnp.sqrt(alphas_cumprod) * (embeddings - mean) / std + jnp.sqrt(1 - alphas_cumprod) * noise
        vector = jnp.concatenate([noised * std + mean, timestep_embedding(levels, self.width)], axis=-1)
        return Cond(vector=vector * inputs["image_shown"][:, None])


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: 'image_embeddings', B arrays [width], and perhaps 'noise_levels' [B] integers in [0, num_timesteps), 0 by
    default, and 'seeds' [B] in [0, 2**32), by default 0, 1, ….

    Returns: {'image_embeddings': [B, width] float32, 'noise_levels': [B] int32, 'seeds': [B] uint32, 'image_shown':
    [B] float32 ones}. Raises: ValueError for another width, or a level out of range.
    """
    conditioner = setting.conditioner
    embeddings = numbers(given["image_embeddings"], (conditioner.width,), "unclip: image_embeddings")
    number, highest = len(embeddings), conditioner.num_timesteps - 1
    levels = np.asarray(given.get("noise_levels", [DEFAULT_LEVEL] * number))
    if levels.shape != (number,) or ((levels != np.rint(levels)) | (levels < 0) | (levels > highest)).any():
        raise ValueError(
            f"unclip: got noise_levels {levels.tolist()}, expected an integer from 0 to {highest} for each embedding"
        )
    return {
        "image_embeddings": embeddings,
        "noise_levels": levels.astype(np.int32),
        "seeds": np.asarray(given.get("seeds", np.arange(number)), np.uint32),
        "image_shown": np.ones(number, np.float32),
    }


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of no picture, whose vector is zeros."""
    return {
        "image_embeddings": np.zeros((batch_size, setting.conditioner.width), np.float32),
        "noise_levels": np.zeros(batch_size, np.int32),
        "seeds": np.zeros(batch_size, np.uint32),
        "image_shown": np.zeros(batch_size, np.float32),
    }
