"""What transfers of appearance share: which steps they act in, where the things are, and AdaIN of latents.

Branches are [source, appearance, …, edited]: whose structure, whose looks. Sources: cross_image.py and eye_for_an_eye.py, whose
originals' step counts are of 100.
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldm_jax.control import maps
from ldm_jax.control.base import Site
from ldm_jax.editing import phrases
from ldm_jax.types import Array

NONE, SOURCE, APPEARANCE = -1, 0, 1  # whose the edited picture uses in a step
EVERY, EARLY = 5, 0.4  # each fifth step before 40 % uses the source's
LEAST = 0.1  # of the range of a map, in a mask


class DecoderControl(maps.CrossMaps):
    """Acts on the self-attention of the decoder, of maps of half the latents' rows and more; reads cross-attention for masks.

    fine, coarse: [] int32, NONE, SOURCE or APPEARANCE, at maps as large as the latents and at smaller ones. height: of the latents."""

    fine: Array = None
    coarse: Array = None
    height: int = struct.field(pytree_node=False, default=0)
    batch: int = struct.field(pytree_node=False, default=1)
    branches: int = struct.field(pytree_node=False, default=3)

    def acts(self, site: Site) -> bool:
        return site.kind == "self" and site.place == "up" and 2 * site.resolution >= self.height

    def touches(self, site: Site) -> bool:
        return self.acts(site) or super().touches(site)

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def record(self, site: Site, value: Array) -> Array | None:
        return super().record(site, value) if site.kind == "cross" else None

    def whose(self, site: Site) -> Array:
        return self.fine if site.resolution == self.height else self.coarse

    def apart(self, a: Array) -> Array:
        """[halves, branches, B, ...] of the rows of a call."""
        return a.reshape(-1, self.branches, self.batch, *a.shape[1:])


def schedule(num_steps: int, start: float, until: float) -> np.ndarray:
    """[S] int32: whose the edited picture uses at each step, from fraction start to until."""
    index = np.arange(num_steps)
    place = index / num_steps
    whose = np.where((index % EVERY == 0) & (place < EARLY), SOURCE, APPEARANCE)
    return np.where((place >= start) & (place < until), whose, NONE).astype(np.int32)


def words_of(call, source, appearance, words, method: str) -> tuple[np.ndarray, np.ndarray]:
    """The words whose cells are transferred, in both prompts, as of phrases.weights: by default the last one of each phrase.

    Raises: ValueError for a word that one of the prompts has not."""
    found = []
    for prompts in (source, appearance):
        of = call._replace(prompts=prompts)
        found.append(
            phrases.weights(
                of, phrases.nouns(of) if words is None else phrases.named(of, words, f"{method}: words")
            )
        )
    return found[0], found[1]


def masks_of(taps: dict, x: Array, branches: int, words: tuple[Array, Array]) -> Array:
    """[B, 2, h, w] float32: where source and appearance show their words, from the maps of this step."""
    read = maps.finest(taps, x.shape)[-x.shape[0] :]
    apart = read.reshape(branches, -1, *read.shape[1:])
    found = [maps.word_mask(apart[which], words[which], x.shape, LEAST) for which in (SOURCE, APPEARANCE)]
    return jnp.stack(found, 1)


def adain(x: Array, x_mask: Array, y: Array, y_mask: Array) -> Array:
    """x [B, h, w, c], inside of x_mask [B, h, w] with the mean and deviation, channel by channel, that y has inside of y_mask.

    Huang and Belongie 2017 (arXiv:1703.06868). A mask without a cell counts as one of all cells.
    """
    x_mask, y_mask = (jnp.where(m.any((1, 2), keepdims=True), m, 1)[..., None] for m in (x_mask, y_mask))
    (x_mean, x_sd), (y_mean, y_sd) = _moments(x, x_mask), _moments(y, y_mask)
    return jnp.where(x_mask > 0, (x - x_mean) / x_sd * y_sd + y_mean, x)


def _moments(x: Array, mask: Array) -> tuple[Array, Array]:
    """(mean, standard deviation) [B, 1, 1, c] inside of a mask [B, h, w, 1]."""
    number = mask.sum((1, 2), keepdims=True)
    mean = (x * mask).sum((1, 2), keepdims=True) / number
    variance = ((x - mean) ** 2 * mask).sum((1, 2), keepdims=True) / number
    return mean, jnp.sqrt(variance + 1e-6)
