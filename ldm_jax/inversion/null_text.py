"""Null-text inversion (Mokady et al. 2023, arXiv:2211.09794): the empty prompt is tuned, step by step, until
guidance leads back along DDIM's trajectory.

Source: algorithm 1 and google/prompt-to-prompt null_text_w_ptp.ipynb: Adam, whose rate falls to half over the
run, at most `steps` times, until the loss is below a bound that grows over the run; each step begins with
what the last one found, and with the picture that it led to. Here each picture stops by its own loss; an
average over the batch would make it depend on those beside it. The notebook's numbers for 50 steps are scaled
to the number of steps. Its bound begins at 1e-5 and ends at a hundred times that, an error of latents that Stable
Diffusion's autoencoder hides and one of less compression shows; here it begins at a tenth of it.
"""

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import transfer
from ldm_jax.inversion.base import climb, levels, steps
from ldm_jax.samplers.base import batch_t
from ldm_jax.types import Array

ETA = 0.0
FOLLOWS = False
NEEDS = ("uncond", "context")
GRADIENTS = True
ADAM = (0.9, 0.999, 1e-8)


def prepare(
    call, *, steps: float = 10, rate: float = 1e-2, tolerance: float = 1e-6, scale: float | None = None
) -> dict:
    """steps: of Adam at most, for each step of the sampler; 0 is plain guidance. rate: of Adam, at the first
    step. tolerance: mean squared error at which it stops, at the first step; the notebook's is 1e-5. scale: of
    guidance; None is the call's.

    Raises: ValueError for numbers out of range.
    """
    if steps != int(steps) or steps < 0:
        raise ValueError(f"null_text: steps is {steps}, expected a whole number of at least 0")
    for name, value in dict(rate=rate, tolerance=tolerance).items():
        if value < 0:
            raise ValueError(f"null_text: {name} is {value}, expected a number of at least 0")
    scale = call.guidance_scale if scale is None else scale
    return dict(steps_of_adam=int(steps), rate=rate, tolerance=tolerance, scale=scale)


def invert(
    denoiser: Denoiser,
    x_start: Array,
    keys: Array,
    end: Array | float,
    *,
    steps_of_adam: Array,
    rate: Array,
    tolerance: Array,
    scale: Array,
) -> dict:
    """S evaluations up, and at most S (2 + steps) down, of which all but one of each step have a backward pass."""
    pivots = climb(denoiser, denoiser.conditional, x_start, end)
    visited, t_prev = steps(denoiser)
    number = visited.shape[0]

    def step(carry, at):
        x, null = carry
        t, t_prev, pivot, place = at
        log_bar, log_bar_prev = levels(denoiser, t, t_prev, x, end)
        eps_c, _ = denoiser.conditional(x, batch_t(t, x))

        def landed(null):
            eps_u, _ = denoiser.eps(x, batch_t(t, x), denoiser.uncond.replace(context=null))
            return transfer(x, eps_u + scale * (eps_c - eps_u), log_bar, log_bar_prev)

        def errors(null):
            below = landed(null)
            return jnp.square(below - pivot).mean(tuple(range(1, x.ndim))), below

        bound = tolerance * (1 + 100 * place)
        null, x = adam(errors, null, x, steps_of_adam, rate * (1 - 0.5 * place), bound)
        return (x, null), (x, null)

    places = jnp.arange(number) / number
    begin = (pivots[0], denoiser.uncond.context.astype(jnp.float32))
    _, (below, nulls) = lax.scan(step, begin, (visited, t_prev, pivots[1:], places))
    return {"trajectory": jnp.concatenate([pivots[:1], below]), "uncond": {"context": nulls}}


def adam(errors, start: Array, below: Array, most: Array, rate: Array, bound: Array) -> tuple[Array, Array]:
    """(value, what errors gives beside its error): at most `most` steps of Adam (Kingma & Ba 2015), each entry until
    its error is below bound.

    errors: value [B, ...] -> ([B], an array like below). The last evaluation is of what is given back, and its backward
    pass is not used: another one behind the loop would share what it can with those before it, which is then kept while
    the loop runs (on a CPU 383 MB of Stable Diffusion 1's 801, biases that are spread over all cells).
    """
    b1, b2, tiny = ADAM

    def total(value):
        each, below = errors(value)
        return each.sum(), (each, below)

    def step(state):
        i, value, mean, square, active, _ = state
        (_, (each, below)), gradient = jax.value_and_grad(total, has_aux=True)(value)
        active &= (each >= bound) & (i < most)
        mean = b1 * mean + (1 - b1) * gradient
        square = b2 * square + (1 - b2) * gradient**2
        power = (i + 1).astype(jnp.float32)
        change = rate * (mean / (1 - b1**power)) / (jnp.sqrt(square / (1 - b2**power)) + tiny)
        moves = active.reshape(-1, *[1] * (value.ndim - 1))
        return i + 1, jnp.where(moves, value - change, value), mean, square, active, below

    zeros = jnp.zeros_like(start)
    begin = jnp.int32(0), start, zeros, zeros, jnp.ones(start.shape[0], bool), below
    _, value, _, _, _, below = lax.while_loop(lambda state: state[4].any(), step, begin)
    return value, below
