"""ACE (Jeanneret et al. 2023, arXiv:2303.09962): a counterfactual explanation from an adversarial attack that the diffusion model filters.

Decides what of a picture has to change for a classifier of clean pictures to say something else, and draws that part anew. An attack
on the picture alone ends in noise that no one sees; here the classifier sees what a short run makes of the noised picture, which only
attacks survive that mean something. Of `init_images` at a `strength` below 1, which is how far the attacked picture is noised.
Source: section 3 and figure 2; guillaumejs2403/ACE core/attacks_and_models.py and main.py. There pixels are moved, by the sign of the
gradient of the loss and a distance; here latents, by the loss' gradient over its root mean square and at most by 1, and each step then shrinks all
changes (Beck & Teboulle 2009, the proximal step of the same distance), both less the nearer the classifier is to being convinced: cells of no account
stay at 0, which a sign moves as far as others.
Outside of the
mask the latents are the picture's at every step and at the end; pixels are pasted there by inference/counterfactuals.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.guidance import losses
from ldm_jax.guidance.dime import explained, looked_ahead
from ldm_jax.samplers.base import Edit, batch_t, step_noise
from ldm_jax.types import Array, PyTree

NEUTRAL = dict(iterations=0)
EACH = ("target", "image")
GRADIENTS = True
LARGEST_GROWTH = 31  # pixels


def prepare(
    call,
    *,
    image,
    target,
    leave=None,
    classifier="shapes_classifier",
    iterations=25,
    rate: float = 0.15,
    distance: float = 0.4,
    threshold: float = 0.25,
    growth=5,
    filter_steps=3,
) -> dict | None:
    """image, target, leave, classifier: as of guidance/dime.py. The others: as of `edit`.

    Raises: ValueError for what is no label or picture, and for numbers out of range.
    """
    iterations = losses.whole(iterations, "ace: iterations", 0)
    if rate <= 0 or distance < 0 or not 0 <= threshold <= 1:
        raise ValueError(
            f"ace: rate is {rate}, distance is {distance} and threshold is {threshold}, expected more than 0, 0 or more, "
            "and a number from 0 to 1"
        )
    growth = losses.whole(growth, "ace: growth")
    if growth % 2 == 0 or growth > LARGEST_GROWTH:
        raise ValueError(f"ace: growth is {growth}, expected an odd number of pixels up to {LARGEST_GROWTH}")
    if iterations == 0:
        return None
    asked, shown = explained(call, "ace", image, target, leave, classifier)
    return dict(
        loss=asked.loss, target=asked.target, fixed=asked.fixed, image=shown, iterations=iterations, rate=rate,
        distance=distance, threshold=threshold, growth=growth, filter_steps=losses.whole(filter_steps, "ace: filter_steps"),
    )  # fmt: skip


def edit(
    denoiser: Denoiser,
    *,
    loss: Callable,
    target: PyTree,
    fixed: PyTree,
    image: Array,
    iterations: Array = 25,
    rate: Array = 0.15,
    distance: Array = 0.4,
    threshold: Array = 0.25,
    growth: int = 5,
    filter_steps: int = 3,
) -> Edit:
    """loss: (images [B, H, W, 3], target, fixed) -> [B]; target: arrays with an entry per picture. image: [B, H, W, 3] in [-1, 1].
    iterations of the attack, each of which moves the latents by `rate` at most, and costs filter_steps evaluations of the network forward
    and back. distance: the share of the longest move that every change shrinks by in an iteration. threshold: of the largest change of a pixel, in [0, 1], below which it
    stays; growth: pixels of the square by which what changes is widened, odd.
    """
    target, image = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * denoiser.branches), (target, image))
    clean = denoiser.encode(image)

    def attacked(info, eps_fn):
        """1. The latents that the classifier calls otherwise, as it sees what the model makes of them."""

        def cost(change, key):
            noised = q_sample(denoiser.schedule, clean + change, info.t, step_noise(key, clean.shape, "ace"))
            filtered = looked_ahead(denoiser, eps_fn, noised, batch_t(info.t, clean), filter_steps)
            each = loss(denoiser.decode(filtered), target, fixed)
            return each.sum(), each

        def step(number, change):
            key = jax.vmap(lambda k: jax.random.fold_in(k, number))(info.key)
            gradient, each = jax.grad(cost, has_aux=True)(change, key)
            usual = jnp.sqrt(jnp.square(gradient).mean((1, 2, 3), keepdims=True))
            direction = jnp.clip(gradient / jnp.maximum(usual, 1e-20), -1, 1)
            doubt = -jnp.expm1(-each).reshape(-1, 1, 1, 1)  # 1 less the probability of what is asked for
            change = change - rate * doubt * direction
            return jnp.sign(change) * jnp.maximum(jnp.abs(change) - rate * doubt * distance, 0)

        return jax.lax.fori_loop(0, jnp.asarray(iterations, jnp.int32), step, jnp.zeros_like(clean))

    def where_changed(change):
        """2. [B, H, W] float32, 1 at pixels that change, and around them."""
        moved = jnp.abs(denoiser.decode(clean + change) - denoiser.decode(clean)).sum(-1)
        moved = moved / jnp.maximum(moved.max((1, 2), keepdims=True), 1e-20)
        wide = jax.lax.reduce_window(moved, 0.0, jax.lax.max, (1, growth, growth), (1, 1, 1), "SAME")
        return (wide > threshold).astype(jnp.float32)

    def kept(mask):
        """[B, h, w, 1], 1 for latent cells without any pixel that changes."""
        b, h, w, _ = clean.shape
        return 1 - mask.reshape(b, h, mask.shape[1] // h, w, mask.shape[2] // w).max((2, 4))[..., None]

    def init(x_T):
        return jnp.ones(image.shape[:3], jnp.float32)

    def before(mask, x, info, eps_fn):
        noise = step_noise(info.key, clean.shape, "ace_known")

        def begin():
            change = attacked(info, eps_fn)
            return where_changed(change), q_sample(denoiser.schedule, clean + change, info.t, noise)

        mask, x = jax.lax.cond(info.index == 0, begin, lambda: (mask, x))
        keep = kept(mask)
        # 3. Drawn anew where it changes: elsewhere the picture's own latents at this level.
        return mask, keep * q_sample(denoiser.schedule, clean, info.t, noise) + (1 - keep) * x

    def after(mask, x, taps, info):
        # 4. The picture itself elsewhere.
        keep = kept(mask)
        return mask, jnp.where(info.t_prev < 0, keep * clean + (1 - keep) * x, x)

    def shows(mask):
        return {"mask": mask[-(mask.shape[0] // denoiser.branches) :]}

    return Edit(init=init, before=before, after=after, shows=shows)
