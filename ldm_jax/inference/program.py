"""The program that draws latents: conditions, guidance, sampler, a picture to start from and edits, as one function to compile.

Decides what of a call is compiled in and what is an argument. It loops over no batches and checks nothing that a user gives
(inference/pipeline.py does).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.diffusion import process, timesteps
from ldm_jax.editing import blended
from ldm_jax.find import find
from ldm_jax.guidance import classifier_free
from ldm_jax.inference import tiles as tiled
from ldm_jax.inference.sizes import Tiling
from ldm_jax.models.unet import apply_unet
from ldm_jax.samplers import base
from ldm_jax.system import System
from ldm_jax.types import KEY_IMPL, PyTree


class Recipe(NamedTuple):
    """What a program is compiled for, besides the shapes of its arguments.

    latent_shape: (h, w, c). from_image: it starts from noised latents of a picture. keeps: it keeps known latent cells.
    tiling: the tiles that are denoised one by one, or None. final_alpha, clip_denoised: None is the sampler's own.
    """

    sampler: str
    guided: bool
    final_alpha: str | None
    latent_shape: tuple[int, int, int]
    from_image: bool = False
    keeps: bool = False
    tiling: Tiling | None = None
    clip_denoised: float | None = None


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
        keys = jax.vmap(lambda seed: jax.random.key(seed, impl=KEY_IMPL))(seeds)
        x, edit = base.step_noise(keys, (seeds.shape[0], *recipe.latent_shape), "x_T"), base.Edit()
        if recipe.from_image:
            x = process.q_sample(system.schedule, known["x_start"], visited[start], x)
        if recipe.keeps:
            edit = blended.edit(known["x_start"], known["keep"], system.schedule, paste=True)
        options = {"eta": eta} if takes_eta else {}
        fixed = {"final_alpha": recipe.final_alpha, "clip_denoised": recipe.clip_denoised}
        options |= {name: value for name, value in fixed.items() if value is not None}
        sampler = make_sampler(system.schedule, **options)
        return base.sample(eps_fn, sampler, x, visited, keys, edit, start if recipe.from_image else 0)[0]

    return run


def arguments(
    system: System,
    params: PyTree,
    settings: Mapping[str, Any],
    batch_size: int,
    image_shape: tuple[int, int] | None = None,
) -> tuple[Recipe, tuple[PyTree, ...]]:
    """(the recipe of drawing batch_size pictures from noise, jax.ShapeDtypeStructs of make_program's arguments for it).

    params: arrays or their shapes, which are placed as pipeline.load does it. settings: of pipeline.settle. image_shape: (H, W) in pixels, that of training by default.
    """
    params = jax.eval_shape(system.in_compute_dtype, params)
    image_shape = system.image_shape if image_shape is None else image_shape
    guided = bool(system.drops) and float(settings["guidance_scale"]) != 1.0
    recipe = Recipe(
        settings["sampler"],
        guided,
        settings["final_alpha"],
        system.latent_shape_of(image_shape),
        clip_denoised=settings["clip_denoised"],
    )
    number, spacing = system.schedule.num_timesteps, settings["spacing"]
    visited = timesteps.make_timesteps(spacing, number, settings["num_steps"])
    inputs = {k: jnp.asarray(v) for k, v in system.null_inputs(1, None, image_shape).items()}
    inputs = {k: jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for k, v in inputs.items()}
    null = {k: inputs[k] for k in system.drops} if guided else {}
    seeds = jax.ShapeDtypeStruct((batch_size,), jnp.uint32)
    scalar, start = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    args = (params, inputs, null, seeds, scalar, scalar, jnp.asarray(visited), start, {})
    return recipe, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)


def make_decoder(system: System, scale_factor: float) -> Callable:
    """(the first stage's params, scaled latents [B, h, w, c]) -> images [B, H, W, C] float32, about [-1, 1]."""
    return lambda params, latents: system.first_stage.decode(params, latents / scale_factor)
