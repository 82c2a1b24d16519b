"""T2I-Adapter: a small network that sees a picture once, and adds a feature map to each level of a UNet's encoder.

Decides the architecture, where its features are added, and how several add up. Its parameters lie beside the network's,
as 't2i_adapter_0', 't2i_adapter_1', …. Unlike a ControlNet it sees neither the latents nor the timestep.
Source: Mou et al. 2023 (arXiv:2302.08453), section 3.2; TencentARC/T2I-Adapter@168f87f ldm/modules/encoders/adapter.py;
that of SDXL as in diffusers 0.42 models/adapter.py.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ldm_jax.control.base import Control, Site, Wrapped
from ldm_jax.models.layers import Conv
from ldm_jax.types import Array, PyTree

NAME, WEIGHT = "t2i_adapter_{}", "weight"
WIDTHS = (320, 640, 1280, 1280)
KINDS = ("full", "xl", "light")


class Adapter(nn.Module):
    """The features of a picture, the finest first.

    kind: 'full'; 'xl', whose pixels are taken together twice as coarsely and which is halved before the third level
    alone; or 'light', whose blocks are a quarter as wide within. widths: of the features. num_res_blocks: of each
    level. factor: the side in pixels of one cell of the first feature, the first stage's, or twice that for 'xl'.
    Fresh ones are zero: conv_in and the second convolution of each block begin at zero, or with 'light' the last of
    each level. The original's begin at random.
    """

    kind: str = "full"
    widths: tuple[int, ...] = WIDTHS
    num_res_blocks: int = 2
    factor: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> list[Array]:
        """image [B, H, W, C] in [0, 1] -> [B, h, w, widths[0]], …, where h = H / factor."""
        light = self.kind == "light"
        h = pixel_unshuffle(image.astype(self.dtype), self.factor)
        if not light:
            h = Conv(self.widths[0], zero_init=True, dtype=self.dtype, name="conv_in")(h)
        features = []
        for level, width in enumerate(self.widths):
            if level == 2 if self.kind == "xl" else level > 0:
                h = nn.avg_pool(h, (2, 2), strides=(2, 2))
            inner = width // 4 if light else width
            if light or h.shape[-1] != inner:
                h = Conv(inner, kernel_size=1, dtype=self.dtype, name=f"level_{level}_in")(h)
            for block in range(self.num_res_blocks):
                name = f"level_{level}_block_{block}"
                own = nn.relu(Conv(inner, dtype=self.dtype, name=f"{name}_1")(h))
                last = dict(kernel_size=3) if light else dict(kernel_size=1, zero_init=True)
                h = h + Conv(inner, dtype=self.dtype, name=f"{name}_2", **last)(own)
            if light:
                h = Conv(width, kernel_size=1, zero_init=True, dtype=self.dtype, name=f"level_{level}_out")(h)
            features.append(h)
        return features


def pixel_unshuffle(x: Array, factor: int) -> Array:
    """[B, H, W, C] -> [B, H / factor, W / factor, C factor^2], the channels in the order of torch's PixelUnshuffle."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // factor, factor, width // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, height // factor, width // factor, c * factor**2)


def adapter_of(spec: Mapping[str, Any], dtype: Any = jnp.float32) -> Adapter:
    """spec: the fields of Adapter, and 'channels' of its picture. Raises: ValueError for another kind."""
    if spec.get("kind", "full") not in KINDS:
        raise ValueError(f"t2i_adapter: kind is {spec['kind']!r}, expected one of {', '.join(KINDS)}")
    fields = {k: tuple(v) if k == "widths" else v for k, v in spec.items() if k != "channels"}
    return Adapter(**fields, dtype=dtype)


def fresh(spec: Mapping[str, Any], key: Array) -> PyTree:
    """Fresh parameters of an adapter, without its weight."""
    side = spec.get("factor", 8) * 2 ** (len(spec.get("widths", WIDTHS)) - 1)
    return adapter_of(spec).init(key, jnp.zeros((1, side, side, spec.get("channels", 3))))["params"]


def spec_of(params: Mapping, factor: int) -> dict[str, Any]:
    """The spec of an adapter with these parameters, beside a model whose latents are `factor` times coarser than
    pixels. Raises: ValueError for one of another factor.
    """
    light = "conv_in" not in params
    first = params["level_0_in" if light else "conv_in"]["kernel"].shape[-2]
    sizes = {c * f**2: (c, f) for f in (factor, 2 * factor) for c in (1, 3)}
    if first not in sizes or (light and sizes[first][1] != factor):
        wanted = ", ".join(str(c * factor**2) for c in (1, 3))
        raise ValueError(
            f"T2I-Adapter: its first convolution has {first} channels, expected {wanted}, or four times as many: it is "
            f"of another base"
        )
    channels, side = sizes[first]
    levels = 1 + max(int(name.split("_")[1]) for name in params if name.startswith("level_"))
    widths = [_width(params, level, light) for level in range(levels)]
    blocks = sum(name.startswith("level_0_block_") and name.endswith("_1") for name in params)
    kind = "light" if light else "full" if side == factor else "xl"
    return dict(kind=kind, widths=widths, num_res_blocks=blocks, factor=side, channels=channels)


def _width(params: Mapping, level: int, light: bool) -> int:
    return params[f"level_{level}_out" if light else f"level_{level}_block_0_2"]["kernel"].shape[-1]


def added(
    params: Mapping,
    levels: int,
    x: Array,
    hints: Mapping[str, Array],
    counts: Array,
    dtype: Any,
    control: Control | None,
) -> "Added":
    """`control`, before which the encoder's levels get what the adapters make of their pictures.

    params: the network's, and beside them NAME's. levels: of the network, whose latents are x [B, h, w, c]. hints:
    'adapter_images' [B, n, H, W, 3] in [0, 1], of which an adapter of one channel sees the mean. counts: [B, n], how
    much each does now.
    Raises: ValueError for an adapter whose features are not of the sizes of the levels.
    """
    sums: dict[str, Array] = {}
    for i in range(hints["adapter_images"].shape[1]):
        own, image = dict(params[NAME.format(i)]), hints["adapter_images"][:, i]
        weight, height = own.pop(WEIGHT), x.shape[1]
        spec = spec_of(own, image.shape[1] // height)
        image = image.mean(-1, keepdims=True) if spec["channels"] == 1 else image
        for level, feature in enumerate(adapter_of(spec, dtype).apply({"params": own}, image)):
            scale = (counts[:, i] * weight)[:, None, None, None]
            name = _place(level, feature.shape[1], levels, height)
            feature = scale * feature.astype(jnp.float32)
            sums[name] = sums[name] + feature if name in sums else feature
    return Added(control, tuple(sums), tuple(sums.values()))


def _place(level: int, size: int, levels: int, height: int) -> str:
    """The site at which the feature of a level, `size` cells high, is added: the end of the network's level of that
    size, what that becomes when it is halved, or the middle.
    """
    sizes = {height // 2**level: f"down_{level}.out", height // 2 ** (level + 1): f"down_{level}.halved"}
    if level >= levels - 1:  # the last level is not halved
        sizes = {height // 2 ** (levels - 1): f"down_{level}.out" if level < levels else "mid.out"}
    if size not in sizes or level > levels:
        raise ValueError(
            f"T2I-Adapter: its feature {level} is {size} cells high, expected {' or '.join(map(str, sizes))} for "
            f"latents of {height}: it is of another base, or the picture is not of its size"
        )
    return sizes[size]


class Added(Wrapped):
    """Adds features at sites of the encoder; all else is `inner`'s, which sees the sums.

    names: of the sites. values: what is added at each.
    """

    names: tuple[str, ...] = struct.field(pytree_node=False)
    values: tuple[Array, ...]

    def _own(self, site: Site) -> bool:
        return site.name in self.names and (site.kind == "encoder" or site.name == "mid.out")

    def touches(self, site: Site) -> bool:
        return self._own(site) or super().touches(site)

    def features(self, site: Site, x: Array) -> Array:
        if self._own(site):
            x = x + self.values[self.names.index(site.name)].astype(x.dtype)
        return super().features(site, x)
