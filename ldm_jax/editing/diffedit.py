"""DiffEdit (Couairon et al. 2022, arXiv:2210.11427): a mask is found by asking twice, and only inside of it
is the picture drawn anew.

Decides which cells change: those where the noise that the edited prompt sees differs from what the source's
sees. Outside of them the picture follows the trajectory that it was inverted to, at every step. Source:
section 3.2, and what the paper leaves open from diffusers' StableDiffusionDiffEditPipeline: the picture is
noised to half of the timesteps by several noises, the same for both prompts, differences above 3 times their
mean are cut off there. (There the mean is the batch's; here each picture has its own. There guidance acts in
both predictions, which scales their difference, and so its mean: here the conditions alone are compared.) The
encoding is unconditional.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import q_sample
from ldm_jax.samplers.base import Edit, batch_t, step_noise
from ldm_jax.types import Array, Cond

NEUTRAL = dict(mask=1.0)
CONDITIONS = ("source",)
NEEDS = ("context",)
EACH = ("trajectory", "mask")
INVERSION = {"ddim": {"prompt": ""}}
CLIP = 3.0  # times the mean, above which a difference is cut off


def prepare(
    call, *, source, mask=None, level: float = 0.5, threshold: float = 0.5, num_noises: int = 10
) -> dict | None:
    """source: the reference prompt, or one for each picture; "" is any. mask: [h, w] or [N, h, w] in [0, 1], of latent cells that change,
    in the place of the one that is found; 1 is plain drawing of the inverted picture. level: the fraction of
    the timesteps that the picture is noised to. threshold: of the differences, which end at 1. num_noises:
    whose differences are averaged.

    Raises: ValueError for numbers out of range, a mask of another size, and where no given picture is edited.
    """
    for name, value in dict(level=level, threshold=threshold).items():
        if not 0 <= value <= 1:
            raise ValueError(f"diffedit: {name} is {value}, expected a number from 0 to 1")
    if num_noises != int(num_noises) or num_noises < 1:
        raise ValueError(f"diffedit: num_noises is {num_noises}, expected a whole number of at least 1")
    if call.inverted is None:
        raise ValueError("diffedit: there is no image, expected the picture that is edited")
    number, (height, width, _) = call.num_pictures, call.latent_shape
    given = np.zeros((), np.float32) if mask is None else np.asarray(mask, np.float32)
    if given.shape not in ((), (height, width), (number, height, width)):
        raise ValueError(
            f"diffedit: the mask has shape {given.shape}, expected {(height, width)}, the latent's cells"
        )
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError("diffedit: the mask has values out of range, expected numbers from 0 to 1")
    if mask is not None and (given == 1).all():
        return None
    return dict(
        source=call.conditions([source], "diffedit: source"),
        trajectory=call.inverted["trajectory"],
        mask=np.broadcast_to(given, (number, height, width))[..., None],
        timestep=np.int32(min(round(level * call.num_timesteps), call.num_timesteps - 1)),
        threshold=threshold,
        finds=mask is None,
        num_noises=int(num_noises),
    )


def edit(
    denoiser: Denoiser,
    *,
    source: tuple[Cond, ...],
    trajectory: Array,
    mask: Array,
    timestep: Array,
    threshold: Array,
    finds: bool = True,
    num_noises: int = 10,
) -> Edit:
    """source: one Cond of B rows. trajectory: [B, S + 1, h, w, c]. mask: [B, h, w, 1] float32, used unless finds.
    timestep: [] at which it is found. threshold: []."""
    clean = trajectory[:, -1]

    def find(info) -> Array:
        conds = rows.join_conds(source[0], denoiser.cond)

        def difference(i, total):
            keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(info.key)
            noised = q_sample(denoiser.schedule, clean, timestep, step_noise(keys, clean.shape, "diffedit"))
            both = rows.join_halves(noised, noised)
            eps, _ = denoiser.eps(both, batch_t(timestep.astype(info.t.dtype), both), conds)
            before, after = rows.split_halves(eps)
            return total + jnp.abs(after - before).mean(-1, keepdims=True)

        found = lax.fori_loop(0, num_noises, difference, jnp.zeros((*clean.shape[:3], 1))) / num_noises
        most = CLIP * found.mean((1, 2, 3), keepdims=True)
        return (jnp.minimum(found, most) > threshold * most).astype(jnp.float32)

    def before(edited, x, info, eps_fn):
        return (lax.cond(info.index == 0, lambda: find(info), lambda: edited) if finds else edited), x

    def after(edited, x, taps, info):
        known = jnp.take(trajectory, denoiser.step_of(info.t) + 1, axis=1)
        return edited, jnp.where(edited > 0.5, x, known)

    return Edit(
        init=lambda x_T: mask, before=before, after=after, shows=lambda edited: {"mask": edited[..., 0]}
    )
