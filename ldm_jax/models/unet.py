"""The UNet that predicts noise, v or x_start in the latent space, and the one wrapper that collects its taps.

Decides the levels, skips, where attention sits, what each field of a Cond does, and how sites are named and
numbered. It knows no schedule and no sampler, and not what the prediction means.
Source: Rombach et al. 2022 (arXiv:2112.10752); CompVis/latent-diffusion@a506df5
ldm/modules/diffusionmodules/openaimodel.py, with the options of Stable Diffusion 2 and SDXL.
"""

from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ldm_jax.control.base import Control, Site
from ldm_jax.models import remat
from ldm_jax.models.attention import AttentionBlock, Context, SpatialTransformer
from ldm_jax.models.hooks import feature_hook
from ldm_jax.models.layers import Conv, GroupNorm, Linear, guidance_embedding, timestep_embedding
from ldm_jax.models.remat import Remat
from ldm_jax.models.resblock import Downsample, EmbeddingMLP, ResBlock, Upsample
from ldm_jax.types import Array, Cond


class Sites:
    """Numbers the sites of one forward pass as they come: `index` counts those of the same kind."""

    def __init__(self):
        self.counts = Counter()

    def __call__(self, name: str, kind: str, resolution: int) -> Site:
        index = self.counts[kind]
        self.counts[kind] += 1
        return Site(name, name.split(".")[0].split("_")[0], kind, resolution, index)


def _context_at(context: Context, index: int) -> Context:
    """The context of cross-attention site `index`: row `index` of [S, B, L, D], or the one for all."""
    if isinstance(context, tuple):
        return tuple(_context_at(c, index) for c in context)
    return context[index] if context is not None and context.ndim == 4 else context


class UNet(nn.Module):
    """A UNet over latents with attention at chosen levels. Level 0 is the finest; each level halves the last.

    in_channels: channels of x and cond.concat together.
    channels: width of level 0. channel_mult: factors to it, one per level.
    num_res_blocks: per level on the way down (one more on the way up), int or one per level.
    attention_levels: the levels whose residual blocks are followed by attention; the middle always has it.
    num_attention_blocks: per level, how many of those residual blocks are; None: all.
    num_heads | head_dim: exactly one, int or one per level.
    num_heads_upsample: with num_heads, how many a plain AttentionBlock has on the way up; None: as many.
    transformer_depth: blocks per SpatialTransformer, int or one per level; 0 is the plain AttentionBlock.
    transformer_depth_middle: that of the middle; None: as the last level's.
    context_dim: the width D of cond.context; None: no context.
    use_linear_projection: says only which shape a transformer's projections have in a foreign checkpoint.
    use_scale_shift_norm, resblock_updown, conv_resample, dropout: see models/resblock.py.
    num_classes: cond.vector is [B] int32 labels below it, or with 'continuous' [B] float.
    vector_dim: cond.vector is [B, vector_dim].
    guidance_dim: cond.guidance is [B], embedded in so many numbers (Meng et al. 2023, arXiv:2210.03142, section 3.1).
    disable_self_attention: per level, whether both attentions of a transformer block go to the context.
    disable_middle_self_attention: the same for the middle.
    new_attention_order: channel order of AttentionBlock's qkv.
    n_embed: the head gives n_embed codebook logits instead of out_channels.
    coordinates: two more input channels, in which every cell finds its own place (Liu et al. 2018, CoordConv,
      arXiv:1807.03247): y and x from -1 to 1. Without them, cells know of it by the padding at the border alone.
    remat: which blocks are computed again in the backward pass, a name of models/remat.py; True is 'full'.
    dtype: of the computation; parameters, group norm statistics and softmax are float32.
    A fresh UNet gives exactly 0 (without n_embed): its last convolution starts at zero, as all branches do.
    Raises: ValueError when fields contradict each other.
    """

    in_channels: int
    out_channels: int
    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[int, ...] = ()
    num_heads: int | tuple[int, ...] | None = None
    head_dim: int | tuple[int, ...] | None = None
    num_heads_upsample: int | None = None
    transformer_depth: int | tuple[int, ...] = 0
    transformer_depth_middle: int | None = None
    context_dim: int | None = None
    use_linear_projection: bool = False
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    dropout: float = 0.0
    num_classes: int | str | None = None
    vector_dim: int | None = None
    guidance_dim: int | None = None
    disable_self_attention: tuple[bool, ...] | None = None
    disable_middle_self_attention: bool = False
    num_attention_blocks: tuple[int, ...] | None = None
    new_attention_order: bool = False
    n_embed: int | None = None
    num_groups: int = 32
    coordinates: bool = False
    remat: Remat = None
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self):
        super().__post_init__()
        self._check_fields()

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Array,
        cond: Cond = Cond(),  # noqa: B008  (an empty pytree without state)
        control: Control | None = None,
        deterministic: bool = True,
    ) -> Array:
        """x [B, h, w, c], t [B] int32 in [0, T) (or float), cond -> [B, h, w, out_channels] in x's dtype.

        cond.context: [B, L, context_dim], L free; or [S, B, L, context_dim], one per cross-attention site in
        the order of the forward pass; or a tuple (for the keys, for the values) of either.
        cond.concat: [B, h, w, c'], after the channels of x. cond.vector: as num_classes and vector_dim require.
        h and w: multiples of 2^(levels - 1). deterministic=False needs an rng 'dropout' if dropout > 0.
        Raises: ValueError when a field of cond is missing, not wanted or of the wrong shape.
        """
        self._check_inputs(x, t, cond)
        sites, levels = Sites(), len(self.channel_mult)
        res, attention = self._blocks(
            self._embed(t, cond.vector, cond.guidance), cond, control, deterministic, sites
        )

        def hook(name, h):
            return feature_hook(self, control, sites(name, "encoder", h.shape[1]), h)

        h, skips = self._encode(self._joined(x, cond), res, attention, hook=hook)
        h = feature_hook(self, control, sites("mid.out", "res", h.shape[1]), h)

        for i, level in enumerate(reversed(range(levels))):
            for j in range(_at(self.num_res_blocks, level) + 1):
                h = feature_hook(self, control, sites(f"up_{i}.trunk_{j}", "trunk", h.shape[1]), h)
                skip = feature_hook(self, control, sites(f"up_{i}.skip_{j}", "skip", h.shape[1]), skips.pop())
                h = res(f"up_{i}.res_{j}", jnp.concatenate([h, skip], axis=-1), level)
                if self._has_attention(level, j):
                    h = attention(f"up_{i}.attn_{j}", h, level)
            if level > 0:
                if self.resblock_updown:
                    h = res(f"up_{i}.upsample", h, level, "up")
                else:
                    upsample = remat.block("resample", Upsample, self.remat)
                    h = upsample(self.conv_resample, self.dtype, name=f"up_{i}_upsample")(h)
        h = feature_hook(self, control, sites("head", "trunk", h.shape[1]), h)
        assert not skips
        _check_site_contexts(cond.context, sites.counts["cross"])
        return self._head(h).astype(x.dtype)

    def heads_at(self, level: int) -> int:
        """How many heads the attention of a level has."""
        if self.head_dim is None:
            return _at(self.num_heads, level)
        return self.channels * self.channel_mult[level] // _at(self.head_dim, level)

    @property
    def decoder(self) -> tuple[str, ...]:
        """The names of the residual blocks on the way up, in the order of the forward pass."""
        levels = reversed(range(len(self.channel_mult)))
        return tuple(
            f"up_{i}.res_{j}"
            for i, level in enumerate(levels)
            for j in range(_at(self.num_res_blocks, level) + 1)
        )

    def _joined(self, x: Array, cond: Cond) -> Array:
        """What the first convolution sees: x [B, h, w, c], the cells' own places, cond.concat, which comes last so
        that a network that is given one begins with the kernel of one without (checkpoints/warm_start.py)."""
        x = jnp.concatenate([x, coordinates(x)], axis=-1) if self.coordinates else x
        return x if cond.concat is None else jnp.concatenate([x, cond.concat.astype(x.dtype)], axis=-1)

    def _blocks(
        self, emb: Array, cond: Cond, control: Control | None, deterministic: bool, sites: Sites
    ) -> tuple[Callable, Callable]:
        """(a residual block, an attention block) by name, features and level, of one forward pass."""

        def res(name, h, level, resample=None):
            resolution = {"down": h.shape[1] // 2, "up": h.shape[1] * 2}.get(resample, h.shape[1])
            block = remat.block("res", ResBlock, self.remat)(
                channels=self.channels * self.channel_mult[level],
                site=sites(name, "res", resolution),
                scale_shift_norm=self.use_scale_shift_norm,
                resample=resample,
                dropout=self.dropout,
                deterministic=deterministic,
                num_groups=self.num_groups,
                dtype=self.dtype,
                name=name.replace(".", "_"),
            )
            return block(h, emb, control)

        def attention(name, h, level):
            return self._attention(name, h, level, sites, cond.context, control)

        return res, attention

    def _encode(
        self,
        x: Array,
        res: Callable,
        attention: Callable,
        hint: Array | None = None,
        hook: Callable = lambda name, h: h,
    ) -> tuple[Array, list[Array]]:
        """(the middle, [the skips]) of what `_joined` gives; hint: added after the first convolution. hook: of what a
        level ends with, 'down_0.out', and of that when it is halved, 'down_0.halved'; both become skips."""
        levels = len(self.channel_mult)
        h = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
        h = h if hint is None else h + hint
        skips = [h]
        for level in range(levels):
            for j in range(_at(self.num_res_blocks, level)):
                h = res(f"down_{level}.res_{j}", h, level)
                if self._has_attention(level, j):
                    h = attention(f"down_{level}.attn_{j}", h, level)
                if j == _at(self.num_res_blocks, level) - 1:
                    h = hook(f"down_{level}.out", h)
                skips.append(h)
            if level < levels - 1:
                if self.resblock_updown:
                    h = res(f"down_{level}.downsample", h, level, "down")
                else:
                    downsample = remat.block("resample", Downsample, self.remat)
                    h = downsample(self.conv_resample, dtype=self.dtype, name=f"down_{level}_downsample")(h)
                h = hook(f"down_{level}.halved", h)
                skips.append(h)

        h = res("mid.res_0", h, levels - 1)
        h = attention("mid.attn", h, levels - 1)
        return res("mid.res_1", h, levels - 1), skips

    def _embed(self, t: Array, vector: Array | None, guidance: Array | None = None) -> Array:
        """The embedding [B, 4 channels] of the timestep and of cond.guidance, plus that of cond.vector."""
        width, told = 4 * self.channels, timestep_embedding(t, self.channels)
        if self.guidance_dim is not None:
            embed = Linear(
                self.channels, use_bias=False, zero_init=True, dtype=self.dtype, name="guidance_embed"
            )
            told = told + embed(guidance_embedding(guidance, self.guidance_dim))
        emb = EmbeddingMLP(width, self.dtype, name="time_embed")(told)
        if self.vector_dim is not None:
            emb = emb + EmbeddingMLP(width, self.dtype, name="label_embed")(vector)
        elif self.num_classes == "continuous":
            emb = emb + Linear(width, dtype=self.dtype, name="label_embed")(vector.reshape(-1, 1))
        elif self.num_classes is not None:
            init = nn.initializers.normal(1.0)
            emb = emb + nn.Embed(
                self.num_classes, width, embedding_init=init, dtype=self.dtype, name="label_embed"
            )(vector)
        return emb

    def _attention(
        self, name: str, h: Array, level: int, sites: Sites, context: Context, control: Control | None
    ) -> Array:
        """The attention block `name` after a residual block of `level`, with its sites and their contexts."""
        middle, resolution, channels = name == "mid.attn", h.shape[1], h.shape[-1]
        heads = self.heads_at(level)
        shared = {
            "num_heads": heads,
            "num_groups": self.num_groups,
            "dtype": self.dtype,
            "name": name.replace(".", "_"),
        }
        depth = _at(self.transformer_depth, level)
        if middle and self.transformer_depth_middle is not None:
            depth = self.transformer_depth_middle
        if depth == 0:
            if name.startswith("up_") and self.num_heads_upsample is not None:
                shared["num_heads"] = self.num_heads_upsample
            block = remat.block("attention", AttentionBlock, self.remat)
            site = sites(name, "self", resolution)
            return block(site=site, new_attention_order=self.new_attention_order, **shared)(h, control)

        no_self = (
            self.disable_middle_self_attention if middle else _at(self.disable_self_attention or False, level)
        )
        to_context = (no_self and self.context_dim is not None, self.context_dim is not None)
        pairs, streams, contexts = [], [], []
        for d in range(depth):
            prefix = name if depth == 1 else f"{name}.{d}"
            pair = []
            for i, crosses in enumerate(to_context):
                # where both attentions are of one kind the first would share its name with the second
                site_name = f"{prefix}.attn1" if i == 0 and to_context[0] == to_context[1] else prefix
                pair.append(sites(site_name, "cross" if crosses else "self", resolution))
            pairs.append(tuple(pair))
            streams.append(sites(prefix, "stream", resolution))
            contexts.append(tuple(_context_at(context, s.index) if s.kind == "cross" else None for s in pair))
        block = remat.block("attention", SpatialTransformer, self.remat)
        transformer = block(sites=tuple(pairs), streams=tuple(streams), head_dim=channels // heads, **shared)
        return transformer(h, tuple(contexts), control)

    def _head(self, h: Array) -> Array:
        h = GroupNorm(self.num_groups, dtype=self.dtype, silu=self.n_embed is None, name="norm_out")(h)
        if self.n_embed is not None:
            return Linear(self.n_embed, dtype=self.dtype, name="codebook_out")(h)
        return Conv(self.out_channels, zero_init=True, dtype=self.dtype, name="conv_out")(h)

    def _has_attention(self, level: int, j: int) -> bool:
        return level in self.attention_levels and (
            self.num_attention_blocks is None or j < self.num_attention_blocks[level]
        )

    def _check_fields(self):
        remat.check(self.remat)
        levels = len(self.channel_mult)
        if (self.num_heads is None) == (self.head_dim is None):
            raise ValueError(
                f"UNet: num_heads={self.num_heads} and head_dim={self.head_dim}, expected exactly one of them"
            )
        for name in (
            "num_res_blocks",
            "num_heads",
            "head_dim",
            "transformer_depth",
            "disable_self_attention",
            "num_attention_blocks",
        ):
            value = getattr(self, name)
            if isinstance(value, (tuple, list)) and len(value) != levels:
                raise ValueError(f"UNet: {name}={value}, expected one value for each of the {levels} levels")
        if any(level not in range(levels) for level in self.attention_levels):
            raise ValueError(
                f"UNet: attention_levels={self.attention_levels}, expected levels in 0..{levels - 1}"
            )
        if self.num_classes is not None and self.vector_dim is not None:
            raise ValueError(
                f"UNet: num_classes={self.num_classes} and vector_dim={self.vector_dim}, expected at most one"
            )
        if isinstance(self.num_classes, str) and self.num_classes != "continuous":
            raise ValueError(f"UNet: num_classes={self.num_classes!r}, expected an int, 'continuous' or None")
        if self.num_heads_upsample is not None and self.num_heads is None:
            raise ValueError(
                f"UNet: num_heads_upsample={self.num_heads_upsample}, expected None beside head_dim"
            )
        for level in self.attention_levels if self.num_heads_upsample is not None else ():
            if (width := self.channels * self.channel_mult[level]) % self.num_heads_upsample:
                raise ValueError(
                    f"UNet: level {level} has {width} channels, expected a multiple of "
                    f"num_heads_upsample={self.num_heads_upsample}"
                )
        for level in {*self.attention_levels, levels - 1}:
            width, size = (
                self.channels * self.channel_mult[level],
                _at(self.num_heads or self.head_dim, level),
            )
            if width % size:
                what = "num_heads" if self.head_dim is None else "head_dim"
                raise ValueError(
                    f"UNet: level {level} has {width} channels, expected a multiple of {what}={size}"
                )

    def _check_inputs(self, x: Array, t: Array, cond: Cond):
        b, factor = x.shape[0], 2 ** (len(self.channel_mult) - 1)
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"UNet: x is {x.shape[1]} x {x.shape[2]}, expected multiples of {factor} (2^(levels - 1))"
            )
        if t.shape != (b,):
            raise ValueError(f"UNet: t has shape {t.shape}, expected ({b},), one timestep per example of x")
        if cond.concat is not None and cond.concat.shape[:3] != x.shape[:3]:
            raise ValueError(
                f"UNet: cond.concat has shape {cond.concat.shape}, expected {x.shape[:3]} and channels, as x"
            )
        channels = x.shape[-1] + (0 if cond.concat is None else cond.concat.shape[-1])
        if channels != self.in_channels:
            raise ValueError(
                f"UNet: x has {x.shape[-1]} channels and cond.concat {channels - x.shape[-1]}, expected "
                f"in_channels={self.in_channels} together"
            )
        wants_vector = self.num_classes is not None or self.vector_dim is not None
        if wants_vector != (cond.vector is not None):
            got = "is missing" if cond.vector is None else f"of shape {cond.vector.shape} is given"
            raise ValueError(
                f"UNet: cond.vector {got}, but num_classes={self.num_classes} and vector_dim={self.vector_dim}"
            )
        if wants_vector:
            wanted = [(b,)] if self.vector_dim is None else [(b, self.vector_dim)]
            wanted += [(b, 1)] if self.num_classes == "continuous" else []
            if cond.vector.shape not in wanted:
                raise ValueError(f"UNet: cond.vector has shape {cond.vector.shape}, expected {wanted[0]}")
            if isinstance(self.num_classes, int) and not jnp.issubdtype(cond.vector.dtype, jnp.integer):
                raise ValueError(
                    f"UNet: cond.vector is {cond.vector.dtype}, expected int32 labels below {self.num_classes}"
                )
        if (self.guidance_dim is None) != (cond.guidance is None):
            got = "is missing" if cond.guidance is None else "is given"
            raise ValueError(f"UNet: cond.guidance {got}, but guidance_dim={self.guidance_dim}")
        if (self.context_dim is None) != (cond.context is None):
            got = "is missing" if cond.context is None else "is given"
            raise ValueError(f"UNet: cond.context {got}, but context_dim={self.context_dim}")
        for c in _each(cond.context):
            if c.ndim not in (3, 4) or c.shape[-1] != self.context_dim or c.shape[-3] != b:
                raise ValueError(
                    f"UNet: cond.context has shape {c.shape}, expected ({b}, L, {self.context_dim}) or one such "
                    "per cross-attention site"
                )


def coordinates(x: Array) -> Array:
    """[B, h, w, 2] of x [B, h, w, c]: (y, x) of each cell's center, from -1 to 1."""
    b, h, w, _ = x.shape
    y, x_ = jnp.meshgrid((2 * jnp.arange(h) + 1) / h - 1, (2 * jnp.arange(w) + 1) / w - 1, indexing="ij")
    return jnp.broadcast_to(jnp.stack([y, x_], axis=-1).astype(x.dtype), (b, h, w, 2))


def _at(value, level: int):
    """A field's value at a level: the field is one value for all levels, or one per level."""
    return value[level] if isinstance(value, (tuple, list)) else value


def _each(context: Context) -> tuple[Array, ...]:
    return () if context is None else context if isinstance(context, tuple) else (context,)


def _check_site_contexts(context: Context, num_sites: int):
    for c in _each(context):
        if c.ndim == 4 and c.shape[0] != num_sites:
            raise ValueError(
                f"UNet: cond.context has {c.shape[0]} contexts, expected {num_sites}, one per cross-attention"
            )


def apply_unet(
    unet: nn.Module,
    params,
    x: Array,
    t: Array,
    cond: Cond = Cond(),  # noqa: B008
    control: Control | None = None,
    dropout_key: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Calls `unet` and collects what `control` records: (prediction [B, h, w, out_channels], taps).

    params: the tree under 'params'. dropout_key: a PRNG key turns dropout on; None leaves it off. taps:
    {'<site name>/<site kind>': what control.record returned there}, {} without a control. Arguments otherwise
    as UNet.__call__.
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    args = ({"params": params}, x, t, cond, control, dropout_key is None)
    if control is None:
        return unet.apply(*args, rngs=rngs), {}
    out, collections = unet.apply(*args, rngs=rngs, mutable=["taps"])
    return out, _flat_taps(collections.get("taps", {}))


def _flat_taps(tree: dict) -> dict[str, Array]:
    """The taps by their own names: a tap's key has a '/', a module's never."""
    flat = {}
    for key, value in tree.items():
        flat |= {key: value} if "/" in key else _flat_taps(value)
    return flat


class _Log:
    """Entries that a survey leaves while it is traced; hashed by identity, so that it may sit in a
    treedef."""

    def __init__(self):
        self.entries: dict[Site, tuple[int, ...]] = {}


class _Survey(Control):
    """Changes nothing and notes every site with the shape of the value it would hand to `record`."""

    log: _Log = struct.field(pytree_node=False)

    def record(self, site, value):
        self.log.entries[site] = value.shape


def site_table(
    unet: nn.Module,
    x_shape: tuple[int, ...],
    cond: Cond = Cond(),  # noqa: B008
) -> list[tuple[Site, tuple[int, ...]]]:
    """Every site of `unet` in the order of the forward pass, with the shape of its value; nothing is
    computed.

    x_shape: (B, h, w, c). cond: arrays or jax.ShapeDtypeStructs. The shape is that of the probs [B, heads, N,
    K] at sites of kind 'self' and 'cross', of the features [B, h, w, C] at 'res', 'encoder', 'skip' and 'trunk', [B, N,
    C] at 'stream'.
    """
    log = _Log()

    x, t = jax.ShapeDtypeStruct(x_shape, jnp.float32), jax.ShapeDtypeStruct(x_shape[:1], jnp.int32)
    jax.eval_shape(lambda x, t, cond: unet.init(jax.random.key(0), x, t, cond, _Survey(log)), x, t, cond)
    return list(log.entries.items())
