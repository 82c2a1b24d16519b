"""What multistep samplers remember of the steps before, and the polynomial through it.

Decides how many of the earlier values count. Knows nothing of what the values are, nor of the variable in which the
polynomial is integrated: deis, lms and dpm_solver each do that in their own.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.types import Array


class History(NamedTuple):
    """values: [n, B, ...] float32, newest first. places: [n] float32, where on the line of the variable they were
    taken. known: [] int32, how many of them count.
    """

    values: Array
    places: Array
    known: Array

    @classmethod
    def empty(cls, x: Array, length: int) -> "History":
        """Nothing known, of values like x [B, ...]."""
        return cls(jnp.zeros((length, *x.shape), jnp.float32), jnp.zeros(length, jnp.float32), jnp.int32(0))

    def at(self, place: Array) -> "History":
        """What counts at `place` []: nothing where the last step led nowhere (a timestep visited twice)."""
        if not len(self.places):
            return self
        moved = place != self.places[0]
        return self._replace(known=jnp.where(moved, self.known, 0))

    def with_next(self, value: Array, place: Array) -> "History":
        """The history once value [B, ...] was taken at place []; the oldest is forgotten."""
        length = len(self.places)
        return History(
            jnp.concatenate([value[None].astype(jnp.float32), self.values])[:length],
            jnp.concatenate([jnp.reshape(place, (1,)), self.places])[:length],
            jnp.minimum(self.known + 1, length),
        )

    def divided_differences(self, value: Array, place: Array, most: Array | int) -> list[Array]:
        """Newton's divided differences [B, ...] of first, second, … order of `value` at `place` and the n values
        before: those of more than `most` points before, or of more than count, are 0.
        """
        length = len(self.places)
        values = [value.astype(jnp.float32), *self.values]
        places = [jnp.reshape(place, ()), *self.places]
        usable = jnp.minimum(self.known, most)
        found = []
        for order in range(1, length + 1):
            widths = [places[i] - places[i + order] for i in range(length + 1 - order)]
            values = [
                (values[i] - values[i + 1]) / jnp.where(width == 0, 1.0, width)
                for i, width in enumerate(widths)
            ]
            found.append(jnp.where(usable >= order, values[0], 0.0))
        return found
