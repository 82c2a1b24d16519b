"""Inverts given pictures: their latents, the program that a method of inversion/ is compiled in, and what
sampling starts from then.

Decides which settings inversion and drawing again share, and reports what cannot be inverted before anything
is compiled. Drawing again is inference/program.py's.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning.base import pictures
from ldm_jax.diffusion import learned_variance
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.find import find
from ldm_jax.inference import methods, sizes
from ldm_jax.inference.program import PER_PICTURE, Arguments, conditions, for_methods
from ldm_jax.inference.runs import Run, condition_inputs
from ldm_jax.inference.sampler_options import visited_timesteps
from ldm_jax.inference.settings import FALLBACK, batches, check_seeds, one_each
from ldm_jax.models.controlnet import apply_network
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.params import named_leaves
from ldm_jax.samplers import base, ddim
from ldm_jax.system import System
from ldm_jax.types import Array, PyTree

SAMPLER = "ddim"
SHARED = (
    "num_steps",
    "sampler",
    "eta",
    "spacing",
    "final_alpha",
)  # settings of inverting and of drawing again


class Inverted(NamedTuple):
    """Pictures as `LatentDiffusion.invert` found them, for `sample(…, inverted=…)`.

    arrays: of inversion/base.py, with the pictures before the steps: 'trajectory' [N, S + 1, h, w, c] float32
    scaled latents, noisiest first; 'noises' [N, S, h, w, c]; 'uncond' {field: [N, S, ...]}. follows: whether
    the source of an edit is put back onto the trajectory. settings: of the sampler that draws them again.
    image_shape: (H, W) in pixels.
    """

    arrays: dict[str, Any]
    follows: bool
    settings: dict[str, Any]
    image_shape: tuple[int, int]

    @property
    def used(self) -> dict[str, Any]:
        """Of the arrays, those that the program of drawing again takes."""
        return {k: v for k, v in self.arrays.items() if k != "trajectory" or self.follows}


class InversionRecipe(NamedTuple):
    """The static choices of an inversion's program, besides the shapes of its arguments. is_guided: it also
    has the network's null condition."""

    method: methods.Method
    latent_shape: tuple[int, int, int]
    final_alpha: str
    is_guided: bool

    gives_one = False  # array


def make_inverter(
    system: System, scale: LatentScale | float, recipe: InversionRecipe, apply: Callable = apply_network
) -> Callable:
    """Arguments -> the arrays of inversion/base.py with the pictures first, [B, S, ...]. Of the arguments,
    known has 'x_start', and shared and each those of the method alone."""

    unet = for_methods(system, [recipe.method])

    @jax.jit  # traced once for all the places that call it
    def network(params, x, t, cond, control):
        return apply(unet, params, x, t, cond, control)

    def run(a: Arguments) -> dict[str, PyTree]:
        def model_fn(x, t, cond, control=None):
            return network(a.params["unet"], x, t, cond, control)

        if system.learned_variance:  # an inversion draws no noise
            model_fn = learned_variance.apart(model_fn)
        condition, further = conditions(system, scale, a)
        cond, uncond = condition(a.params), further(a.null) if recipe.is_guided else None
        denoiser = Denoiser(model_fn, cond, uncond, system.schedule, system.prediction_type, a.visited)
        end = ddim.end_log_alpha_bar(system.schedule, recipe.final_alpha)
        given = a.known["x_start"], base.keys_of(a.seeds), end
        found = recipe.method.build(denoiser, *given, **a.shared[0], **a.each[0])
        return jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0), found)

    return run


def invert(
    model: Any,
    images: Sequence | Array,
    prompts: str | Sequence[str] | None,
    asked: Any,
    seeds: Sequence[int] | None,
    batch_size: int,
    settings: Mapping[str, Any],
) -> Inverted:
    """See LatentDiffusion.invert. asked: a method's name, or {name: {option: value}}."""
    system = model.system
    check_encoder(system, model.params)
    images = [images] if np.ndim(images) == 3 else list(images)
    name, options = one_method(asked)

    # One prompt for each picture, its own.
    own = options.pop("prompt", None)
    prompts = prompts if own is None else own
    many = max(len(images), 1 if prompts is None or isinstance(prompts, str) else len(prompts))
    seeds = check_seeds(range(many) if seeds is None else seeds)
    given = {} if prompts is None else {"prompts": one_each(prompts, len(seeds), "source")}
    shape = sizes.choose_shape(system, given, None, images)
    x_start = model._in_batches(model.encode, _read(images, len(seeds), shape), batch_size)

    # The program, and its arguments for all pictures.
    settings = for_ddim(model, name, settings)
    visited = visited_timesteps(settings, system.schedule)
    call = methods.Call(
        len(seeds), np.asarray(visited), system.schedule.num_timesteps, system.latent_shape_of(shape),
        given.get("prompts"), system.tokenizer, float(settings["guidance_scale"]),
    )  # fmt: skip
    method, shared, each = methods.choose_inversion(name, options, call)
    check_needs(system, method)
    inputs, null = condition_inputs(system, given, None, seeds, shape)
    guided = bool(system.drops)
    recipe = InversionRecipe(method, call.latent_shape, settings["final_alpha"] or "first", guided)
    arguments = Arguments(
        params=(), inputs=(inputs,), null=null if guided else {}, seeds=seeds, visited=np.asarray(visited),
        start=np.int32(0), sampler={}, known={"x_start": np.broadcast_to(x_start, (len(seeds), *x_start.shape[1:]))},
        shared=(shared,), each=(each,),
    )  # fmt: skip
    arrays = _run(model, recipe, Run(recipe, arguments, len(seeds), (), len(visited), None), batch_size)
    return Inverted(arrays, method.module.FOLLOWS, {k: settings[k] for k in SHARED}, tuple(shape))


def _run(model: Any, recipe: InversionRecipe, run: Run, batch_size: int) -> dict[str, Any]:
    """The arrays of all pictures, batch by batch."""
    make = functools.partial(make_inverter, model.system, model.scale, recipe, model.apply)
    differentiates = methods.differentiates([recipe.method])
    program, found = model._compiled(recipe, make, PER_PICTURE, differentiates=differentiates), []
    for index, number in batches(run.number, batch_size, model.devices.number):
        drawn = program(run.batch(model.params, index))
        found.append(jax.tree.map(lambda v, n=number: np.asarray(v)[:n], drawn))
    arrays = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    for name, leaf in named_leaves(arrays).items():
        if not np.isfinite(leaf).all():
            raise ValueError(
                f"inversion {recipe.method.name}: {name} is not finite, expected a smaller guidance_scale"
            )
    return arrays


def one_method(asked: Any) -> tuple[str, dict[str, Any]]:
    """(name, options) of a name, or of {name: {option: value}}. Raises: ValueError for anything else."""
    if isinstance(asked, str):
        return asked, {}
    if isinstance(asked, Mapping) and len(asked) == 1:
        ((name, options),) = asked.items()
        if isinstance(name, str) and isinstance(options, Mapping | None):
            return name, dict(options or {})
    raise ValueError(f"inversion: got {asked!r}, expected a name, or {{name: {{option: value}}}}")


def for_ddim(model: Any, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the sampler that draws again. Raises: ValueError for those of another one."""
    eta = find("inversion", name).ETA
    if asked.get("sampler") not in (None, SAMPLER):
        raise ValueError(f"inversion {name} is of sampler {SAMPLER}, got sampler {asked['sampler']!r}")
    if asked.get("eta") not in (None, 0, eta):  # 0 is what checkpoints recommend
        raise ValueError(f"inversion {name} draws again with eta {eta:g}, got eta {asked['eta']}")
    return model.resolve(
        **{**{k: v for k, v in asked.items() if k in FALLBACK}, "sampler": SAMPLER, "eta": eta}
    )


def check_encoder(system: System, params: PyTree) -> None:
    """Raises: ValueError for a model that can encode no picture."""
    if system.first_stage.has_parameters and not any("encoder" in name for name in params["first_stage"]):
        raise ValueError("image: this model has no encoder, expected one that pictures can be inverted with")


def check_needs(system: System, method: methods.Method) -> None:
    """Raises: ValueError for a method that needs what the model does not have."""
    if methods.needs([method], "uncond") and not system.drops:
        raise ValueError(
            f"inversion {method.name} leads away from the unconditional prediction, and this model has none"
        )
    if methods.needs([method], "context") and not system.unet.context_dim:
        raise ValueError(f"inversion {method.name} works on cross-attention, and this model has none")


def _read(images: Sequence, number: int, shape: tuple[int, int]) -> np.ndarray:
    """[1 or N, H, W, 3] float32 in [-1, 1]. Raises: ValueError for another number, or pictures of another
    size."""
    return pictures(one_each(images, number, "image", spread=False), *shape, "image")


def check_settings(inverted: Inverted, asked: Mapping[str, Any], number: int) -> None:
    """asked: the arguments of `sample`. Raises: ValueError for those that go with no inverted picture, or
    with other ones."""
    for name in ("init_images", "fill_masks", "latents", "tile"):
        if asked[name] is not None:
            raise ValueError(f"inverted pictures are drawn from their own latents in one piece, got {name}")
    for name, value in inverted.settings.items():
        if asked[name] not in (None, value) and (name, asked[name]) != ("eta", 0):
            raise ValueError(f"{name} is {asked[name]!r}, and the pictures were inverted with {value!r}")
    if len(inverted.arrays["trajectory"]) != number:
        raise ValueError(
            f"inverted: got {len(inverted.arrays['trajectory'])} pictures for {number} seeds, expected as many"
        )
