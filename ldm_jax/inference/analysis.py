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
from ldm_jax.data import transforms
from ldm_jax.diffusion import process
from ldm_jax.find import did_you_mean, find
from ldm_jax.inference import inversions, methods, sizes
from ldm_jax.inference.program import PER_PICTURE, Arguments, conditions
from ldm_jax.inference.runs import Run, condition_inputs
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
    """The static choices of a reading program, besides the shapes of its arguments."""

    method: str
    latent_shape: tuple[int, int, int]
    noises: int

    gives_one = False  # array


def make_reader(
    system: System, scale: LatentScale | float, recipe: ReadingRecipe, apply: Callable = apply_network
) -> Callable:
    """Arguments -> {name: [B, S, ...] float32}: what the method gathers at each of the S visited timesteps, the mean
    over noises. Of the arguments, known has 'x_start'."""
    method, shape = find("recognition", recipe.method), recipe.latent_shape
    control = method.reads(shape)

    def run(a: Arguments) -> dict[str, Array]:
        x_start, keys = a.known["x_start"], base.keys_of(a.seeds)
        cond, _, _ = conditions(system, scale, a, False)

        def seen(t, key):
            noise = jax.vmap(lambda own: jax.random.normal(jax.random.fold_in(own, key), shape))(keys)
            at = jnp.full(len(x_start), t)
            x_t = process.q_sample(system.schedule, x_start, at, noise)
            return method.gather(apply(system.unet, a.params["unet"], x_t, at, cond, control)[1], shape)

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


def analyze(
    model: Any,
    images: Sequence | Array | None,
    prompts: str | Sequence[str] | None,
    method: str,
    seeds: Sequence[int] | None,
    *,
    levels: Sequence[float] | None = None,
    noises: int | None = None,
    batch_size: int = 8,
    **options,
) -> Analysis:
    """What the network sees in pictures: they are noised, shown to it, and a method makes something of what it reads.

    images: [H, W, 3], uint8 or floats in [-1, 1], or a list of them; None: drawn from prompts and seeds. prompts: what
    they show, one for all or one each; None: the null condition. method: a file of recognition/. seeds: of the noises,
    and of pictures that are drawn; 0, 1, … by default. levels: of noise, parts of the timesteps in [0, 1]. noises: how
    many at each level; None: the method's own. options: of the method's `recognize`.
    Raises: ValueError for an unknown method or option, and for what the method or the model cannot take.
    """
    system, module = model.system, find("recognition", method)
    checked(method, options)
    if "context" in getattr(module, "NEEDS", ()):
        if not system.unet.context_dim:
            raise ValueError(f"{method} reads cross-attention, and this model has none")
        if prompts is None:
            raise ValueError(f"{method} reads what the words of a prompt look at, expected prompts")
    inversions.check_encoder(system, model.params)

    # 1. The pictures, and what is said of them.
    if images is None:
        if prompts is None:
            raise ValueError(f"{method}: expected images, or prompts of which pictures are drawn")
        images = model.sample(prompts, seeds, batch_size=batch_size)
    images = [images] if np.ndim(images) == 3 else list(images)
    given = {} if prompts is None else {"prompts": one_each(prompts, len(images), "prompts")}
    seeds = check_seeds(range(len(images)) if seeds is None else seeds)
    if len(seeds) != len(images):
        raise ValueError(f"seeds: got {len(seeds)} for {len(images)} images, expected as many")
    shape = sizes.choose_shape(system, given, None, images)
    shown = pictures(images, *shape, "images")
    x_start = model._in_batches(model.encode, shown, batch_size)

    # 2. What the network sees in them.
    told = (
        condition_inputs(system, given, None, seeds, shape)[0]
        if given
        else system.null_inputs(len(seeds), None, shape)
    )
    levels = module.LEVELS if levels is None else tuple(levels)
    recipe = ReadingRecipe(method, system.latent_shape_of(shape), _noises(module, noises))
    arguments = Arguments(
        params=(), inputs=(told,), null={}, seeds=seeds, visited=_timesteps(levels, system),
        start=np.int32(0), sampler={}, known={"x_start": x_start},
    )  # fmt: skip
    run, parts = Run(recipe, arguments, len(seeds), (), len(levels), None), []
    make = functools.partial(make_reader, system, model.scale, recipe, model.apply)
    program = model._compiled(recipe, make, PER_PICTURE)
    for index, number in batches(len(seeds), batch_size, model.devices.number):
        parts.append(
            jax.tree.map(lambda v, n=number: np.asarray(v)[:n], program(run.batch(model.params, index)))
        )
    read = jax.tree.map(lambda *all_parts: np.concatenate(all_parts), *parts)
    for name, value in read.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{method}: {name} of the network are not finite, expected other levels")

    # 3. What the method makes of it.
    said = given.get("prompts", ())
    words = [tokens.words(system.tokenizer, prompt) for prompt in said]
    about = Shown(shown, words, lambda i, word: tokens.indices(system.tokenizer, said[i], word))
    return Analysis(transforms.to_bytes(shown), module.recognize(read, about, **options))


def checked(method: str, options: Mapping[str, Any]) -> None:
    """Raises: ValueError for an option that the method does not have."""
    known = methods.options_of("recognition", method)
    for option in options:
        if option not in known:
            there = ", ".join(known) or "none"
            raise ValueError(
                f"{method} has no option {option!r}; it has: {there}{did_you_mean(option, known)}"
            )


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
