"""Universal guidance (Bansal et al. 2023, arXiv:2302.07121): towards whatever a function of the clean picture asks for.

Decides how a loss of the predicted picture leads a sampling run: through the network (forward), beside it (backward), and by going
through a step several times. What can be asked for is losses.py's. With the loss `image` and no backward steps it is the image guiding of
Rombach et al. 2022 (arXiv:2112.10752, appendix C). Around any other guidance. Source: algorithm 1 and equations 6 to 8;
arpitbansal297/Universal-Guided-Diffusion, whose loss is a mean over the batch: here it is each picture's own, so that a picture does not
depend on those beside it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import log_alpha_bar, signal_and_noise
from ldm_jax.guidance import losses
from ldm_jax.guidance.base import dot
from ldm_jax.samplers.base import Sampler, step_noise
from ldm_jax.types import Array, EpsFn, PyTree

NEUTRAL = dict(scale=0.0, backward_steps=0, repeats=1)
EACH = ("target",)


def prepare(
    call,
    *,
    loss,
    target=None,
    scale: float = 1.0,
    clip: float = 1.0,
    backward_steps=0,
    backward_rate: float = 0.01,
    repeats=1,
    classifier=None,
    layers=None,
    palette=None,
    background=None,
    temperature=None,
    leave=None,
) -> dict | None:
    """loss: the name of one in losses.py, or a function of images [B, H, W, 3] in about [-1, 1] that gives [B]. target, classifier,
    layers, palette, background, temperature, leave: what that loss takes (losses.py). The others: as of `guide`.

    Raises: ValueError for a loss that is none or that does not have these options, and for numbers out of range.
    """
    backward_steps = losses.whole(backward_steps, "universal: backward_steps", 0)
    repeats = losses.whole(repeats, "universal: repeats")
    for name, value in (("clip", clip), ("backward_rate", backward_rate)):
        if value <= 0:
            raise ValueError(f"universal: {name} is {value}, expected a number above 0")
    if scale == 0 and backward_steps == 0 and repeats == 1:
        return None
    options = dict(
        classifier=classifier, layers=layers, palette=palette, background=background, temperature=temperature,
        leave=leave,
    )  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    asked = losses.prepare(call, loss, target, given)
    return dict(
        loss=asked.loss, target=asked.target, fixed=asked.fixed, scale=scale, clip=clip, repeats=repeats,
        backward_steps=backward_steps, backward_rate=backward_rate, backward=backward_steps > 0,
    )  # fmt: skip


def guide(
    eps_fn: EpsFn,
    denoiser: Denoiser,
    *,
    loss: Callable,
    target: PyTree,
    fixed: PyTree,
    scale: Array = 1.0,
    clip: Array = 1.0,
    backward: bool = False,
    backward_steps: Array = 0,
    backward_rate: Array = 0.01,
    repeats: Array = 1,
) -> EpsFn:
    """eps + s sigma grad_x loss(picture(x)), and eps - signal / sigma Delta, where Delta makes the loss of the picture smaller.

    One backward pass through the network and the decoder per step, and with `backward` one through the decoder for each of its steps.
    loss: (images [B, H, W, 3], target, fixed) -> [B]; target: arrays with an entry per picture; fixed: arrays that are not, such as
    parameters. scale: s, 0 is off. clip: the longest that s sigma grad may be, in lengths of eps. backward_steps: a whole number, of Adam, from
    Delta = 0, at backward_rate. repeats: as of `around`.
    """
    target = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * denoiser.branches), target)

    def of_picture(x_start):
        return loss(denoiser.decode(x_start), target, fixed)

    def guided(x, t, control=None):
        signal, sigma = signal_and_noise(denoiser.schedule, t, x)

        # 1. Forward: the gradient through the network.
        def predicted(x):
            eps, taps = eps_fn(x, t, control)
            return of_picture(denoiser.x_start(x, t, eps)).sum(), (eps, taps)

        gradient, (eps, taps) = jax.grad(predicted, has_aux=True)(x)
        out = eps + shortened(scale * sigma * gradient, clip, eps)
        if not backward:
            return out, taps

        # 2. Backward: the clean picture that the loss would rather have.
        x_start = denoiser.x_start(x, t, out)
        delta = descended(lambda d: of_picture(x_start + d).sum(), x_start, backward_steps, backward_rate)
        return out - signal / sigma * delta, taps

    return guided


def around(sampler: Sampler, denoiser: Denoiser, *, repeats: Array = 1, **others) -> Sampler:
    """The sampler, each of whose steps is made `repeats` times, a whole number: with noise for what it took away in between.

    3. x_t = sqrt(a_t / a_prev) x_prev + sqrt(1 - a_t / a_prev) noise. What a sampler remembers is of the last time.
    """

    def step(eps_fn, state, x, info):
        log_bar, log_bar_prev = (log_alpha_bar(denoiser.schedule, t, x) for t in (info.t, info.t_prev))
        kept = log_bar - log_bar_prev

        def again(number, carry):
            x, _ = carry
            out = sampler.step(eps_fn, state, x, info)
            key = jax.vmap(lambda k: jax.random.fold_in(k, number))(info.key) if info.key.ndim else info.key
            noise = step_noise(key, x.shape, "universal")
            return jnp.exp(0.5 * kept) * out[1] + jnp.sqrt(-jnp.expm1(kept)) * noise, out

        shapes = jax.eval_shape(lambda x: sampler.step(eps_fn, state, x, info), x)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, jnp.asarray(repeats, jnp.int32), again, (x, nothing))[1]

    return sampler._replace(step=step)


def shortened(a: Array, clip: Array, eps: Array) -> Array:
    """a [B, ...], at most clip times as long as eps [B, ...], example by example; 0 where it is not finite."""
    a = jnp.where(jnp.isfinite(a), a, 0.0)
    length, most = jnp.sqrt(dot(a, a)), clip * jnp.sqrt(dot(eps, eps))
    return a * jnp.minimum(1.0, most / jnp.maximum(length, 1e-20))


def descended(value: Callable[[Array], Array], like: Array, steps: Array, rate: Array) -> Array:
    """Where Adam gets from 0 in `steps` steps down `value`, whose argument has the shape of `like`."""
    zeros = jnp.zeros_like(like)
    adam = optax.scale_by_adam()

    def down(_, carry):
        delta, state = carry
        update, state = adam.update(jax.grad(value)(delta), state)
        return delta - rate * update, state

    return jax.lax.fori_loop(0, jnp.asarray(steps, jnp.int32), down, (zeros, adam.init(zeros)))[0]
