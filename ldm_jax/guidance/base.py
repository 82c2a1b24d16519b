"""What every guidance method has in common.

Each other file of this room is one method and has:
    guide(eps_fn, denoiser, *, **options) -> EpsFn    around eps_fn, which is the network under its condition or what the methods
                                  before this one made of it. It may call denoiser.network again. Options annotated `Array` or
                                  `PyTree` (trees of arrays) are arguments of the compiled program: no value of theirs compiles anew.
                                  All others are static, and hashable.
    around(sampler, denoiser, *, **options) -> Sampler     left out by most: what it does around a sampler's step, which is handed the
                                  guided eps_fn; options are guide's
    NEUTRAL: dict[str, Any]       options with which the method gives what eps_fn gives; {} where none do
    NEEDS: tuple[str, ...]        fields of the Denoiser that may not be None; left out where nothing is needed
    EACH: tuple[str, ...]         those of the arrays that have one entry per picture, or may have; left out where there are none
    CONDITIONS: tuple[str, ...]   options that are prompts; guide takes a tuple of K Conds for each, of the rows that are drawn, and
                                  prepare the K lists of prompts from call.conditions. Left out by most
    prepare(call, *, **options) -> dict[str, Any]     left out by most: makes guide's options out of what a user says, on the host,
                                  checked; call is an inference.methods.Call. None if they are neutral
A method that leaves values of its own among the taps names them 'guidance/<what>' (control.base.SHARED_TAPS).
One that calls the network again hands it the control that it was handed itself, so that an edit acts in all calls: a control is made for
the rows of a plain call, [branch, picture], which it takes for conditional ones, or of a doubled call, [uncond | cond, branch, picture].
It does not know how a method is chosen (inference/methods.py), nor which other methods are in use.
"""

from ldm_jax.control import rows
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.types import Array, Cond

UNCOND = (
    "guidance/uncond"  # among the taps of classifier-free guidance: eps of the unconditional half [B, ...]
)
COND = "guidance/cond"  # the same of the conditional half


def dot(a: Array, b: Array) -> Array:
    """The inner product of each example, [B, 1, ...] of a and b [B, ...]."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdims=True)


def per_row(scale: Array, x: Array, name: str = "scale") -> Array:
    """scale, [] or one per row [B], broadcastable against x [B, ...]. Raises: ValueError for another shape."""
    if scale.shape not in ((), x.shape[:1]):
        raise ValueError(f"{name}: got shape {scale.shape}, expected () or {x.shape[:1]}")
    return scale.reshape(scale.shape + (1,) * (x.ndim - 1)) if scale.ndim else scale


def unconditional(denoiser: Denoiser, x: Array, t: Array, cond: Cond, control=None) -> Array:
    """eps [B, ...] float32 under `cond` of rows that stand in the place of the unconditional half.

    A control acts there as it does on that half, for which the conditional half is computed beside it: of an edit this costs one
    evaluation more.
    """
    if control is None:
        return denoiser.eps(x, t, cond)[0]
    return both(denoiser, x, t, (cond, denoiser.cond), control)[0]


def both(
    denoiser: Denoiser, x: Array, t: Array, conds: tuple[Cond, Cond], control=None
) -> tuple[Array, Array]:
    """eps [B, ...] float32 of an unconditional and a conditional half under `conds`, from one doubled call."""
    out, _ = denoiser.network(
        rows.join_halves(x, x), rows.join_halves(t, t), rows.join_conds(*conds), control
    )
    return tuple(denoiser.to_eps(x, t, half) for half in rows.split_halves(out))
