"""DiME (Jeanneret et al. 2022, arXiv:2203.15636): a counterfactual explanation, what would have to be different in a picture for a
classifier of clean pictures to say something else.

Decides how a run that starts from the noised picture is led: towards a label, by the classifier's gradient at a clean prediction, and back
towards the picture. Around any other guidance, of `init_images` at a `strength` below 1; inference/counterfactuals.py tries scales until
the classifier is convinced. Source: algorithm 1 and equations 5 to 7; guillaumejs2403/DiME core/sample_utils.py. The gradient does not go
through the network, and is divided by sqrt(alphas_cumprod), as there. There a clean prediction is the end of a whole run; here it is
`lookahead` steps ahead, 1 being the fast variant. There a term of VGG19's features and one of |x_t - image| hold the picture; here it
is |prediction - image| in pixels: latents are not what is to stay. The gradient is added to eps, which in an ancestral step shifts the
mean by it times the variance of the step, as there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import log_alpha_bar, signal_and_noise, transfer
from ldm_jax.guidance import losses
from ldm_jax.guidance.universal import shortened
from ldm_jax.types import Array, EpsFn, PyTree

NEUTRAL = dict(scale=0.0)
EACH = ("target", "image")


def prepare(
    call,
    *,
    image,
    target,
    leave=None,
    classifier="shapes_classifier",
    scale: float = 8.0,
    distance: float = 0.1,
    clip: float = 1.0,
    lookahead=1,
) -> dict | None:
    """image: the picture that is explained, or one for each. target, leave, classifier: as of the loss `class` (losses.py): the label that
    the picture is to get, one that it is to lose, and who says so. The others: as of `guide`.

    Raises: ValueError for what is no label or picture, and for numbers out of range.
    """
    if scale == 0:
        return None
    if clip <= 0 or distance < 0:
        raise ValueError(
            f"dime: clip is {clip} and distance is {distance}, expected more than 0, and 0 or more"
        )
    asked, shown = explained(call, "dime", image, target, leave, classifier)
    return dict(
        loss=asked.loss, target=asked.target, fixed=asked.fixed, image=shown, scale=scale, distance=distance, clip=clip,
        lookahead=losses.whole(lookahead, "dime: lookahead"),
    )  # fmt: skip


def explained(call, name: str, image, target, leave, classifier):
    """(the loss, the pictures [N, H, W, 3] float32): what DiME and ACE are told. name: the method's, in messages."""
    options = {} if leave is None else dict(leave=leave)
    asked = losses.prepare(call, "class", target, dict(options, classifier=classifier))
    shown = losses.one_each(call, image, call.picture, f"{name}: image")
    if shown.shape[1:3] != tuple(call.image_shape):
        raise ValueError(
            f"{name}: image is {shown.shape[1]} x {shown.shape[2]}, expected {call.image_shape[0]} x "
            f"{call.image_shape[1]}, the size that is drawn"
        )
    return asked, shown


def guide(
    eps_fn: EpsFn,
    denoiser: Denoiser,
    *,
    loss: Callable,
    target: PyTree,
    fixed: PyTree,
    image: Array,
    scale: Array = 8.0,
    distance: Array = 0.1,
    clip: Array = 1.0,
    lookahead: Array = 1,
) -> EpsFn:
    """eps + sigma / signal grad (s loss(picture) + l |picture - image|_1), at the predicted clean latents.

    One backward pass through the decoder and the classifier, and lookahead - 1 more calls of the network.
    loss: (images [B, H, W, 3], target, fixed) -> [B]; target: arrays with an entry per picture. image: [B, H, W, 3] in [-1, 1]. scale: s, 0
    is off. distance: l, of a sum over pixels. clip: the longest that what is added may be, in lengths of eps.
    """
    target, image = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * denoiser.branches), (target, image))

    def cost(x_start):
        images = denoiser.decode(x_start)
        return (scale * loss(images, target, fixed) + distance * jnp.abs(images - image).sum((1, 2, 3))).sum()

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        x_start = looked_ahead(denoiser, eps_fn, x, t, lookahead, eps)
        signal, sigma = signal_and_noise(denoiser.schedule, t, x)
        return eps + shortened(sigma / signal * jax.grad(cost)(x_start), clip, eps), taps

    return guided


def looked_ahead(
    denoiser: Denoiser, eps_fn: EpsFn, x: Array, t: Array, steps: Array, eps: Array | None = None
) -> Array:
    """The clean latents [B, ...] that `steps` steps of DDIM lead to from x at t [B], evenly over the timesteps; eps: of x, if known.

    steps: a whole number, traced or not; a gradient goes through a python number of them alone.
    """
    steps = steps if isinstance(steps, int) else jnp.asarray(steps, jnp.int32)

    def level(number):  # [B], the timestep after `number` of the steps
        return (
            t * (steps - number) // steps
            if jnp.issubdtype(t.dtype, jnp.integer)
            else t * (1 - number / steps)
        )

    def step(number, x, eps=None):
        now = level(number)
        eps = eps_fn(x, now)[0] if eps is None else eps
        there = jnp.where(number + 1 < steps, level(number + 1), -1)
        return transfer(x, eps, *(log_alpha_bar(denoiser.schedule, at, x) for at in (now, there)))

    x = step(0, x, eps)
    if isinstance(steps, int):
        return jax.lax.scan(lambda x, number: (step(number, x), None), x, jnp.arange(1, steps))[0]
    return jax.lax.fori_loop(1, steps, step, x)
