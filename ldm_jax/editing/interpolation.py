"""Pictures between two pictures: their noise interpolated on the sphere, their prompts' contexts on the line.

Decides what lies between: x_T by slerp, as noise of a smaller norm than a network was trained on draws gray (White 2016,
arXiv:1609.04468; Song et al. 2021, arXiv:2010.02502, section 5.3 and appendix D.5), contexts by lerp. With a deterministic sampler
pictures change smoothly with the share. The picture itself is at share 0, the other one, of `prompt` and `seed`, at 1.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.samplers.base import Edit, keys_of, step_noise
from ldm_jax.types import MAX_SEED, Array, Cond

NEUTRAL = dict(share=0.0)
EACH = ("share", "seeds")
CONDITIONS = ("prompt",)


def prepare(call, *, share=0.5, prompt=None, seed=None) -> dict | None:
    """share: in [0, 1], a number or one for each picture. prompt: the other picture's, or one for each; None is the same. seed: the
    other picture's, or one for each; None is the same noise.

    Raises: ValueError for a share out of range, a seed that is none, and neither a prompt nor a seed.
    """
    shares = call.each(share, "interpolation: share")
    if (shares < 0).any() or (shares > 1).any():
        raise ValueError(f"interpolation: share is {share!r}, expected numbers from 0 to 1")
    if prompt is None and seed is None:
        raise ValueError("interpolation: expected a prompt or a seed, of the other picture")
    seeds = np.broadcast_to(np.asarray(0 if seed is None else seed), (call.num_pictures,))
    if seeds.dtype.kind not in "iu" or seeds.min() < 0 or seeds.max() > MAX_SEED:
        raise ValueError(
            f"interpolation: seed is {seed!r}, expected a whole number from 0 to {MAX_SEED}, or one for each picture"
        )
    if not shares.any():
        return None
    options = dict(share=shares, seeds=seeds.astype(np.uint32), moves_noise=seed is not None)
    if prompt is None:
        return options
    each = prompt if isinstance(prompt, str) else [prompt]
    return options | dict(prompt=call.conditions(each, "interpolation: prompt"))


def recondition(denoiser: Denoiser, *, share: Array, prompt: tuple[Cond, ...] = ()) -> Denoiser:
    """cond + share (other - cond), of its context and of a vector of numbers. share: [B] float32."""
    for other in prompt:
        at = jnp.tile(share, denoiser.branches)

        def between(ours, theirs, at=at):
            if ours is None or not jnp.issubdtype(ours.dtype, jnp.floating):
                return ours
            return ours + at.reshape(-1, *[1] * (ours.ndim - 1)) * (theirs - ours)

        cond = denoiser.cond
        denoiser = denoiser._replace(
            cond=cond.replace(
                context=between(cond.context, other.context), vector=between(cond.vector, other.vector)
            )
        )
    return denoiser


def edit(denoiser: Denoiser, *, share: Array, seeds: Array, moves_noise: bool = True) -> Edit:
    """x_T, before the first step, between itself and the noise of seeds [B] uint32."""
    if not moves_noise:
        return Edit()

    def before(edited, x, info, eps_fn):
        keys = keys_of(jnp.tile(seeds, denoiser.branches))
        moved = slerp(x, step_noise(keys, x.shape, "x_T"), jnp.tile(share, denoiser.branches))
        return edited, jnp.where(info.index == 0, moved, x)

    return Edit(before=before)


def slerp(a: Array, b: Array, share: Array) -> Array:
    """a, b [B, ...], share [B] -> [B, ...]: along the arc between them (Shoemake 1985), along the line where they are parallel.

    The angle is that of the flattened, normalized arrays; at 0 and 1 it is a and b to the bit.
    """
    axes = tuple(range(1, a.ndim))
    lengths = jnp.sqrt((a**2).sum(axes) * (b**2).sum(axes))
    angle = jnp.arccos(jnp.clip((a * b).sum(axes) / jnp.maximum(lengths, 1e-20), -1.0, 1.0))
    sine = jnp.sin(angle)
    flat = sine < 1e-4
    weights = [
        jnp.where(flat, line, jnp.sin(line * angle) / jnp.where(flat, 1.0, sine))
        for line in (1 - share, share)
    ]
    shape = (-1,) + (1,) * (a.ndim - 1)
    return weights[0].reshape(shape) * a + weights[1].reshape(shape) * b
