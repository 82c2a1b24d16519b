"""What every inversion method has in common: from a clean picture to what draws it again.

Each other file of this room is one method and has:
    invert(denoiser, x_start, keys, end, *, **options) -> dict of arrays
                            x_start: [B, h, w, c] float32 scaled latents. keys: [B] typed keys of the
                            pictures. end: log alphas_cumprod where the last step leads, as the sampler ends.
                            Options annotated `Array` are arguments of the compiled program: no value of
                            theirs compiles anew. The arrays, over the S visited timesteps, noisiest first:
        trajectory [S + 1, B, h, w, c]      x at each visited timestep and, last, what drawing again ends at
        noises [S, B, h, w, c]              the noise of each step, where drawing again is not along the ODE
        uncond {field: [S, B, ...]}         fields of Cond in the place of the unconditional ones, step by step
    ETA: float              of the DDIM sampler that draws the picture again
    FOLLOWS: bool           whether the source branch of an edit is put back onto the trajectory after each step,
                            because guidance leads away from it
    NEEDS: tuple[str, ...]  fields of the Denoiser that may not be None; left out where nothing is needed
    GRADIENTS: bool         as of editing/base.py; left out by those that ask for none
    EACH: tuple[str, ...]   those of the arrays among the options that have one entry per picture; left out by most
    prepare(call, *, **options) -> dict[str, Any]     left out by those without options: makes invert's options out of
                            what a user says, on the host, checked; call is an inference.methods.Call
The denoiser is conditioned on the picture's own prompt. It does not know how a method is chosen
(inference/inversions.py), nor which editing method follows.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import log_alpha_bar, transfer
from ldm_jax.samplers.base import Edit, StepInfo, batch_t
from ldm_jax.types import Array, EpsFn


def levels(denoiser: Denoiser, t: Array, t_prev: Array, x: Array, end: Array | float) -> tuple[Array, Array]:
    """(log alphas_cumprod at t, and where its step leads), [] each, t_prev -1 leading to `end`."""
    return log_alpha_bar(denoiser.schedule, t, x), log_alpha_bar(denoiser.schedule, t_prev, x, end)


def steps(denoiser: Denoiser) -> tuple[Array, Array]:
    """(t [S], t_prev [S]): the visited timesteps, and where each leads, -1 after the last."""
    visited = denoiser.visited
    return visited, jnp.append(visited[1:], jnp.asarray(-1, visited.dtype))


def climb(
    denoiser: Denoiser, eps_fn: EpsFn, x_start: Array, end: Array | float, refinements: Array | int = 0
) -> Array:
    """[S + 1, B, h, w, c] float32: DDIM's steps run backwards from x_start, noisiest first.

    Each step asks for eps at the noisier timestep, which drawing again will ask at, of the picture that it
    starts from; each of the refinements asks again, of the picture that was found (`solve`).
    """

    refinements = jnp.asarray(refinements, jnp.int32)

    def step(x, at):
        t, t_prev = at
        log_bar, log_bar_prev = levels(denoiser, t, t_prev, x, end)

        def reach(estimate):
            eps, _ = eps_fn(estimate, batch_t(t, x))
            return transfer(x, eps, log_bar_prev, log_bar)

        found = solve(reach, x, refinements)
        return found, found

    _, above = lax.scan(step, x_start, steps(denoiser), reverse=True)
    return jnp.concatenate([above, x_start[None]])


def solve(reach: Callable[[Array], Array], x: Array, refinements: Array | int) -> Array:
    """An estimate [B, h, w, c] of the z for which reach(z) is z, after 1 + refinements evaluations from x.

    A fixed-point iteration. Pictures whose last two estimates swing about the solution, as they do long at steps that
    decide between two pictures, and where drawing again makes most of an error, go only a part of the last way: the
    one that would end the swing, by Aitken's rule for vectors (Irons & Tuck 1969). To the same end ReNoise
    (arXiv:2403.14602) averages estimates, and AIDI (arXiv:2309.04907) mixes them by Anderson's rule, for all pictures.
    """

    def dot(a, b):
        return (a * b).sum(tuple(range(1, x.ndim)), keepdims=True)

    def refine(_, state):
        _, estimate, led = state
        return estimate, led, reach(led)

    before, estimate, led = lax.fori_loop(0, refinements, refine, (x, x, reach(x)))
    first, last = estimate - before, led - estimate
    swings = dot(first, last) < 0
    change = first - last
    way = dot(first, change) / jnp.where(swings, dot(change, change), 1.0)
    return jnp.where(swings, estimate + way * last, led)


def following(denoiser: Denoiser, trajectory: Array) -> Edit:
    """The Edit that puts the first branch back onto the trajectory [B, S + 1, h, w, c] after each step.

    Of pictures without branches it changes nothing. Source: Tumanyan et al. 2023 (arXiv:2211.12572), whose
    source is the stored latents of the picture at each step; Ju et al. 2023 (arXiv:2310.01506).
    """

    def after(edited, x, taps, info):
        known = jnp.take(trajectory, denoiser.step_of(info.t) + 1, axis=1)
        return edited, x.at[: known.shape[0]].set(known) if denoiser.branches > 1 else x

    return Edit(after=after)


def prescribed(denoiser: Denoiser, noises: Array):
    """noise_fn of samplers: noises [B, S, h, w, c] of the step, the same for each branch."""

    def noise_fn(info: StepInfo, x: Array) -> Array:
        return jnp.concatenate([jnp.take(noises, denoiser.step_of(info.t), axis=1)] * denoiser.branches)

    return noise_fn
