"""The original's networks once more, in PyTorch and of our own writing: what the corpus' arrays and names come from.

Written from descriptions of the original (names of its state dict, order of its layers, formulas) and not from this
package, so that the two can disagree. Checked against arrays that the original's own code gave: see README.md.
Source: CompVis/latent-diffusion@a506df5 and Stability-AI/stablediffusion@cf1d67a, ldm/modules/ and
ldm/models/autoencoder.py.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps)


def attend(q, k, v, heads: int):
    """q [B, N, H D], k and v [B, K, H D] -> [B, N, H D], head by head."""
    q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Resample(nn.Module):
    """Between the levels of a UNet: nearest neighbors up, every second pixel or the mean of four down."""

    def __init__(self, channels: int, up: bool, conv: bool):
        super().__init__()
        self.up = up
        if conv and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif conv:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            return self.conv(x) if hasattr(self, "conv") else x
        return self.op(x) if hasattr(self, "op") else F.avg_pool2d(x, 2)


class ResBlock(nn.Module):
    def __init__(self, channels, out, embedded, dropout=0.0, scale_shift=False, resample=None):
        super().__init__()
        self.scale_shift = scale_shift
        self.move = None if resample is None else Resample(channels, resample == "up", conv=False)
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, (2 if scale_shift else 1) * out))
        self.out_layers = nn.Sequential(
            norm(out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1)
        )
        if channels != out:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x, emb, context):
        h = self.in_layers[1](self.in_layers[0](x))
        if self.move is not None:
            h, x = self.move(h), self.move(x)
        h = self.in_layers[2](h)
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        return h + (self.skip_connection(x) if hasattr(self, "skip_connection") else x)


class AttentionBlock(nn.Module):
    """new_order: q, k and v of all heads one after the other; otherwise those of each head in turn."""

    def __init__(self, channels: int, heads: int, new_order: bool):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb, context):
        qkv = self.qkv(self.norm(x.flatten(2))).transpose(1, 2)
        if self.new_order:
            q, k, v = qkv.chunk(3, -1)
        else:
            q, k, v = (a.flatten(2) for a in qkv.unflatten(-1, (self.heads, 3, -1)).unbind(3))
        return x + self.proj_out(attend(q, k, v, self.heads).transpose(1, 2)).view_as(x)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context, inner, bias=False)
        self.to_v = nn.Linear(context, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(0.0))

    def forward(self, x, context):
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GEGLU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, context: int, no_self: bool):
        super().__init__()
        self.no_self = no_self
        self.attn1 = CrossAttention(width, context if no_self else width, heads, width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, context):
        h = self.norm1(x)
        x = x + self.attn1(h, context if self.no_self else h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels, heads, context, depth, linear, no_self):
        super().__init__()
        self.linear = linear
        self.norm = norm(channels, 1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        blocks = [TransformerBlock(channels, heads, context, no_self) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x, emb, context):
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)
        h = self.proj_in(h) if self.linear else h
        for block in self.transformer_blocks:
            h = block(h, context)
        h = self.proj_out(h) if self.linear else h
        h = h.transpose(1, 2).reshape(x.shape)
        return x + (h if self.linear else self.proj_out(h))


class Steps(nn.Sequential):
    def forward(self, x, emb, context):
        for layer in self:
            x = layer(x) if isinstance(layer, Resample | nn.Conv2d) else layer(x, emb, context)
        return x


def timestep_embedding(t, width: int):
    half = width // 2
    angles = t[:, None].double() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], -1).float()


class UNetModel(nn.Module):
    """The options and defaults of the original's constructor; those without an effect are passed over."""

    def __init__(
        self, in_channels, model_channels, out_channels, num_res_blocks, attention_resolutions, dropout=0.0,
        channel_mult=(1, 2, 4, 8), conv_resample=True, num_classes=None, num_heads=-1, num_head_channels=-1,
        num_heads_upsample=-1,
        use_scale_shift_norm=False, resblock_updown=False, use_new_attention_order=False, use_spatial_transformer=False,
        transformer_depth=1, context_dim=None, n_embed=None, legacy=True, disable_self_attentions=None,
        num_attention_blocks=None,
        disable_middle_self_attn=False, use_linear_in_transformer=False, adm_in_channels=None, **_,
    ):  # fmt: skip
        super().__init__()
        mc, levels, embedded = model_channels, len(channel_mult), 4 * model_channels
        counts = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        attended = num_attention_blocks or [n + 1 for n in counts]
        self.width, self.num_classes, self.n_embed = mc, num_classes, n_embed
        self.time_embed = nn.Sequential(nn.Linear(mc, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        if isinstance(num_classes, int):
            self.label_emb = nn.Embedding(num_classes, embedded)
        elif num_classes == "continuous":
            self.label_emb = nn.Linear(1, embedded)
        elif num_classes == "sequential":
            self.label_emb = nn.Sequential(
                nn.Sequential(nn.Linear(adm_in_channels, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
            )

        def res(channels, out, resample=None):
            return ResBlock(channels, out, embedded, dropout, use_scale_shift_norm, resample)

        def attention(channels, no_self, up=False):
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            if use_spatial_transformer:
                return SpatialTransformer(
                    channels, heads, context_dim, transformer_depth, use_linear_in_transformer, no_self
                )
            if up and num_head_channels == -1 and legacy and num_heads_upsample != -1:
                heads = num_heads_upsample
            return AttentionBlock(channels, heads, use_new_attention_order)

        no_self = disable_self_attentions or [False] * levels
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(in_channels, mc, 3, padding=1))])
        channels, skips = mc, [mc]
        for level, mult in enumerate(channel_mult):
            for j in range(counts[level]):
                layers, channels = [res(channels, mult * mc)], mult * mc
                if 2**level in attention_resolutions and j < attended[level]:
                    layers.append(attention(channels, no_self[level]))
                self.input_blocks.append(Steps(*layers))
                skips.append(channels)
            if level < levels - 1:
                down = (
                    res(channels, channels, "down")
                    if resblock_updown
                    else Resample(channels, False, conv_resample)
                )
                self.input_blocks.append(Steps(down))
                skips.append(channels)
        middle = attention(channels, disable_middle_self_attn)
        self.middle_block = Steps(res(channels, channels), middle, res(channels, channels))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for j in range(counts[level] + 1):
                layers, channels = [res(channels + skips.pop(), mult * mc)], mult * mc
                if 2**level in attention_resolutions and j < attended[level]:
                    layers.append(attention(channels, no_self[level], up=True))
                if level and j == counts[level]:
                    layers.append(
                        res(channels, channels, "up")
                        if resblock_updown
                        else Resample(channels, True, conv_resample)
                    )
                self.output_blocks.append(Steps(*layers))
        self.out = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(mc, out_channels, 3, padding=1))
        if n_embed is not None:
            self.id_predictor = nn.Sequential(norm(channels), nn.Conv2d(mc, n_embed, 1))

    def forward(self, x, t, context=None, y=None):
        """x [B, C, h, w], t [B], context [B, L, D], y labels [B] or vectors [B, D] -> [B, out_channels or n_embed, h,
        w]."""
        emb = self.time_embed(timestep_embedding(t, self.width))
        if self.num_classes is not None:
            emb = emb + self.label_emb(y)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), emb, context)
        return self.out(x) if self.n_embed is None else self.id_predictor(x)


# --------------------------------------------------------------------------------------------------- the first stage


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = norm(channels, 1e-6), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out, 1e-6), nn.Conv2d(out, out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v, 1).transpose(1, 2).reshape(x.shape))


class LinearAttention(nn.Module):
    """Without a norm and without a residual, as the original has it."""

    def __init__(self, channels: int):
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        q, k, v = self.to_qkv(x).flatten(2).chunk(3, 1)
        summary = k.softmax(-1) @ v.transpose(1, 2)  # [B, d, e]
        return self.to_out((summary.transpose(1, 2) @ q).reshape(x.shape))


class Halve(nn.Module):
    def __init__(self, channels: int, conv: bool):
        super().__init__()
        if conv:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1))) if hasattr(self, "conv") else F.avg_pool2d(x, 2)


class Double(nn.Module):
    def __init__(self, channels: int, conv: bool):
        super().__init__()
        if conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if hasattr(self, "conv") else x


def _attention(kind: str, channels: int) -> nn.Module:
    return {"vanilla": AttnBlock, "linear": LinearAttention, "none": lambda c: nn.Identity()}[kind](channels)


class Level(nn.Module):
    def __init__(self, widths, attends: bool, kind: str, dropout: float):
        super().__init__()
        self.block = nn.ModuleList(
            [ResnetBlock(a, b, dropout) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.attn = nn.ModuleList([_attention(kind, width) for width in widths[1:]] if attends else [])

    def forward(self, x):
        for i, block in enumerate(self.block):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        return x


class Tower(nn.Module):
    """The original's Encoder or Decoder."""

    def __init__(
        self, decodes, ch, out_ch, num_res_blocks, attn_resolutions, in_channels, resolution, z_channels,
        ch_mult=(1, 2, 4, 8),
        dropout=0.0, resamp_with_conv=True, double_z=True, tanh_out=False, use_linear_attn=False, attn_type="vanilla",
    ):  # fmt: skip
        super().__init__()
        kind = "linear" if use_linear_attn else attn_type
        self.decodes, self.tanh_out = decodes, tanh_out
        levels, deepest = len(ch_mult), ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(
            z_channels if decodes else in_channels, deepest if decodes else ch, 3, padding=1
        )
        stages, width = [None] * levels, deepest if decodes else ch
        for level in reversed(range(levels)) if decodes else range(levels):
            out = ch * ch_mult[level]
            widths = [width] + [out] * (num_res_blocks + decodes)
            stages[level] = Level(widths, resolution // 2**level in attn_resolutions, kind, dropout)
            width = out
            if decodes and level:
                stages[level].upsample = Double(width, resamp_with_conv)
            if not decodes and level < levels - 1:
                stages[level].downsample = Halve(width, resamp_with_conv)
        setattr(self, "up" if decodes else "down", nn.ModuleList(stages))
        self.mid = nn.Module()
        self.mid.block_1 = ResnetBlock(deepest, deepest, dropout)
        self.mid.attn_1 = _attention(kind, deepest)
        self.mid.block_2 = ResnetBlock(deepest, deepest, dropout)
        self.norm_out = norm(ch * ch_mult[0] if decodes else deepest, 1e-6)
        out = out_ch if decodes else z_channels * (2 if double_z else 1)
        self.conv_out = nn.Conv2d(ch * ch_mult[0] if decodes else deepest, out, 3, padding=1)

    def middle(self, x):
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))

    def forward(self, x):
        x = self.conv_in(x)
        if self.decodes:
            x = self.middle(x)
            for level in reversed(self.up):
                x = level(x)
                x = level.upsample(x) if hasattr(level, "upsample") else x
        else:
            for level in self.down:
                x = level(x)
                x = level.downsample(x) if hasattr(level, "downsample") else x
            x = self.middle(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x.tanh() if self.decodes and self.tanh_out else x


class Autoencoder(nn.Module):
    """AutoencoderKL, or with n_embed VQModelInterface: `encode` gives the mean, or what comes before the codes."""

    def __init__(self, ddconfig, embed_dim, n_embed=None, colorize_nlabels=None, **_):
        super().__init__()
        z, twice = ddconfig["z_channels"], 1 if n_embed else 2
        self.encoder, self.decoder = Tower(False, **ddconfig), Tower(True, **ddconfig)
        if n_embed:
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(twice * z, twice * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z, 1)
        if colorize_nlabels:
            self.register_buffer("colorize", torch.randn(3, colorize_nlabels, 1, 1))
        self.embed_dim = embed_dim

    def encode(self, x):
        return self.quant_conv(self.encoder(x))[:, : self.embed_dim]

    def decode(self, z):
        if hasattr(self, "quantize"):
            codes, flat = self.quantize.embedding.weight, z.permute(0, 2, 3, 1).flatten(0, 2)
            nearest = codes[torch.cdist(flat.double(), codes.double()).argmin(1)]
            z = nearest.reshape(z.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))
