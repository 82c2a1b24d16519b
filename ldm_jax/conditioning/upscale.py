"""Conditioning on a small image with noise added, and on how much: Stable Diffusion's x4 upscaler, and the upscalers of
a cascade in pixels.

Decides the schedule of that noise and where the level goes. The text that the upscaler is conditioned on as well is
a kind of its own. Source: LatentUpscaleDiffusion, ImageConcatWithNoiseAugmentation of Stability-AI/stablediffusion
ldm/models/diffusion/ddpm.py and ldm/modules/diffusionmodules/upscaling.py; Ho et al. 2021 (arXiv:2106.15282); in
pixels, Saharia et al. 2022, Imagen (arXiv:2205.11487), section 2.3 and appendix A.1.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.types import KEY_IMPL, Array, Cond

TAKES = ("low_res_images", "noise_levels", "seeds")
OPTIONAL = ("noise_levels", "seeds")
EXAMPLE = {"low_res_images": "low_res", "noise_levels": "noise_level", "seeds": "seed"}
SPATIAL = {"low_res_images": "latent"}
DROPS = ()
ENCODES = ()

DEFAULT_LEVEL = 20  # of the original's demo


class Conditioner(nn.Module):
    """Has no parameters. max_noise_level: the highest that is trained with.

    num_timesteps, beta_start, beta_end: of the schedule that levels are timesteps of, linear in the square root; with
    noise_schedule 'cosine' it is squaredcos_cap_v2. enlarge: latent cells for each pixel of the image along a side: 1
    where the first stage's factor is the enlargement; in a model of pixels as many as it enlarges by, bilinearly,
    before noise is added.
    """

    max_noise_level: int = 350
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    noise_schedule: str = "linear"
    enlarge: int = 1

    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(concat [B, h, w, 3] the noised image, vector [B] int32 the levels)."""
        levels, images = inputs["noise_levels"], inputs["low_res_images"]
        if self.enlarge > 1:
            batch, height, width, channels = images.shape
            shape = (batch, height * self.enlarge, width * self.enlarge, channels)
            images = jax.image.resize(images, shape, "bilinear")
        alphas_cumprod = jnp.asarray(self._alphas_cumprod(), jnp.float32)[levels][:, None, None, None]
        noise = seed_noise(inputs["seeds"], images.shape[1:])
        noised = jnp.sqrt(alphas_cumprod) * images + jnp.sqrt(1 - alphas_cumprod) * noise
        return Cond(concat=noised, vector=levels)

    def _alphas_cumprod(self) -> np.ndarray:
        if self.noise_schedule == "cosine":
            return cosine_alphas_cumprod(self.num_timesteps)
        if self.noise_schedule != "linear":
            raise ValueError(
                f"upscale: noise_schedule={self.noise_schedule!r}, expected 'linear' or 'cosine'"
            )
        return np.cumprod(1 - np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_timesteps) ** 2)


NOISE = 0x10F5  # which of a seed's streams of random numbers this is


def seed_noise(seeds: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers [B, *shape] float32, each row's by its own of seeds [B] uint32."""
    keys = jax.vmap(lambda seed: jax.random.key(seed, impl=KEY_IMPL))(seeds)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, NOISE))(keys)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: 'low_res_images', B images [h, w, 3], uint8 or in [-1, 1], and perhaps 'noise_levels' [B] integers in
    [0, max_noise_level], 20 by default, and 'seeds' [B] in [0, 2**32), by default 0, 1, ….

    Returns: {'low_res_images': [B, h, w, 3] float32, 'noise_levels': [B] int32, 'seeds': [B] uint32}.
    Raises: ValueError for another size than the latent's, divided by `enlarge`, or a level out of range.
    """
    height, width = small_shape(setting)
    images = pictures(given["low_res_images"], height, width, "upscale: low_res_images")
    levels = np.asarray(given.get("noise_levels", [DEFAULT_LEVEL] * len(images)))
    highest = setting.conditioner.max_noise_level
    if (
        levels.shape != (len(images),)
        or ((levels != np.rint(levels)) | (levels < 0) | (levels > highest)).any()
    ):
        raise ValueError(
            f"upscale: got noise_levels {levels.tolist()}, expected an integer from 0 to {highest} for each image"
        )
    seeds = np.asarray(given.get("seeds", np.arange(len(images))), np.uint32)
    return {"low_res_images": images, "noise_levels": levels.astype(np.int32), "seeds": seeds}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs`, all zero. Guidance does not use it: the image is not dropped."""
    return {
        "low_res_images": np.zeros((batch_size, *small_shape(setting), 3), np.float32),
        "noise_levels": np.zeros(batch_size, np.int32),
        "seeds": np.zeros(batch_size, np.uint32),
    }


def small_shape(setting: Setting) -> tuple[int, int]:
    """(h, w) of the small image."""
    height, width, _ = setting.latent_shape
    return height // setting.conditioner.enlarge, width // setting.conditioner.enlarge


def cosine_alphas_cumprod(num: int) -> np.ndarray:
    """[num] float64, of squaredcos_cap_v2 (Nichol & Dhariwal 2021), whose betas are 0.999 at most."""
    bar = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999))
