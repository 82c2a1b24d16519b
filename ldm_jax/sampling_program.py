"""The program that draws latents: conditions, guidance, sampler, a picture to start from and edits, as one function to compile.

Decides what of a call is compiled in and what is an argument. It loops over no batches and checks nothing that a user gives
(pipeline.py does).
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax

from ldm_jax import tiled
from ldm_jax.diffusion import process
from ldm_jax.editing import blended
from ldm_jax.find import find
from ldm_jax.guidance import classifier_free
from ldm_jax.models.unet import apply_unet
from ldm_jax.samplers import base
from ldm_jax.sizes import Tiling
from ldm_jax.system import System


class Recipe(NamedTuple):
    """What a program is compiled for, besides the shapes of its arguments.

    latent_shape: (h, w, c). from_image: it starts from noised latents of a picture. keeps: it keeps known latent cells.
    tiling: the tiles that are denoised one by one, or None. final_alpha: None is the sampler's own.
    """

    sampler: str
    guided: bool
    final_alpha: str | None
    latent_shape: tuple[int, int, int]
    from_image: bool = False
    keeps: bool = False
    tiling: Tiling | None = None


def make_program(system: System, scale_factor: float, recipe: Recipe) -> Callable:
    """(params, inputs, null, seeds, guidance_scale, eta, visited, start, known) -> scaled latents [B, h, w, c] float32.

    params: {'first_stage', 'unet', 'conditioner'}. inputs, null: of System.inputs and null_inputs, {} where not guided; with a
      tiling their images are latents already. seeds: [B] uint32. guidance_scale, eta: [] float32. visited: [S] timesteps.
    start: [] int32 in [0, S), how many timesteps are passed over; counts where recipe.from_image.
    known: 'x_start' [B, h, w, c] scaled latents, where from_image or keeps; 'keep' [B, h, w, 1] float32, where keeps.
    """
    make_sampler = find("samplers", recipe.sampler).sampler
    takes_eta = "eta" in inspect.signature(make_sampler).parameters

    @jax.jit  # some samplers call the network in two places: it is traced and lowered once for both
    def network(params, x, t, cond, control):
        return apply_unet(system.unet, params, x, t, cond, control)

    def run(params, inputs, null, seeds, guidance_scale, eta, visited, start, known):
        def model_fn(x, t, cond, control=None):
            return network(params["unet"], x, t, cond, control)

        if recipe.tiling is None:
            inputs = system.encode_inputs(params["first_stage"], scale_factor, inputs)
        else:
            model_fn = tiled.tile_model_fn(model_fn, **recipe.tiling._asdict())
        cond = system.condition(params, inputs)
        if recipe.guided:
            uncond = system.condition(params, system.unconditional(inputs, null))
            fn = classifier_free.guide(model_fn, cond, uncond, guidance_scale)
        else:
            fn = classifier_free.condition(model_fn, cond)
        eps_fn = process.to_eps_fn(fn, system.schedule, system.prediction_type)
        keys = jax.vmap(jax.random.key)(seeds)
        x, edit = base.step_noise(keys, (seeds.shape[0], *recipe.latent_shape), "x_T"), base.Edit()
        if recipe.from_image:
            x = process.q_sample(system.schedule, known["x_start"], visited[start], x)
        if recipe.keeps:
            edit = blended.edit(known["x_start"], known["keep"], system.schedule, paste=True)
        options = {"eta": eta} if takes_eta else {}
        if recipe.final_alpha is not None:
            options["final_alpha"] = recipe.final_alpha
        sampler = make_sampler(system.schedule, **options)
        return base.sample(eps_fn, sampler, x, visited, keys, edit, start if recipe.from_image else 0)[0]

    return run


def make_decoder(system: System, scale_factor: float) -> Callable:
    """(the first stage's params, scaled latents [B, h, w, c]) -> images [B, H, W, C] float32, about [-1, 1]."""
    return lambda params, latents: system.first_stage.decode(params, latents / scale_factor)
