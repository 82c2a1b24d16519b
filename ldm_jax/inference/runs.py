"""Prepares one sampling run: checks the call, and builds the recipe of its program and the arguments of all pictures.

Decides which option of a call becomes which argument, and reports errors before anything is compiled. Batches are
looped over, and programs called, in inference/pipeline.py.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion import timesteps
from ldm_jax.inference import checks, methods, sizes
from ldm_jax.inference.program import (
    CLASSIFIER_FREE,
    EMBEDDED,
    PER_PICTURE,
    Arguments,
    Recipe,
    sampler_options,
    split_sampler_options,
)
from ldm_jax.inference.settings import as_list, one_each
from ldm_jax.system import System
from ldm_jax.text_files import shown
from ldm_jax.types import PyTree


class Run(NamedTuple):
    """arguments: those of the program for all pictures, without the parameters. number: of pictures. branches: names of
    the source branches, which come before the picture itself. num_steps: number of steps run; with 0, x_start is the
    result."""

    recipe: Recipe
    arguments: Arguments
    number: int
    branches: tuple[str, ...]
    num_steps: int
    x_start: np.ndarray | None

    def batch(self, params: PyTree, index: np.ndarray) -> Arguments:
        """The arguments for the pictures `index`, on the device."""

        def of(value, per_picture):
            return jax.tree.map(lambda v: jnp.asarray(v[index] if per_picture else v), value)

        fields = [of(v, p) for v, p in zip(self.arguments._replace(params=()), PER_PICTURE, strict=True)]
        return Arguments(*fields)._replace(params=params)


def make_run(
    system: System,
    given: Mapping[str, Sequence],
    seeds: np.ndarray,
    settings: Mapping[str, Any],
    *,
    negative_prompts: Sequence[str] | None = None,
    image_shape: tuple[int, int] | None = None,
    x_T: np.ndarray | None = None,
    prompt_embeddings: np.ndarray | None = None,
    x_start: np.ndarray | None = None,
    keep: np.ndarray | None = None,
    strength: float = 1.0,
    tile: int | None = None,
    guidance: methods.Asked = None,
    edit: methods.Asked = None,
    previews: bool = False,
    inverted: Any = None,
    records: bool = False,
) -> Run:
    """given: the conditions by name, one for all pictures or one each. seeds: [N] uint32. settings: from
    `resolve_settings`. x_T: [N, h, w, c] float32 scaled latents to start from as they are. x_start: the same, to be
    noised. keep: [N, h, w, 1] float32, 1 where x_start is kept. inverted: an inversions.Inverted to start from. The others are those of LatentDiffusion.sample.

    Raises: ValueError for a request that the model, the sampler or a method does not support.
    """
    shape = system.image_shape if image_shape is None else image_shape
    number, latent_shape = len(seeds), system.latent_shape_of(shape)
    visited = timesteps.make_timesteps(
        settings["spacing"], system.schedule.num_timesteps, settings["num_steps"], system.schedule.sigmas
    )

    # 1. Choose the methods: those of the user, on top of classifier-free guidance.
    choice = _choose(system, given, number, settings, visited, latent_shape, guidance, edit, inverted)
    tiling = sizes.tiling(system, tile, shape)
    _check_methods(system, choice, tiling, prompt_embeddings)

    # 2. Prepare the conditions of every branch, and the further ones of methods.
    further = partial(_further, system, given, seeds, shape)
    inputs, null = condition_inputs(system, given, negative_prompts, seeds, shape)
    is_guided = methods.needs(choice.methods, "uncond")
    branches = tuple(
        condition_inputs(system, dict(given, prompts=source), None, seeds, shape)[0]
        for source in choice.branches
    )
    each = tuple(own | further(more) for own, more in zip(choice.each, choice.conditions, strict=True))
    if prompt_embeddings is not None:
        inputs = inputs | {EMBEDDED: _embeddings(system, prompt_embeddings, number)}

    # 3. Find where sampling starts, and assemble the recipe and the arguments.
    _check_latents(x_T, number, latent_shape)
    whole = x_start is None and inverted is None
    num_run = len(visited) if whole else round(strength * len(visited))
    if inverted is not None:
        trajectory = inverted.arrays["trajectory"]
        x_T, x_start = trajectory[:, len(visited) - num_run], trajectory[:, -1]
    checks.say_what_has_no_effect(is_guided, negative_prompts, strength, len(visited), num_run)
    static, numbers = split_sampler_options(settings["sampler"], sampler_options(settings))
    from_latents, keeps = x_T is not None, keep is not None
    from_image = x_start is not None and strength < 1 and not from_latents
    known = {"x_start": x_start} if from_image or keeps else {}
    known |= ({"keep": keep} if keeps else {}) | ({"x_T": x_T} if from_latents else {})
    found = {} if inverted is None else inverted.used
    recipe = Recipe(
        settings["sampler"], latent_shape, static, choice.methods, from_image, from_latents, keeps, tiling, previews,
        inverted=tuple(found), records=records and tiling is None,
    )  # fmt: skip
    arguments = Arguments(
        params=(),
        inputs=(*branches, inputs),
        null=null if is_guided else {},
        seeds=seeds,
        visited=np.asarray(visited),
        start=np.int32(len(visited) - num_run),
        sampler={k: np.float32(v) for k, v in numbers.items()},
        known=known | found,
        shared=choice.shared,
        each=each,
    )
    return Run(recipe, arguments, number, choice.branch_names, num_run, x_start)


def _choose(
    system: System,
    given: Mapping,
    number: int,
    settings: Mapping,
    visited: np.ndarray,
    latent_shape,
    guidance,
    edit,
    inverted,
) -> methods.Choice:
    """The methods of a run: those chosen, around classifier-free guidance unless its scale is 1 or one replaces it."""
    prompts = list(one_each(given["prompts"], number, "prompts")) if "prompts" in given else None
    scale, num_timesteps = float(settings["guidance_scale"]), system.schedule.num_timesteps
    found = None if inverted is None else inverted.arrays
    factor = system.first_stage.factor
    call = methods.Call(
        number, visited, num_timesteps, latent_shape, prompts, system.tokenizer, scale, inverted=found, decoder=system.unet.decoder,
        sampler=settings["sampler"], image_shape=(latent_shape[0] * factor, latent_shape[1] * factor),
        schedule=system.schedule,
    )  # fmt: skip
    choice = methods.choose(guidance, edit, call)
    if bool(system.drops) and scale != 1.0 and not methods.replaces_guidance(choice.methods):
        choice = choice.with_first(CLASSIFIER_FREE, {"scale": np.float32(scale)})
    return choice


def condition_inputs(system, given, negative_prompts, seeds: np.ndarray, shape) -> tuple[dict, dict]:
    """(inputs, null inputs that guidance substitutes for the dropped ones), each with one entry per seed.

    Raises: ValueError like System.inputs, and for negative prompts if the model takes no prompts.
    """
    number = len(seeds)
    system.check_names(given)
    given = {name: one_each(values, number, name) for name, values in given.items()}
    for name, values in (*given.items(), ("negative_prompts", negative_prompts)):
        if name.endswith("prompts") and values is not None:
            strange = [v for v in as_list(values, name) if not isinstance(v, str)]
            if strange:
                raise ValueError(f"{name}: got {shown(strange[0])}, expected strings")
    if "seeds" in system.takes:
        given.setdefault("seeds", seeds)
    inputs = system.inputs(given, shape)
    said, negative = list(given.get("prompts", ())), None
    if negative_prompts is not None:
        if "prompts" not in system.takes:
            raise ValueError(
                f"this model takes {', '.join(system.takes) or 'no conditions'}, got negative_prompts"
            )
        negative = dict(given, prompts=one_each(negative_prompts, number, "negative_prompts"))
        said += negative["prompts"]
    if said:
        checks.say_unknown_words(said, system.tokenizer)
    null = system.null_inputs(number, negative, shape) if system.drops else {}
    return inputs, {key: null[key] for key in system.drops}


def _further(system: System, given: Mapping, seeds: np.ndarray, shape, asked: Mapping) -> dict[str, tuple]:
    """The inputs of a method's further conditions, by option: what differs from those of the pictures, for each."""

    def inputs(prompts: list[str]) -> dict[str, np.ndarray]:
        found = condition_inputs(system, dict(given, prompts=prompts), None, seeds, shape)[0]
        return {key: found[key] for key in system.drops}

    return {option: tuple(inputs(prompts) for prompts in lists) for option, lists in asked.items()}


def _embeddings(system: System, given: Any, number: int) -> np.ndarray:
    """[N, L, D] float32. Raises: ValueError for another shape, or if the model has other conditions than one text."""
    if [part.name for part in system.parts] not in (["text"], ["clip"]):
        kinds = ", ".join(part.name for part in system.parts) or "nothing"
        raise ValueError(
            f"prompt_embeddings: this model is conditioned on {kinds}, expected text or clip alone"
        )
    given, width = np.asarray(given, np.float32), system.unet.context_dim
    if given.ndim != 3 or len(given) not in (1, number) or given.shape[2] != width:
        raise ValueError(f"prompt_embeddings: got shape {given.shape}, expected ({number}, L, {width})")
    return np.broadcast_to(given, (number, *given.shape[1:]))


def _check_latents(x_T: Any, number: int, latent_shape: tuple[int, ...]) -> None:
    """Raises: ValueError for another shape than one latent for each picture, and for what is not finite."""
    if x_T is None:
        return
    expected, given = (number, *latent_shape), np.asarray(x_T)
    if given.shape != expected or given.dtype.kind not in "fiu":
        raise ValueError(f"latents: got shape {given.shape}, expected numbers of shape {expected}")
    if not np.isfinite(given).all():
        raise ValueError("latents: expected finite numbers, got some that are not")


def _check_methods(
    system: System, choice: methods.Choice, tiling: sizes.Tiling | None, prompt_embeddings: Any
) -> None:
    """Raises: ValueError for a network that cannot be sampled, and for a method that this call does not support."""
    codes, channels = system.unet.n_embed, system.first_stage.channels
    if codes not in (None, channels):
        raise ValueError(
            f"this network gives logits of {codes} codes (n_embed), expected {channels} channels of noise: "
            "the original has no sampler for it either"
        )
    if choice.branches and prompt_embeddings is not None:
        raise ValueError(
            f"prompt_embeddings: got them with an edit of prompts ({', '.join(choice.branch_names)})"
        )
    for method in choice.methods:
        if methods.needs([method], "uncond") and not system.drops:
            raise ValueError(
                f"{method.name} leads away from the unconditional prediction, and this model has none"
            )
        if methods.needs([method], "context") and not system.unet.context_dim:
            raise ValueError(f"{method.name} works on cross-attention, and this model has none")
        if tiling is not None and methods.touches_network([method]):
            raise ValueError(
                f"{method.name} acts inside the network, which sees one tile at a time: leave tile or it out"
            )
