"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): away from the unconditional prediction.

Decides how the two answers of one doubled call are combined. It combines whatever the network predicts, eps or v, as the original
does. It knows nothing of what conditions a network, or of samplers.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance.base import COND, UNCOND, both, per_row
from ldm_jax.types import Array, Cond, EpsFn

NEUTRAL = dict(scale=1.0)
NEEDS = ("uncond",)
EACH = ("scale",)
REPLACES_CLASSIFIER_FREE = True


def prepare(call, *, scale=None) -> dict | None:
    """scale: a number, or one for each picture; None is the call's guidance_scale, which is guided by without this method as well."""
    if scale is None or (np.ndim(scale) == 0 and scale == call.guidance_scale):
        return None
    return dict(scale=call.each(scale, "classifier_free: scale"))


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, scale: Array = 1.0) -> EpsFn:
    """uncond + s (cond - uncond), from one doubled call; eps_fn, the condition alone, is not called.

    What the network records, and what control sees, has the doubled batch, the unconditional half first.
    scale: s, [] or one per row [B] float32. 1 is no guidance (to rounding: eps_fn is exactly that, at half the cost), 0 is
      unconditional. The paper's weight is w = s - 1. Of several branches, [B] is of the pictures and holds for each.
    Raises: ValueError if denoiser's uncond and cond differ in fields or shapes, or s has another shape.
    """
    scale = jnp.asarray(scale, jnp.float32)
    scale = jnp.tile(scale, denoiser.branches) if scale.ndim else scale

    def combine(uncond, cond, t):
        return uncond + per_row(scale, cond) * (cond - uncond)

    return combined(denoiser, combine)


def combined(denoiser: Denoiser, combine) -> EpsFn:
    """The EpsFn of combine(uncond, cond, t): of the network's predictions [B, ...] float32 for both halves, one doubled call.

    The halves' own eps are left among the taps for methods around this one (guidance/base.py); unused, they are not computed.
    """
    fixed = None if denoiser.uncond_steps else rows.join_conds(denoiser.uncond, denoiser.cond)

    def guided(x, t, control=None):
        conds = rows.join_conds(denoiser.uncond_at(t), denoiser.cond) if fixed is None else fixed
        out, taps = denoiser.network(rows.join_halves(x, x), rows.join_halves(t, t), conds, control)
        uncond, cond = rows.split_halves(out.astype(jnp.float32))
        halves = {UNCOND: denoiser.to_eps(x, t, uncond), COND: denoiser.to_eps(x, t, cond)}
        return denoiser.to_eps(x, t, combine(uncond, cond, t)), taps | halves

    return guided


def further(
    denoiser: Denoiser, x: Array, t: Array, taps: dict, conds: tuple[Cond, ...], control=None
) -> tuple[Array, list[Array]]:
    """(eps of the unconditional half, eps under each of conds), [B, ...] float32, from one call of the network of all these rows; with
    a control from one for each of conds, in which it acts as on the conditional half.

    The unconditional half is taken from the taps where classifier-free guidance left it there.
    """
    if control is not None:
        if UNCOND in taps:
            return taps[UNCOND], [denoiser.eps(x, t, cond, control)[0] for cond in conds]
        uncond, first = both(denoiser, x, t, (denoiser.uncond_at(t), conds[0]), control)
        return uncond, [first, *(denoiser.eps(x, t, cond, control)[0] for cond in conds[1:])]
    asked = conds if UNCOND in taps else (denoiser.uncond_at(t), *conds)
    number = len(asked)
    many = (jnp.concatenate([value] * number) for value in (x, t))
    out = denoiser.eps(*many, rows.join_conds(*asked))[0]
    found = jnp.split(out, number)
    return (taps[UNCOND], found) if UNCOND in taps else (found[0], found[1:])
