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

from ldm_jax.conditioning import text
from ldm_jax.inference import checks, methods, sizes
from ldm_jax.inference.program import (
    CLASSIFIER_FREE,
    EMBEDDED,
    PER_PICTURE,
    Arguments,
    Recipe,
)
from ldm_jax.inference.sampler_options import sampler_options, split_sampler_options, visited_timesteps
from ldm_jax.inference.settings import as_list, one_each
from ldm_jax.system import System
from ldm_jax.text_files import shown
from ldm_jax.types import PyTree

MOST_PARTS = 16  # of a long prompt


class Run(NamedTuple):
    """arguments: those of the program for all pictures, without the parameters. number: of pictures. branches: names of
    the source branches, which come before the picture itself. num_steps: number of steps run; with 0, x_start is the
    result, the latents that it starts from."""

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
    part: tuple[float, float] = (0.0, 1.0),
    tile: int | None = None,
    guidance: methods.Asked = None,
    edit: methods.Asked = None,
    previews: bool = False,
    inverted: Any = None,
    records: bool = False,
    long_prompts: bool = False,
) -> Run:
    """given: the conditions by name, one for all pictures or one each. seeds: [N] uint32. settings: from
    `resolve_settings`. x_T: [N, h, w, c] float32 scaled latents to start from as they are. x_start: the same, to be
    noised. keep: [N, h, w, 1] float32, 1 where x_start is kept. inverted: an inversions.Inverted to start from. part: start
    and stop. The others are those of LatentDiffusion.sample.
    Raises: ValueError for a request that the model, the sampler or a method does not support.
    """
    system = _in_parts(system, given, negative_prompts) if long_prompts else system
    shape = system.image_shape if image_shape is None else image_shape
    number, latent_shape = len(seeds), system.latent_shape_of(shape)
    visited = visited_timesteps(settings, system.schedule)

    # 1. Choose the methods: those of the user, on top of classifier-free guidance.
    choice = _choose(system, given, number, settings, visited, latent_shape, guidance, edit, inverted)
    tiling = sizes.tiling(system, tile, shape)
    _check_methods(system, choice, tiling, prompt_embeddings, records)

    # 2. Prepare the conditions of every branch, and the further ones of methods.
    further = partial(_further, system, given, seeds, shape)
    inputs, null = condition_inputs(system, given, negative_prompts, seeds, shape)
    is_guided = methods.needs(choice.methods, "uncond")
    sources = [_with_prompts(given, source) for source in choice.branches]
    branches = tuple(condition_inputs(system, source, None, seeds, shape)[0] for source in sources)
    each = tuple(own | further(more) for own, more in zip(choice.each, choice.conditions, strict=True))
    inputs = inputs | _embeddings(system, prompt_embeddings, number)

    # 3. Find where sampling starts, and assemble the recipe and the arguments.
    _check_latents(x_T, number, latent_shape)
    start, stop = _places(system, visited, part, strength, x_start is None and inverted is None, x_T)
    if inverted is not None:
        x_T, x_start = (inverted.arrays["trajectory"][:, place] for place in (start, -1))
    steps = visited[start:] if part == (0, 1) else visited  # those that shares of a run are of
    checks.say_what_has_no_effect(is_guided, negative_prompts, strength, len(visited), stop - start)
    static, numbers = split_sampler_options(settings["sampler"], sampler_options(settings))
    from_latents, keeps = x_T is not None, keep is not None
    from_image = x_start is not None and strength < 1 and not from_latents
    places = np.arange(number, dtype=np.int32) if previews else None
    known = dict(x_start=x_start if from_image or keeps else None, keep=keep, x_T=x_T, places=places)
    found = {} if inverted is None else inverted.used
    recipe = Recipe(
        settings["sampler"], latent_shape, static, choice.methods, from_image, from_latents, keeps, tiling, previews,
        tuple(found), records=records and tiling is None, part=part != (0, 1),
    )  # fmt: skip
    arguments = Arguments(
        params=(),
        inputs=tuple(system.at_steps(one, steps) for one in (*branches, inputs)),
        null=null if is_guided else {},
        seeds=seeds,
        visited=np.asarray(visited),
        start=np.int32(start),
        sampler={k: np.float32(v) for k, v in numbers.items()},
        known={name: value for name, value in known.items() if value is not None} | found,
        shared=choice.shared,
        each=each,
        stop=np.int32(stop) if part != (0, 1) else (),
    )
    begins = x_T if x_start is None else x_start
    return Run(recipe, arguments, number, choice.branch_names, stop - start, begins)


def _in_parts(system: System, given: Mapping[str, Sequence], negative_prompts: Any) -> System:
    """system, which reads prompts in as many parts as the longest of a call needs. Raises: ValueError for a model without prompts, and one
    whose tokenizer leaves room in its text encoder."""
    reader = next((part for part in system.parts if hasattr(part.kind, "WEIGHTS")), None)
    if reader is None or system.tokenizer is None:
        raise ValueError("long_prompts: this model reads no prompts")
    length, most = system.tokenizer.truncation["max_length"], reader.conditioner.max_length
    if length != most:
        raise ValueError(
            f"long_prompts: the tokenizer cuts to {length} tokens, expected {most}, as many as are read"
        )
    said = [given.get("prompts"), given.get("prompts_2"), negative_prompts]
    prompts = [prompt for some in said if some is not None for prompt in as_list(some, "prompts")]
    number = text.parts_of(prompts, system.tokenizer)
    if number > MOST_PARTS:
        raise ValueError(
            f"long_prompts: the longest prompt would be read in {number} parts, expected {MOST_PARTS} at most"
        )
    return system._replace(in_parts=number)


def _places(
    system: System, visited: np.ndarray, part: tuple[float, float], strength: float, whole: bool, x_T: Any
) -> tuple[int, int]:
    """(how many visited timesteps are passed over, how many of them lie before the end of the run).

    Of a part, a timestep t is visited before the share p of a run if t >= (1 - p) T, rounded, as diffusers' denoising_end has it.
    whole: nothing else says where the run starts. Raises: ValueError where something does, for shares out of order, and
    for a start that nothing is given for.
    """
    if part == (0, 1):
        return 0 if whole else len(visited) - round(strength * len(visited)), len(visited)
    for name, share in zip(("start", "stop"), part, strict=True):
        checks.check_number(name, share, 0, 1)
    if part[0] >= part[1]:
        raise ValueError(f"start: got {part[0]} with stop {part[1]}, expected less than stop")
    if part[0] > 0 and x_T is None:
        raise ValueError(f"start: got {part[0]} without latents, expected those of a run that stopped there")
    if not whole:
        raise ValueError("start and stop: got them with init_images or inverted, expected strength instead")
    num_timesteps = system.schedule.num_timesteps
    cuts = [round(num_timesteps - share * num_timesteps) for share in part]
    start, stop = (int((visited >= cut).sum()) for cut in cuts)
    if part[1] < 1 and start == stop == 0:
        raise ValueError(f"stop: got {part[1]}, before the first of {len(visited)} timesteps, expected more")
    return start, stop


def _with_prompts(given: Mapping[str, Sequence], prompts: Sequence[str]) -> dict[str, Sequence]:
    """The conditions with other prompts, which are those of every text encoder."""
    return {name: values for name, values in given.items() if name != "prompts_2"} | {"prompts": prompts}


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
        system=system,
    )  # fmt: skip
    choice = methods.choose(guidance, edit, call)
    if system.is_guided and scale != 1.0 and not methods.replaces_guidance(choice.methods):
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
        if name.endswith(("prompts", "prompts_2")) and values is not None:
            strange = [v for v in as_list(values, name) if not isinstance(v, str)]
            if strange:
                raise ValueError(f"{name}: got {shown(strange[0])}, expected strings")
    if "seeds" in system.takes:
        given.setdefault("seeds", seeds)
    inputs = system.inputs(given, shape)
    said, negative = [*given.get("prompts", ()), *given.get("prompts_2", ())], None
    if negative_prompts is not None:
        if "prompts" not in system.takes:
            raise ValueError(
                f"this model takes {', '.join(system.takes) or 'no conditions'}, got negative_prompts"
            )
        negative = _with_prompts(given, one_each(negative_prompts, number, "negative_prompts"))
        said += negative["prompts"]
    if said:
        checks.say_unknown_words(said, system.tokenizer)
    if not system.drops:
        return inputs | system.weights(given), {}
    null = system.null_inputs(number, negative, shape)
    without = system.weights(negative or {"prompts": [""] * number})
    return inputs | system.weights(given), {key: null[key] for key in system.drops} | without


def _further(system: System, given: Mapping, seeds: np.ndarray, shape, asked: Mapping) -> dict[str, tuple]:
    """The inputs of a method's further conditions, by option: what differs from those of the pictures, for each."""

    def inputs(prompts: list[str]) -> dict[str, np.ndarray]:
        found = condition_inputs(system, _with_prompts(given, prompts), None, seeds, shape)[0]
        return {key: found[key] for key in (*system.drops, *system.weighs)}

    return {option: tuple(inputs(prompts) for prompts in lists) for option, lists in asked.items()}


def _embeddings(system: System, given: Any, number: int) -> dict[str, np.ndarray]:
    """{EMBEDDED: [N, L, D] float32} of what is given, if anything is. Raises: ValueError for another shape, or if the model has other conditions than one text."""
    if given is None:
        return {}
    if [part.name for part in system.parts] not in (["text"], ["clip"]):
        kinds = ", ".join(part.name for part in system.parts) or "nothing"
        raise ValueError(
            f"prompt_embeddings: this model is conditioned on {kinds}, expected text or clip alone"
        )
    given, width = np.asarray(given, np.float32), system.unet.context_dim
    if given.ndim != 3 or len(given) not in (1, number) or given.shape[2] != width:
        raise ValueError(f"prompt_embeddings: got shape {given.shape}, expected ({number}, L, {width})")
    return {EMBEDDED: np.broadcast_to(given, (number, *given.shape[1:]))}


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
    system: System,
    choice: methods.Choice,
    tiling: sizes.Tiling | None,
    prompt_embeddings: Any,
    records: bool,
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
    _check_beside(choice.methods, records)
    for method in choice.methods:
        if methods.needs([method], "uncond") and not system.drops:
            raise ValueError(
                f"{method.name} leads away from the unconditional prediction, and this model has none"
            )
        if methods.needs([method], "context") and not system.unet.context_dim:
            raise ValueError(f"{method.name} works on cross-attention, and this model has none")
        if methods.needs([method], "concat") and "changed_images" not in system.takes:
            raise ValueError(
                f"{method.name} is for models that take changed_images, which this model does not"
            )
        if system.in_parts > 1 and (methods.needs([method], "context") or hasattr(method.module, "BRANCHES")):
            raise ValueError(
                f"long_prompts: {method.name} works on the words of a prompt, expected one of at most "
                f"{system.tokenizer.truncation['max_length']} tokens"
            )
        if methods.needs([method], "regions") and "regions" not in system.takes:
            raise ValueError(f"{method.name} is for models that take regions, which this model does not")
        if tiling is not None and methods.touches_network([method]):
            raise ValueError(
                f"{method.name} acts inside the network, which sees one tile at a time: leave tile or it out"
            )


def _check_beside(chosen: Sequence[methods.Method], records: bool) -> None:
    """Raises: ValueError for a method beside one that goes with a few others alone, BESIDE, or where maps are recorded."""
    for method in chosen:
        beside = getattr(method.module, "BESIDE", None)
        if beside is None:
            continue
        for other in (m.name for m in chosen if m.name not in (method.name, *beside)):
            raise ValueError(
                f"{method.name} and {other} cannot be combined: it goes with {', '.join(beside)}"
            )
        if records:
            raise ValueError(f"{method.name}: got it where maps are recorded, expected none of it in an edit")
