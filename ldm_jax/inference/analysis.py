"""Analyzes pictures, given or drawn: noises them, shows them to the network, and hands what it reads to a method of
recognition/.

Decides how a picture becomes what a method reads of it, in one compiled program, and reports what cannot be before
anything is compiled. What is read and made of it is the method's own file's.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning import tokens
from ldm_jax.conditioning.base import pictures
from ldm_jax.data import fourier, transforms
from ldm_jax.diffusion import learned_variance, process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.find import did_you_mean, find
from ldm_jax.inference import inversions, methods, sizes
from ldm_jax.inference.program import PER_PICTURE, Arguments, coders, conditions
from ldm_jax.inference.runs import Run, condition_inputs
from ldm_jax.inference.sampler_options import visited_timesteps
from ldm_jax.inference.settings import batches, check_seeds, one_each
from ldm_jax.models.controlnet import apply_network
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.recognition.base import Found, Shown
from ldm_jax.samplers import base
from ldm_jax.system import System
from ldm_jax.types import Array


class Analysis(NamedTuple):
    """images: [N, H, W, 3] uint8, what was analyzed. found: what the method makes of it."""

    images: np.ndarray
    found: Found


class ReadingRecipe(NamedTuple):
    """The static choices of a reading program, besides the shapes of its arguments. inverted: the pictures are shown as
    an inversion has them, and not noised."""

    method: str
    latent_shape: tuple[int, int, int]
    noises: int
    inverted: bool = False

    gives_one = False  # array


def make_reader(
    system: System, scale: LatentScale | float, recipe: ReadingRecipe, apply: Callable = apply_network
) -> Callable:
    """Arguments -> {name: [B, S, ...] float32}: what the method gathers at each of the S visited timesteps, the mean
    over noises. Of the arguments, known has 'x_start' or, inverted, 'trajectory' [B, S, h, w, c]."""
    method, shape = find("recognition", recipe.method), recipe.latent_shape
    control = method.reads(shape)

    def run(a: Arguments) -> dict[str, Array]:
        keys = base.keys_of(a.seeds)
        cond = conditions(system, scale, a)[0](a.params)

        def read_at(t, x_t):
            at = jnp.full(len(x_t), t)
            return method.gather(apply(system.unet, a.params["unet"], x_t, at, cond, control)[1], shape)

        if recipe.inverted:
            along = a.known["trajectory"].swapaxes(0, 1)
            read = jax.lax.map(lambda step: read_at(*step), (a.visited, along))
            return jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), read)

        x_start = a.known["x_start"]

        def seen(t, key):
            noise = jax.vmap(lambda own: jax.random.normal(jax.random.fold_in(own, key), shape))(keys)
            return read_at(t, process.q_sample(system.schedule, x_start, jnp.full(len(x_start), t), noise))

        def level(_, t):
            total = seen(t, 0)
            if recipe.noises > 1:
                total = jax.lax.fori_loop(
                    1, recipe.noises, lambda key, sums: jax.tree.map(jnp.add, sums, seen(t, key)), total
                )
            return None, jax.tree.map(lambda v: v / recipe.noises, total)

        _, read = jax.lax.scan(level, None, a.visited)
        return jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), read)

    return run


class SolvingRecipe(NamedTuple):
    """The static choices of the program of a method that works with the network itself. options: its own, sorted."""

    method: str
    latent_shape: tuple[int, int, int]
    options: tuple[tuple[str, Any], ...]


def differentiates(method: str) -> bool:
    """Whether a method of recognition asks for gradients through the network."""
    return getattr(find("recognition", method), "GRADIENTS", False)


def make_solver(
    system: System, scale: LatentScale | float, recipe: SolvingRecipe, apply: Callable = apply_network
) -> Callable:
    """Arguments -> what the method's `solve` gives of all pictures at once. Of the arguments, known has 'x_start' and
    'images' [N, H, W, 3] in [-1, 1], and shared the method's arrays."""
    method = find("recognition", recipe.method)
    unet = system.unet.clone(remat="loop") if differentiates(recipe.method) else system.unet

    def run(a: Arguments) -> dict[str, Array]:
        def model_fn(x, t, cond, control=None):
            return apply(unet, a.params["unet"], x, t, cond, control)

        network = learned_variance.apart(model_fn) if system.learned_variance else model_fn
        cond = conditions(system, scale, a)[0](a.params)
        ends = coders(system, scale, a.params["first_stage"])
        about = system.schedule, system.prediction_type, a.visited
        denoiser = Denoiser(network, cond, None, *about, 1, None, *ends)
        given = a.known["x_start"], a.known["images"], base.keys_of(a.seeds)
        return method.solve(denoiser, *given, **dict(recipe.options), **a.shared[0])

    return run


def analyze(
    model: Any,
    images: Sequence | Array | None,
    prompts: str | Sequence[str] | None,
    method: str,
    seeds: Sequence[int] | None,
    *,
    levels: Sequence[float] | None = None,
    noises: int | None = None,
    inversion: Any = None,
    like: Sequence | None = None,
    beta: float = 0.05,
    batch_size: int = 8,
    **options,
) -> Analysis:
    """What the network sees in pictures: they are noised, shown to it, and a method makes something of what it reads.

    images: [H, W, 3], uint8 or floats in [-1, 1], or a list of them; None: drawn from prompts and seeds. prompts: what
    they show, one for all or one each; None: the null condition. method: a file of recognition/. seeds: of the noises,
    and of pictures that are drawn; 0, 1, … by default. levels: of noise, parts of the timesteps in [0, 1]. noises: how
    many at each level; None: the method's own. inversion: a file of inversion/, or {name: {option: value}}, by which
    pictures are inverted and shown as they are at the steps next to the levels; None: they are noised. like: pictures
    of the same size in whose light the images are put first, one each and again from the first (data/fourier.py, whose
    beta it is). options: of the method's `recognize`.
    Raises: ValueError for an unknown method or option, and for what the method or the model cannot take.
    """
    system, module = model.system, find("recognition", method)
    checked(method, options)
    _check_needs(method, system, prompts)
    inversions.check_encoder(system, model.params)

    # 1. The pictures, and what is said of them.
    if images is None:
        if prompts is None:
            raise ValueError(f"{method}: expected images, or prompts of which pictures are drawn")
        images = model.sample(prompts, seeds, batch_size=batch_size, plain_prompts=True)
    images = [images] if np.ndim(images) == 3 else list(images)
    given = {} if prompts is None else {"prompts": one_each(prompts, len(images), "prompts")}
    seeds = check_seeds(range(len(images)) if seeds is None else seeds)
    if len(seeds) != len(images):
        raise ValueError(f"seeds: got {len(seeds)} for {len(images)} images, expected as many")
    shape = sizes.choose_shape(system, given, None, images)
    shown = _in_light_of(pictures(images, *shape, "images"), like, beta)
    x_start = model._in_batches(model.encode, shown, batch_size)

    # 2. What the network sees in them.
    told = (
        condition_inputs(system, given, None, seeds, shape)[0]
        if given
        else system.null_inputs(len(seeds), None, shape)
    )
    levels = module.LEVELS if levels is None else tuple(levels)
    said = given.get("prompts", ())
    words = [tokens.words(system.tokenizer, prompt) for prompt in said]
    about = Shown(
        shown, words, lambda i, word: tokens.indices(system.tokenizer, said[i], word), said,
        functools.partial(embedded, model, shape),
    )  # fmt: skip
    arguments = Arguments(
        params=(), inputs=(told,), null={}, seeds=seeds, visited=_timesteps(levels, system),
        start=np.int32(0), sampler={}, known={"x_start": x_start},
    )  # fmt: skip
    latent_shape = system.latent_shape_of(shape)
    if hasattr(module, "solve"):
        if inversion is not None:
            raise ValueError(f"{method} noises pictures itself, got inversion {inversion!r}")
        read = _solved(model, method, latent_shape, arguments, about, options)
    else:
        recipe = ReadingRecipe(method, latent_shape, _noises(module, noises))
        if inversion is not None:
            recipe = recipe._replace(noises=1, inverted=True)
            arguments = _along(model, list(shown), said or None, inversion, arguments, batch_size)
        read = _gathered(model, Run(recipe, arguments, len(seeds), (), len(levels), None), batch_size)
    for name, value in read.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{method}: {name} of the network are not finite, expected other levels")

    # 3. What the method makes of it.
    return Analysis(transforms.to_bytes(shown), module.recognize(read, about, **options))


def _along(
    model: Any,
    images: Sequence,
    prompts: Sequence[str] | None,
    asked: Any,
    arguments: Arguments,
    batch_size: int,
) -> Arguments:
    """The arguments, of which the pictures are shown as the inversion has them at the steps next to the levels."""
    found = model.invert(images, prompts, asked, arguments.seeds, batch_size=batch_size)
    steps = np.asarray(visited_timesteps(found.settings, model.system.schedule))
    nearest = np.abs(steps - np.asarray(arguments.visited)[:, None]).argmin(1)
    return arguments._replace(
        visited=steps[nearest].astype(np.int32), known={"trajectory": found.arrays["trajectory"][:, nearest]}
    )


def _gathered(model: Any, run: Run, batch_size: int) -> dict[str, np.ndarray]:
    """What the method gathers of all pictures, batch by batch."""
    make = functools.partial(make_reader, model.system, model.scale, run.recipe, model.apply)
    program, parts = model._compiled(run.recipe, make, PER_PICTURE), []
    for index, number in batches(run.number, batch_size, model.devices.number):
        parts.append(
            jax.tree.map(lambda v, n=number: np.asarray(v)[:n], program(run.batch(model.params, index)))
        )
    return jax.tree.map(lambda *all_parts: np.concatenate(all_parts), *parts)


def _solved(
    model: Any, method: str, shape: tuple[int, int, int], arguments: Arguments, about: Shown, options: Mapping
) -> dict[str, np.ndarray]:
    """What the method's `solve` gives. All pictures are one call, which several devices repeat."""
    static, arrays = find("recognition", method).given(about, shape, **options)
    recipe = SolvingRecipe(method, shape, tuple(sorted(static.items())))
    if recipe not in model._programs:
        options = model.devices.compiler_options(differentiates(method))
        solver = make_solver(model.system, model.scale, recipe, model.apply)
        model._programs[recipe] = jax.jit(solver, compiler_options=options)
    known = arguments.known | {"images": about.images}
    found = model._programs[recipe](arguments._replace(params=model.params, known=known, shared=(arrays,)))
    return jax.tree.map(np.asarray, found)


def embedded(model: Any, shape: tuple[int, int], texts: Sequence[str]) -> np.ndarray:
    """[n, D] float32: the mean of what the model's text encoder makes of the words of each text.

    Raises: ValueError for a model that takes more than prompts, and for a text without words that it knows.
    """
    system = model.system
    told = condition_inputs(system, {"prompts": list(texts)}, None, np.arange(len(texts)), shape)[0]
    context = np.asarray(jax.jit(system.condition)(model.params, told).context, np.float32)
    places = [[i for _, at in tokens.words(system.tokenizer, text) for i in at] for text in texts]
    if not all(places):
        raise ValueError(f"prompts: {list(texts)[places.index([])]!r} has no words, expected some in each")
    return np.stack([one[at].mean(0) for one, at in zip(context, places, strict=True)])


def checked(method: str, options: Mapping[str, Any]) -> None:
    """Raises: ValueError for an option that the method does not have."""
    known = methods.options_of("recognition", method)
    for option in options:
        if option not in known:
            there = ", ".join(known) or "none"
            raise ValueError(
                f"{method} has no option {option!r}; it has: {there}{did_you_mean(option, known)}"
            )


def _in_light_of(shown: np.ndarray, like: Sequence | None, beta: float) -> np.ndarray:
    """shown [N, H, W, 3], with the low frequencies' strength of `like`, if there is any."""
    if like is None:
        return shown
    others = pictures([like] if np.ndim(like) == 3 else list(like), *shown.shape[1:3], "like")
    if not len(others):
        raise ValueError("like: got no pictures, expected at least one")
    return np.stack([fourier.adapted(one, others[i % len(others)], beta) for i, one in enumerate(shown)])


def _check_needs(method: str, system: System, prompts: Any) -> None:
    """Raises: ValueError for a model without cross-attention, or no prompts, where a method reads them."""
    needs = getattr(find("recognition", method), "NEEDS", ())
    if {"context", "cross"} & set(needs) and not system.unet.context_dim:
        raise ValueError(f"{method} reads cross-attention, and this model has none")
    if "context" in needs and prompts is None:
        raise ValueError(f"{method} reads what the words of a prompt look at, expected prompts")


def _noises(module: Any, asked: int | None) -> int:
    number = module.NOISES if asked is None else asked
    if not isinstance(number, int) or not 1 <= number <= 1000:
        raise ValueError(f"noises: got {asked!r}, expected a whole number from 1 to 1000")
    return number


def _timesteps(levels: Sequence[float], system: System) -> np.ndarray:
    """[S] int32. Raises: ValueError for levels out of [0, 1], or none."""
    found = np.asarray(levels, np.float64)
    if found.ndim != 1 or not found.size or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"levels: got {levels!r}, expected parts of the timesteps from 0 to 1")
    number = system.schedule.num_timesteps
    return np.minimum((found * number).astype(np.int32), number - 1)
