"""The network of one sampling run with what it is conditioned on: all that guidance, editing and inversion are handed.

Decides how a raw prediction becomes eps. It knows no method, and not how the batch of a method is laid out
(control/rows.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.diffusion.process import check_prediction_type, x_start_and_eps
from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.types import Array, Cond


class Denoiser(NamedTuple):
    """network: (x [R, ...], t [R], cond of R rows, control) -> (prediction [R, ...], taps): the raw network, any number
    of rows.

    cond, uncond: of the rows that are drawn; uncond is None where no method asks for it. prediction_type: 'eps', 'v' or
    'x_start'.
    visited: [S] timesteps of the run, descending. branches: rows per picture, such as source and target; row b * B + i
    belongs to branch b of picture i (control/rows.py). uncond_steps: fields of uncond that differ from step to step,
    [S, R, ...], such as the contexts of null-text inversion; None: none do. decode: scaled latents [R, h, w, c] ->
    images [R, H, W, 3] in about [-1, 1]; encode: the other way, the posterior's mode; None where there is none.
    under: (another network, its parameters {'unet', 'conditioner'}) -> the Denoiser of it under the same condition,
    without one to lead away from; None where there is none.
    """

    network: Callable
    cond: Cond
    uncond: Cond | None
    schedule: NoiseSchedule
    prediction_type: str
    visited: Array
    branches: int = 1
    uncond_steps: dict[str, Array] | None = None
    decode: Callable | None = None
    encode: Callable | None = None
    under: Callable | None = None

    def to_eps(self, x: Array, t: Array, prediction: Array) -> Array:
        """The prediction [B, ...] at x [B, ...], t [B] as eps, float32. Raises: ValueError for an unknown
        prediction_type."""
        check_prediction_type(self.prediction_type)
        return x_start_and_eps(self.schedule, x, t, prediction.astype(jnp.float32), self.prediction_type)[1]

    def x_start(self, x: Array, t: Array, eps: Array) -> Array:
        """The clean latents [B, ...] that eps means at x [B, ...], t [B]; float32."""
        return x_start_and_eps(self.schedule, x, t, eps, "eps")[0]

    def eps(self, x: Array, t: Array, cond: Cond, control=None) -> tuple[Array, dict]:
        """The network's eps [R, ...] float32 under `cond`, and its taps."""
        prediction, taps = self.network(x, t, cond, control)
        return self.to_eps(x, t, prediction), taps

    def conditional(self, x: Array, t: Array, control=None) -> tuple[Array, dict]:
        """The EpsFn without guidance: the condition alone, one row per row."""
        return self.eps(x, t, self.cond, control)

    def uncond_at(self, t: Array) -> Cond | None:
        """uncond of the step at t [B] or []."""
        if not self.uncond_steps:
            return self.uncond
        place = self.step_of(t)
        return self.uncond.replace(**{name: value[place] for name, value in self.uncond_steps.items()})

    def step_of(self, t: Array) -> Array:
        """[] int32, the place of t [B] or [] among the visited timesteps: the nearest, for samplers that look between
        two."""
        return jnp.argmin(jnp.abs(self.visited - jnp.ravel(t)[0]))
