"""What may touch the inside of a network: the named places (Site) and what is done there (Control).

A Control is an argument of the network. Its class is in the treedef and its numbers are leaves, so that jit caches one
program per kind of control and none per strength. It knows nothing of samplers, schedules or prompts.
"""

from typing import NamedTuple

from flax import struct

from ldm_jax.types import Array


class Site(NamedTuple):
    """One place inside a network where a Control acts.

    name: 'up_1.attn_0' (blocks of a transformer of depth > 1 append '.1', '.2', ...). place: 'down' | 'mid' | 'up'.
    kind: 'self' | 'cross' | 'res' | 'skip'. resolution: the height in latent cells at that place.
    index: how many sites of the same kind come before it, in the order of the forward pass.
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
        """x [B, h, w, C]: a residual branch before its shortcut is added, a skip connection, or the middle."""
        return x

    def record(self, site: Site, value: Array) -> Array | None:
        """What to read back from `site`, reduced here (head mean, token columns); None records nothing.

        value: the attention's probs [B, heads, N, K] after `probs`, or the features after `features`.
        """
        return None
