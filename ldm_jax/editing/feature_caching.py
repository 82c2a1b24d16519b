"""DeepCache (Ma et al. 2024, arXiv:2312.00858): the deep part of the network is run at every few steps alone.

What the decoder's trunk holds before it meets one of the last skips changes little from a step to the next. Every `interval` steps the
whole network runs, and it is kept; in between, the encoder up to that skip and the decoder from there on see the new latents, and what
is deeper is the kept trunk's. Decides which trunk is kept and when it is new: at uniform steps, the paper's first choice. Samplers that
call the network more than once in a step run all of it in each call of a whole step. It changes the picture: nothing is edited, but time
is saved.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from ldm_jax.control import rows
from ldm_jax.control.base import Call, Control, Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.guidance import losses
from ldm_jax.samplers.base import Edit, batch_t
from ldm_jax.types import Array, PyTree

NEUTRAL = dict(interval=1)
CONTROLS = True
BESIDE = ("classifier_free", "token_merging")


class Trunk(Control):
    """Reads the trunk at a site, or puts `kept` in its place, so that what is deeper is not computed. kept: [rows, h, w, C], or None."""

    kept: Array | None = None
    at: str = struct.field(pytree_node=False, default="")

    def touches(self, site: Site) -> bool:
        return site.kind == "trunk" and site.name == self.at

    def features(self, site: Site, x: Array) -> Array:
        return x if self.kept is None else self.kept

    def record(self, site: Site, value: Array) -> Array:
        return value


class Cached(Trunk):
    """The whole network, or with `kept` its shallow part. uses_kept: [] bool, whether this step is of the second kind."""

    uses_kept: Array = None

    def network(self, call: Call) -> tuple[Array, PyTree]:
        whole, shallow = Trunk(None, self.at), Trunk(self.kept, self.at)
        return lax.cond(self.uses_kept, lambda: call(shallow), lambda: call(whole))


def prepare(call, *, interval: int = 3, branch: int = 0) -> dict | None:
    """interval: the whole network runs in one step of so many; 1 is always. branch: the place of the last skip that is computed in the
    others, 0 being what the first convolution gives: with 0 the least is computed, and the most is kept.

    Raises: ValueError for others than whole numbers of at least 1 and 0, and for a branch that the network does not have.
    """
    last = len(call.decoder) - 1
    interval = losses.whole(interval, "feature_caching: interval", 1, 1000)
    branch = losses.whole(branch, "feature_caching: branch", 0, last)
    if interval == 1:
        return None
    return dict(interval=interval, at=call.decoder[last - branch].replace(".res_", ".trunk_"))


def edit(denoiser: Denoiser, *, interval: Array = 3, at: str = "") -> Edit:
    """interval: [] the steps of which one is whole; the first that is run always is. at: the name of the trunk's site."""
    tap = f"{at}/trunk"

    def init(x_T):
        guided = denoiser.uncond is not None  # by one doubled call
        twice = rows.join_halves if guided else lambda value, _: value
        cond = rows.join_conds(denoiser.uncond, denoiser.cond) if guided else denoiser.cond
        t = batch_t(denoiser.visited[0], x_T)
        _, taps = jax.eval_shape(denoiser.network, twice(x_T, x_T), twice(t, t), cond, Trunk(None, at))
        return jnp.zeros(taps[tap].shape, taps[tap].dtype)

    def control(kept, info):
        return Cached(kept, at, info.index % jnp.int32(interval) != 0)

    def after(kept, x, taps, info):
        return taps[tap], x

    return Edit(init=init, control=control, after=after)
