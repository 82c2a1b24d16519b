"""What may touch the inside of a network: the named places (Site) and what is done there (Control).

A Control is an argument of the network. Its class is in the treedef and its numbers are leaves, so that jit caches one
program per kind of control and none per strength. It knows nothing of samplers, schedules or prompts.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from flax import struct

from ldm_jax.types import Array, PyTree

SHARED_TAPS = "guidance/"  # begins the names of what guidance leaves among the taps
Attend = Callable[[Array], Array]  # hidden states [B, N, C] -> [B, N, heads, d]
Call = Callable[["Control"], tuple[Array, PyTree]]  # of a network


class Site(NamedTuple):
    """One place inside a network where a Control acts.

    name: 'up_1.attn_0' (blocks of a transformer of depth > 1 append '.1', '.2', ...). place: 'down' | 'mid' | 'up'.
    kind: 'self' | 'cross' | 'res' | 'encoder' | 'skip' | 'trunk' | 'stream'. resolution: the height in
    latent cells at that place. index: how many sites of the same kind come before it, in the order of the forward pass.
    """

    name: str
    place: str
    kind: str
    resolution: int
    index: int


class Control(struct.PyTreeNode):
    """The identity. A method subclasses it at module level and overrides what it needs; arrays are its leaves.

    B is the batch of the network call, N the number of queries, K of keys, d the width of a head.
    """

    def touches(self, site: Site) -> bool:
        """Whether anything happens at `site`; decided at trace time. False keeps the fused attention there."""
        return True

    def needs_probs(self, site: Site) -> bool:
        """Whether the logits or probabilities at `site` are changed or read; else the fused attention stays there."""
        plain = (Control.logits, Control.probs, Control.record)
        return (type(self).logits, type(self).probs, type(self).record) != plain

    def hidden(self, site: Site, h: Array) -> Array:
        """h [B, N, C]: the hidden states before the query, key and value projections."""
        return h

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        """q [B, N, heads, d], k and v [B, K, heads, d]; the keys may be lengthened or swapped."""
        return q, k, v

    def logits(self, site: Site, s: Array) -> Array:
        """s [B, heads, N, K] float32, scaled, before the softmax."""
        return s

    def probs(self, site: Site, p: Array) -> Array:
        """p [B, heads, N, K] float32, rows sum to one."""
        return p

    def features(self, site: Site, x: Array) -> Array:
        """x [B, h, w, C]: a residual branch before its shortcut is added ('res'), what a level of the encoder ends
        with, before it becomes a skip, and that when it is halved ('encoder'), a skip connection ('skip'), the
        middle, or the trunk just before each skip is concatenated and before the head ('trunk'); [B, N, C]: the
        residual stream of a transformer block between its self- and its cross-attention ('stream')."""
        return x

    def record(self, site: Site, value: Array) -> Array | None:
        """What to read back from `site`, reduced here (head mean, token columns); None records nothing.

        value: the attention's probs [B, heads, N, K] after `probs`, or the features after `features`.
        """
        return None

    def record_projections(self, site: Site, h: Array, q: Array, k: Array) -> Array | PyTree | None:
        """As `record`, of the hidden states h [B, N, C] that an attention is given and of its queries and keys after
        `qkv`."""
        return None

    def attention(self, site: Site, h: Array, attend: Attend) -> Array:
        """What an attention gives, [B, N, heads, d], of hidden states h [B, N, C] before all other hooks. attend: the
        attention with these hooks, of any number of cells."""
        return attend(h)

    def network(self, call: Call) -> tuple[Array, PyTree]:
        """What a whole call of the network gives: its prediction, and taps. call: (a Control) -> the same under it."""
        return call(self)


class Wrapped(Control):
    """Does what `inner` does: the base of a control that does something more around a user's."""

    inner: Control | None

    def of_inner(self, site: Site) -> Control:
        """`inner` where it touches the site, else the identity."""
        return self.inner if self.inner is not None and self.inner.touches(site) else Control()

    def touches(self, site: Site) -> bool:
        return self.inner is not None and self.inner.touches(site)

    def needs_probs(self, site: Site) -> bool:
        return self.of_inner(site).needs_probs(site)

    def hidden(self, site: Site, h: Array) -> Array:
        return self.of_inner(site).hidden(site, h)

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        return self.of_inner(site).qkv(site, q, k, v)

    def logits(self, site: Site, s: Array) -> Array:
        return self.of_inner(site).logits(site, s)

    def probs(self, site: Site, p: Array) -> Array:
        return self.of_inner(site).probs(site, p)

    def features(self, site: Site, x: Array) -> Array:
        return self.of_inner(site).features(site, x)

    def record(self, site: Site, value: Array) -> Array | None:
        return self.of_inner(site).record(site, value)

    def record_projections(self, site: Site, h: Array, q: Array, k: Array) -> Array | PyTree | None:
        return self.of_inner(site).record_projections(site, h, q, k)

    def attention(self, site: Site, h: Array, attend: Attend) -> Array:
        return self.of_inner(site).attention(site, h, attend)

    def network(self, call: Call) -> tuple[Array, PyTree]:
        if self.inner is None:
            return call(self)
        return self.inner.network(lambda inner: call(self.replace(inner=inner)))


class Chain(Control):
    """Several controls in order; see `chain`. What each records stays apart: `own`."""

    controls: tuple[Control, ...] = ()

    def touches(self, site: Site) -> bool:
        return any(control.touches(site) for control in self.controls)

    def needs_probs(self, site: Site) -> bool:
        return any(control.needs_probs(site) for control in self._at(site))

    def _at(self, site: Site) -> list[Control]:
        return [control for control in self.controls if control.touches(site)]

    def hidden(self, site: Site, h: Array) -> Array:
        for control in self._at(site):
            h = control.hidden(site, h)
        return h

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        for control in self._at(site):
            q, k, v = control.qkv(site, q, k, v)
        return q, k, v

    def logits(self, site: Site, s: Array) -> Array:
        for control in self._at(site):
            s = control.logits(site, s)
        return s

    def probs(self, site: Site, p: Array) -> Array:
        for control in self._at(site):
            p = control.probs(site, p)
        return p

    def features(self, site: Site, x: Array) -> Array:
        for control in self._at(site):
            x = control.features(site, x)
        return x

    def record(self, site: Site, value: Array) -> PyTree | None:
        return self._records(site, lambda control: control.record(site, value))

    def record_projections(self, site: Site, h: Array, q: Array, k: Array) -> PyTree | None:
        return self._records(site, lambda control: control.record_projections(site, h, q, k))

    def attention(self, site: Site, h: Array, attend: Attend) -> Array:
        """The first control's is the outermost: it sees the cells that there are."""
        for control in reversed(self._at(site)):
            attend = partial(control.attention, site, attend=attend)
        return attend(h)

    def network(self, call: Call) -> tuple[Array, PyTree]:
        def of(done: tuple[Control, ...], left: tuple[Control, ...]) -> tuple[Array, PyTree]:
            if not left:
                return call(self.replace(controls=done))
            return left[0].network(lambda control: of((*done, control), left[1:]))

        return of((), self.controls)

    def _records(self, site: Site, record: Callable) -> dict[str, PyTree] | None:
        found = {str(i): record(c) for i, c in enumerate(self.controls) if c.touches(site)}
        return {i: value for i, value in found.items() if value is not None} or None


def chain(controls: Sequence[Control | None]) -> Control | None:
    """One control that does what all of them do, in order; None where there is none, and the only one where there is
    one."""
    there = tuple(control for control in controls if control is not None)
    return Chain(there) if len(there) > 1 else (there or (None,))[0]


def own(taps: dict, controls: Sequence[Control | None], index: int) -> dict:
    """Of the taps of a network called with `chain(controls)`, what controls[index] recorded, under the same names.

    Taps that no control recorded (their names begin with 'guidance/') are everybody's.
    """
    shared = {name: value for name, value in taps.items() if name.startswith(SHARED_TAPS)}
    if controls[index] is None:
        return shared
    if sum(control is not None for control in controls) == 1:
        return taps
    place = str(sum(control is not None for control in controls[:index]))
    recorded = {name: value[place] for name, value in taps.items() if name not in shared and place in value}
    return recorded | shared
