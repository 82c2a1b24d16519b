"""Style injection (Chung et al. 2024, arXiv:2312.09008): the contents of one picture in the style of another.

The edited picture begins as the source does, with the mean and deviation of the style's latents, and in the decoder its self-attention
looks at the style's keys and values with queries that are for the most part the source's own. Decides whose queries, keys and values
count, and how sharply. Source: equations 5 to 8; jiwoogit/StyleID: the last six of the decoder's self-attentions in Stable Diffusion,
which are those of half the latents' rows and more, all of 50 steps without guidance; queries 0.75 of the source's, logits times 1.5.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.control import rows
from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import appearance as shared
from ldm_jax.samplers.base import Edit
from ldm_jax.types import Array

NEUTRAL = dict(until=0.0, adain=0.0)
BRANCHES = ("source", "style")
PICTURES = {"style_image": "style"}
EACH = ("style_path",)
CONTROLS = True


class Inject(shared.DecoderControl):
    """The edited picture's self-attention in the style's keys and values. keep: [] how much of the queries is the source's. sharpness: []
    of the logits."""

    keep: Array = None
    sharpness: Array = None

    def touches(self, site: Site) -> bool:
        return self.acts(site)

    def needs_probs(self, site: Site) -> bool:
        return False

    def qkv(self, site: Site, q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
        on = self.fine == shared.APPEARANCE

        def changed(a, value):
            apart = self.apart(a)
            new = value(apart[:, shared.SOURCE], apart[:, shared.APPEARANCE], apart[:, -1])
            return apart.at[:, -1].set(jnp.where(on, new, apart[:, -1]).astype(a.dtype)).reshape(a.shape)

        def query(source, style, own):
            return self.sharpness * (self.keep * source + (1 - self.keep) * own)

        return changed(q, query), *(changed(a, lambda source, style, own: style) for a in (k, v))


def prepare(
    call, *, source, style, style_image=None, until: float = 1.0, adain: float = 1.0, keep: float = 0.75, sharpness: float = 1.5
) -> dict | None:  # fmt: skip
    """source, style: prompts of the picture whose contents are kept, and of the one whose style is used; "" is any. style_image: that
    one itself, of `edit` alone. until: the fraction of the steps in which the style's keys and values count. adain: in [0, 1], how much
    the mean and deviation of the style's noise do; 0, and until 0, is no edit. keep: how much of the queries is the source's.
    sharpness: what logits are multiplied with.

    Raises: ValueError for numbers out of range.
    """
    for name, value in dict(until=until, adain=adain, keep=keep).items():
        if not 0 <= value <= 1:
            raise ValueError(f"style_injection: {name} is {value}, expected a number from 0 to 1")
    if not 0 < sharpness <= 100:
        raise ValueError(f"style_injection: sharpness is {sharpness}, expected more than 0, at most 100")
    if until == adain == 0:
        return None
    number, follows = len(call.visited), style_image is not None
    path = np.zeros((call.num_pictures, 1, 1, 1, 1), np.float32) if style_image is None else style_image
    if follows and np.shape(path) != (call.num_pictures, number + 1, *call.latent_shape):
        raise ValueError("style_injection: style_image is a picture, which `edit` alone takes")
    return dict(
        style_path=path, whose=np.where(np.arange(number) < until * number, shared.APPEARANCE, shared.NONE).astype(np.int32),
        adain=adain, keep=keep, sharpness=sharpness, follows=follows,
    )  # fmt: skip


def edit(
    denoiser: Denoiser, *, style_path: Array, whose: Array, adain: Array, keep: Array, sharpness: Array, follows: bool = False
) -> Edit:  # fmt: skip
    """style_path: [B, S + 1, h, w, c], the style's latents at each step, where it follows them. whose: [S] int32, see
    appearance.schedule. adain, keep, sharpness: [] float32."""
    n = denoiser.branches
    batch = rows.pictures(denoiser.cond, n)

    def init(x_T):
        return jnp.zeros((x_T.shape[1], 0))  # its rows are those of the latents

    def control(edited, info):
        now, height = whose[info.index], edited.shape[0]
        return Inject(0, now, now, height, batch, n, keep, sharpness)

    def before(edited, x, info, eps_fn):
        apart = rows.split_branches(x, n)
        if follows:
            known = jnp.take(style_path, denoiser.step_of(info.t), axis=1)
            apart = apart.at[shared.APPEARANCE].set(known)
        everywhere = jnp.ones(apart.shape[1:4])
        styled = shared.adain(apart[-1], everywhere, apart[shared.APPEARANCE], everywhere)
        begun = apart[-1] + adain * (styled - apart[-1])
        return edited, rows.join_branches(apart.at[-1].set(jnp.where(info.index == 0, begun, apart[-1])))

    return Edit(init=init, control=control, before=before)
