"""ControlNet: a second encoder that sees a picture beside the latents, and adds to the skips of the first.

Decides the architecture, how several nets add up, and when each counts. Its parameters lie beside the network's, as
'controlnet_0', 'controlnet_1', …. It knows no schedule: the part of the noise is t / T.
Source: Zhang et al. 2023 (arXiv:2302.05543), section 3; lllyasviel/ControlNet@1e5c75a cldm/cldm.py.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.control.base import Control, Site, Wrapped
from ldm_jax.models import instances, ip_adapter, t2i_adapter
from ldm_jax.models.layers import Conv, Linear
from ldm_jax.models.unet import Sites, UNet, apply_unet
from ldm_jax.types import Array, Cond, PyTree

NAME = "controlnet_{}"
WIDTHS = (
    16,
    32,
    96,
    256,
)  # of a hint encoder that halves three times, for latents of an eighth of the picture
HINT, ZERO = "hint", "zero_"


class HintEncoder(nn.Module):
    """A picture at the resolution of the latents: convolutions with SiLU, of which the last begins at zero.

    widths: of its levels, each half as high as the one before. channels: what it gives.
    """

    widths: tuple[int, ...]
    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hint: Array) -> Array:
        """hint [B, H, W, C] in [0, 1] -> [B, H / f, W / f, channels], f = 2 ** (levels - 1)."""
        h = nn.silu(Conv(self.widths[0], dtype=self.dtype, name="conv_in")(hint))
        for i, (before, after) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            h = nn.silu(Conv(before, dtype=self.dtype, name=f"block_{2 * i}")(h))
            h = nn.silu(Conv(after, strides=2, padding=1, dtype=self.dtype, name=f"block_{2 * i + 1}")(h))
        return Conv(self.channels, zero_init=True, dtype=self.dtype, name="conv_out")(h)


class ControlNet(UNet):
    """The encoder and middle of a UNet of these fields, with a hint, each output through a 1x1 convolution from zero.

    widths: see HintEncoder.
    """

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, x: Array, t: Array, cond: Cond, hint: Array) -> list[Array]:
        """x [B, h, w, c], t [B], cond, hint [B, H, W, C] -> what is added to each skip, the first first, and to the
        middle: [B, h', w', C'] each.

        Raises: ValueError for a hint that is not of the latents' size times the encoder's factor.
        """
        factor = 2 ** (len(self.widths) - 1)
        if hint.shape[1:3] != (x.shape[1] * factor, x.shape[2] * factor):
            raise ValueError(
                f"ControlNet: its picture is {hint.shape[1]} x {hint.shape[2]}, expected {x.shape[1] * factor} x "
                f"{x.shape[2] * factor}"
            )
        encoder = HintEncoder(self.widths, self.channels, dtype=self.dtype, name=HINT)
        res, attention = self._blocks(self._embed(t, cond.vector), cond, None, True, Sites())
        h, skips = self._encode(self._joined(x, cond), res, attention, encoder(hint))
        outputs = [*skips, h]
        return [
            Linear(y.shape[-1], zero_init=True, dtype=self.dtype, name=f"{ZERO}{i}")(y)
            for i, y in enumerate(outputs)
        ]


def widths_of(params: PyTree) -> tuple[int, ...]:
    """The widths of the hint encoder with these parameters, a ControlNet's."""
    encoder = params[HINT]
    number = sum(name.startswith("block_") for name in encoder) // 2
    first = encoder["conv_in"]["kernel"].shape[-1]
    return (first, *(encoder[f"block_{2 * i + 1}"]["kernel"].shape[-1] for i in range(number)))


def beside(unet: UNet, widths: Sequence[int]) -> ControlNet:
    """The ControlNet of a network's own fields."""
    left = ("parent", "name", "guidance_dim")  # which it is not told
    fields = {k: getattr(unet, k) for k in UNet.__dataclass_fields__ if k not in left}
    return ControlNet(**fields, widths=tuple(widths))


def fresh(unet: UNet, key: Array, x: Array, t: Array, cond: Cond, widths: Sequence[Sequence[int]]) -> PyTree:
    """{'controlnet_0': …} of fresh parameters, one for each hint of cond. Arguments otherwise as UNet.__call__."""
    images = cond.hints["images"]
    return {
        NAME.format(i): beside(unet, each).init(key, x, t, cond.replace(hints=None), images[:, i])["params"]
        for i, each in enumerate(widths)
    }


def of_encoder(unet_params: PyTree, key: Array, widths: Sequence[int], channels: int) -> PyTree:
    """The parameters that a ControlNet begins with: a copy of the network's encoder, a fresh hint encoder, zeros.

    unet_params: those of the network. channels: of the pictures.
    """
    first = unet_params["conv_in"]["kernel"].shape[-1]
    side = 2 ** (len(widths) - 1)
    hint = HintEncoder(tuple(widths), first).init(key, jnp.zeros((1, side, side, channels)))["params"]
    copied = {name: tree for name, tree in unet_params.items() if name.startswith(_COPIED)}
    outputs = [*_skip_widths(unet_params), unet_params["mid_res_1"]["conv_2"]["kernel"].shape[-1]]
    zeros = {
        f"{ZERO}{i}": {"kernel": jnp.zeros((c, c), jnp.float32), "bias": jnp.zeros(c, jnp.float32)}
        for i, c in enumerate(outputs)
    }
    return copied | {HINT: hint} | zeros


_COPIED = ("conv_in", "time_embed", "label_embed", "down_", "mid_")


def _skip_widths(unet_params: PyTree) -> list[int]:
    """The widths of a network's skips, the first first."""
    widths, level = [unet_params["conv_in"]["kernel"].shape[-1]], 0
    while f"down_{level}_res_0" in unet_params:
        block = 0
        while f"down_{level}_res_{block}" in unet_params:
            widths.append(unet_params[f"down_{level}_res_{block}"]["conv_2"]["kernel"].shape[-1])
            block += 1
        if f"down_{level + 1}_res_0" in unet_params:  # halved, in the same width
            widths.append(widths[-1])
        level += 1
    return widths


class Added(Wrapped):
    """Adds to the skips and the middle; all else is `inner`'s, which sees the sums."""

    skips: tuple[Array, ...]
    middle: Array

    def _is_own(self, site: Site) -> bool:
        return site.kind == "skip" or site.name == "mid.out"

    def touches(self, site: Site) -> bool:
        return self._is_own(site) or super().touches(site)

    def features(self, site: Site, x: Array) -> Array:
        if self._is_own(site):
            x = x + (self.middle if site.kind == "res" else self.skips[-1 - site.index]).astype(x.dtype)
        return super().features(site, x)


def apply_network(
    unet: UNet,
    params: Mapping,
    x: Array,
    t: Array,
    cond: Cond = Cond(),  # noqa: B008
    control: Control | None = None,
    dropout_key: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """models.unet.apply_unet, to which the nets beside `unet` add what they make of cond.hints, if it has any.

    params: those of the network, and beside them of ControlNets and an IP-Adapter.
    """
    hints = cond.hints or {}
    if "embedding" in hints:
        control = ip_adapter.decoupled(
            params[ip_adapter.NAME], hints["embedding"], hints["embedding_scale"], control
        )
    if "instances" in hints:
        own, levels = hints["instances"], range(len(unet.channel_mult))
        scale = now({**own, "T": hints["T"]}, t)[:, 0]
        heads = [unet.heads_at(level) for level in levels]
        control = instances.placed(params[instances.NAME], heads, x, own, scale, control)
    if "images" in hints:
        control = _added(unet, params, x, t, cond, control)
    if "adapter_images" in hints:
        counts, levels = now(hints, t, "adapter_"), len(unet.channel_mult)
        control = t2i_adapter.added(params, levels, x, hints, counts, unet.dtype, control)
    return apply_unet(unet, params, x, t, cond.replace(hints=None), control, dropout_key)


def now(hints: Mapping[str, Array], t: Array, prefix: str = "") -> Array:
    """[B, n]: how much each net of hints counts at t [B]: its scale where its start < 1 - t / T <= its stop, both of
    the noise that is gone, else 0. hints['T'] is T; prefix: of the other names.
    """
    gone = (1 - t.astype(jnp.float32) / hints["T"])[:, None]
    counts = (hints[f"{prefix}starts"] < gone) & (gone <= hints[f"{prefix}stops"])
    return hints[f"{prefix}scales"] * counts


def _added(unet: UNet, params: Mapping, x: Array, t: Array, cond: Cond, control: Control | None) -> Added:
    """`control`, before which each net adds its outputs times its scale."""
    hints, rest = cond.hints, cond.replace(hints=None)
    counts = now(hints, t)
    sums: list[Array] = []
    for i in range(hints["images"].shape[1]):
        own = params[NAME.format(i)]
        net = beside(unet, widths_of(own))
        outputs = net.apply({"params": own}, x, t, rest, hints["images"][:, i])
        scale = counts[:, i, None, None, None]
        outputs = [scale * y.astype(jnp.float32) for y in outputs]
        sums = [a + b for a, b in zip(sums, outputs, strict=True)] if sums else outputs
    return Added(control, tuple(sums[:-1]), sums[-1])
