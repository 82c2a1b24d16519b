"""The first stage: encoder, decoder, and the two ways of regularizing what lies between them (KL and VQ).

Source: Esser et al. 2021 (arXiv:2012.09841) and Rombach et al. 2022 (arXiv:2112.10752, appendix G);
CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/model.py and ldm/models/autoencoder.py. It knows
no loss, no scale of latents and no checkpoint. Attention is named by level, not by the resolution a config
was written for. Everything works at any height and width; `check_size` is for those who want the decoder to
give back the size encoded.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.models import remat
from ldm_jax.models.attention import attend
from ldm_jax.models.gaussian import DiagonalGaussian
from ldm_jax.models.layers import Conv, GroupNorm, Linear
from ldm_jax.models.quantize import Quantized, VectorQuantizer
from ldm_jax.models.remat import Remat
from ldm_jax.models.resblock import Downsample, Upsample
from ldm_jax.types import Array

EPSILON = 1e-6  # of every GroupNorm of the first stage; the UNet's is 1e-5
PADDED = ((0, 1), (0, 1))  # what downsampling convolves: zeros on the right and at the bottom only


def check_size(height: int, width: int, factor: int) -> None:
    """Raises: ValueError for an image size, in pixels, that the autoencoder's factor does not divide."""
    if height % factor or width % factor:
        raise ValueError(
            f"image size: got {height} x {width}, expected multiples of the autoencoder's factor {factor}"
        )


class ResnetBlock(nn.Module):
    """Norm, swish, conv, twice, beside a shortcut.

    x: [B, h, w, C] float into [B, h, w, features] in `dtype`.
    """

    features: int
    dropout: float = 0.0
    num_groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        h = GroupNorm(self.num_groups, EPSILON, self.dtype, silu=True, name="norm1")(x)
        h = Conv(self.features, dtype=self.dtype, name="conv1")(h)
        h = GroupNorm(self.num_groups, EPSILON, self.dtype, silu=True, name="norm2")(h)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class AttnBlock(nn.Module):
    """One head of full width attends over all positions of x [B, h, w, C] float, plus x.

    The result is in `dtype`, the softmax float32.
    """

    num_groups: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, channels = x.shape
        h = GroupNorm(self.num_groups, EPSILON, self.dtype, name="norm")(x).reshape(
            b, height * width, channels
        )
        q, k, v = (Linear(channels, dtype=self.dtype, name=name)(h) for name in "qkv")
        h = attend(*(a[:, :, None] for a in (q, k, v))).reshape(h.shape)
        h = Linear(channels, dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)


class LinearAttnBlock(nn.Module):
    """Attention whose keys are softmaxed over the positions; neither norm nor residual, as the original has
    it.

    x: [B, h, w, C] float, into the same shape in `dtype`. Cost is linear in the number of positions.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, channels = x.shape
        h = x.reshape(b, height * width, channels)
        q, k, v = jnp.split(
            Linear(3 * channels, use_bias=False, dtype=self.dtype, name="to_qkv")(h), 3, axis=-1
        )
        k = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(self.dtype)
        summary = jnp.einsum("bnd,bne->bde", k, v)
        h = jnp.einsum("bde,bnd->bne", summary, q)
        return Linear(channels, dtype=self.dtype, name="to_out")(h).reshape(x.shape)


class _Tower(nn.Module):
    """What encoder and decoder share: their fields, and how a block is made. remat: see models/remat.py."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    attn_type: str = "vanilla"
    dropout: float = 0.0
    resamp_with_conv: bool = True
    num_groups: int = 32
    remat: Remat = None
    dtype: jnp.dtype = jnp.float32

    def _resnet(self, features: int, name: str) -> ResnetBlock:
        block = remat.block("res", ResnetBlock, self.remat, static_argnums=(2,))
        return block(features, self.dropout, self.num_groups, self.dtype, name=name)

    def _attend(self, x: Array, name: str) -> Array:
        if self.attn_type == "vanilla":
            return remat.block("attention", AttnBlock, self.remat)(self.num_groups, self.dtype, name=name)(x)
        if self.attn_type == "linear":
            return LinearAttnBlock(self.dtype, name=name)(x)
        if self.attn_type == "none":
            return x
        raise ValueError(f"attn_type: got {self.attn_type!r}, expected 'vanilla', 'linear' or 'none'")

    def _middle(self, h: Array, train: bool) -> Array:
        h = self._resnet(h.shape[-1], "mid_block_1")(h, train)
        h = self._attend(h, "mid_attn_1")
        return self._resnet(h.shape[-1], "mid_block_2")(h, train)

    def _norm_out(self, h: Array) -> Array:
        return GroupNorm(self.num_groups, EPSILON, self.dtype, silu=True, name="norm_out")(h)


class Encoder(_Tower):
    """x [B, H, W, C] float into [B, h, w, z_channels, or twice that with double_z], in `dtype`.

    channels: width at full resolution; channel_mult: its multiple at each level, the resolution halving
    between levels. attention_levels: levels whose residual blocks are each followed by attention; the middle
    always has it, unless attn_type is 'none'. dropout needs rng 'dropout' when `train`.
    """

    z_channels: int = 3
    double_z: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        h = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
        for level, mult in enumerate(self.channel_mult):
            for block in range(self.num_res_blocks):
                h = self._resnet(self.channels * mult, f"down_{level}_block_{block}")(h, train)
                if level in self.attention_levels:
                    h = self._attend(h, f"down_{level}_attn_{block}")
            if level + 1 < len(self.channel_mult):
                h = Downsample(self.resamp_with_conv, PADDED, self.dtype, name=f"down_{level}_downsample")(h)
        h = self._norm_out(self._middle(h, train))
        return Conv(self.z_channels * (2 if self.double_z else 1), dtype=self.dtype, name="conv_out")(h)


class Decoder(_Tower):
    """z [B, h, w, z_channels] float into [B, H, W, out_channels] in `dtype`; one residual block more per
    level than Encoder.

    Level 0 is the highest resolution, as in Encoder. The output is not clamped. tanh_out: ends in tanh.
    give_pre_end: returns what comes before the last norm, which then is not there, nor is the last conv.
    """

    out_channels: int = 3
    give_pre_end: bool = False
    tanh_out: bool = False

    def setup(self):
        self.conv_out = Conv(self.out_channels, dtype=self.dtype)

    @nn.compact
    def features(self, z: Array, train: bool = False) -> Array:
        """[B, H, W, channels * channel_mult[0]] in `dtype`: what `last_layer` turns into the image."""
        h = Conv(self.channels * self.channel_mult[-1], dtype=self.dtype, name="conv_in")(z)
        h = self._middle(h, train)
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for block in range(self.num_res_blocks + 1):
                h = self._resnet(self.channels * mult, f"up_{level}_block_{block}")(h, train)
                if level in self.attention_levels:
                    h = self._attend(h, f"up_{level}_attn_{block}")
            if level:
                h = Upsample(self.resamp_with_conv, self.dtype, name=f"up_{level}_upsample")(h)
        return h if self.give_pre_end else self._norm_out(h)

    def last_layer(self, h: Array) -> Array:
        """The image of `features` h, [B, H, W, out_channels] in `dtype`.

        This is the conv whose kernel the adaptive weight of the adversarial loss looks at.
        """
        x = self.conv_out(h)
        return jnp.tanh(x) if self.tanh_out else x

    def __call__(self, z: Array, train: bool = False) -> Array:
        h = self.features(z, train)
        return h if self.give_pre_end else self.last_layer(h)


class _FirstStage(nn.Module):
    """The fields and the two towers of both autoencoders."""

    has_parameters = True

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    attn_type: str = "vanilla"
    z_channels: int = 3
    embed_dim: int = 3
    in_channels: int = 3
    out_channels: int = 3
    double_z: bool = True
    dropout: float = 0.0
    resamp_with_conv: bool = True
    give_pre_end: bool = False
    tanh_out: bool = False
    num_groups: int = 32
    remat: Remat = None
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        tower = {
            field: getattr(self, field)
            for field in _Tower.__dataclass_fields__
            if field not in ("parent", "name")
        }
        self.encoder = Encoder(**tower, z_channels=self.z_channels, double_z=self.double_z)
        self.decoder = Decoder(
            **tower, out_channels=self.out_channels, give_pre_end=self.give_pre_end, tanh_out=self.tanh_out
        )
        self.quant_conv = Conv(self.embed_dim * (2 if self.double_z else 1), 1, dtype=self.dtype)
        self.post_quant_conv = Conv(self.z_channels, 1, dtype=self.dtype)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def latent_channels(self) -> int:
        return self.embed_dim

    def _encoded(self, x: Array, train: bool) -> Array:
        if x.shape[-1] != self.in_channels:
            raise ValueError(f"encode: got images with {x.shape[-1]} channels, expected {self.in_channels}")
        return self.quant_conv(self.encoder(x, train)).astype(jnp.float32)

    def _decoded(self, z: Array, train: bool, return_features: bool):
        h = self.decoder.features(self.post_quant_conv(z), train)
        x = (h if self.give_pre_end else self.decoder.last_layer(h)).astype(jnp.float32)
        return (x, h) if return_features else x

    def last_layer(self, h: Array) -> Array:
        """The image, [B, H, W, out_channels] float32, of the decoder's features as `decode` returns them."""
        return self.decoder.last_layer(h).astype(jnp.float32)


class AutoencoderKL(_FirstStage):
    """The autoencoder with a Gaussian posterior, double_z True. For its fields see Encoder and Decoder.

    embed_dim: channels of the latent; z_channels: channels that the two towers speak. Call through
    apply(method=...). Init with `__call__` so that every parameter is made.
    """

    has_variance, losses = True, "kl"

    def encode(self, x: Array, train: bool = False) -> Array:
        """x [B, H, W, in_channels] float in [-1, 1] into moments [B, h, w, 2 embed_dim] float32, mean first.

        Raises: ValueError for another number of channels.
        """
        return self._encoded(x, train)

    def decode(self, z: Array, train: bool = False, return_features: bool = False):
        """z [B, h, w, embed_dim] float, unscaled, into an image [B, H, W, out_channels] float32, about [-1,
        1], not clamped.

        return_features: also what the decoder's last conv is given, [B, H, W, channels * channel_mult[0]] in
        `dtype`.
        """
        return self._decoded(z, train, return_features)

    def __call__(
        self,
        x: Array,
        key: Array | None = None,
        sample_posterior: bool = True,
        train: bool = False,
        return_features: bool = False,
        view: Callable[[Array], Array] | None = None,
    ):
        """(reconstruction [B, H, W, out_channels] float32, posterior DiagonalGaussian), and the features if
        asked for.

        x: [B, H, W, in_channels] float in [-1, 1]. key: one key, or B of them, for the posterior's sample;
        the mode is decoded when sample_posterior is False. view: what is done to the latents before they are decoded.
        Raises: ValueError when a sample is asked for without a key.
        """
        posterior = DiagonalGaussian.from_moments(self.encode(x, train))
        if sample_posterior and key is None:
            raise ValueError("AutoencoderKL: got no key, expected one unless sample_posterior is False")
        z = posterior.sample(key) if sample_posterior else posterior.mode()
        z = z if view is None else view(z)
        x_rec, h = self._decoded(z, train, True)
        return (x_rec, posterior, h) if return_features else (x_rec, posterior)


class VQModel(_FirstStage):
    """The autoencoder with a codebook of n_embed codes. For its fields see Encoder, Decoder and
    VectorQuantizer.

    Latents are what comes BEFORE quantization (the original's VQModelInterface), and `decode` quantizes
    first.
    """

    has_variance, losses = False, "vq"

    double_z: bool = False
    n_embed: int = 8192
    beta: float = 0.25
    legacy: bool = True
    remap: tuple[int, ...] | None = None
    unknown_index: str | int = "random"

    def setup(self):
        super().setup()
        self.quantize = VectorQuantizer(
            self.n_embed, self.embed_dim, self.beta, self.legacy, self.remap, self.unknown_index
        )

    def encode(self, x: Array, train: bool = False) -> Array:
        """x [B, H, W, in_channels] float in [-1, 1] into latents before quantization, [B, h, w, embed_dim]
        float32.

        Raises: ValueError for another number of channels.
        """
        return self._encoded(x, train)

    def quantized(self, z: Array) -> Quantized:
        """z [B, h, w, embed_dim] float, unscaled, to its nearest codes, their loss and their indices."""
        return self.quantize(z)

    def decode(
        self, z: Array, train: bool = False, force_not_quantize: bool = False, return_features: bool = False
    ):
        """z [B, h, w, embed_dim] float, unscaled, into an image [B, H, W, out_channels] float32, about [-1,
        1], not clamped.

        force_not_quantize: decodes z itself, not its nearest codes. return_features: as in AutoencoderKL.
        """
        return self._decoded(z if force_not_quantize else self.quantize.nearest(z), train, return_features)

    def decode_code(self, indices: Array, train: bool = False) -> Array:
        """Codebook indices [B, h, w] integer (places in `remap`, if there is one) into an image, as `decode`
        does."""
        return self._decoded(self.quantize.get_codebook_entry(indices), train, False)

    def __call__(
        self,
        x: Array,
        key: Array | None = None,
        sample_posterior: bool = True,
        train: bool = False,
        return_features: bool = False,
    ):
        """(reconstruction [B, H, W, out_channels] float32, Quantized), and the features if asked for.

        x: [B, H, W, in_channels] float in [-1, 1]. key and sample_posterior are AutoencoderKL's; there is
        nothing to draw here.
        """
        quantized = self.quantize(self.encode(x, train))
        x_rec, h = self._decoded(quantized.z_q, train, True)
        return (x_rec, quantized, h) if return_features else (x_rec, quantized)


class IdentityFirstStage(nn.Module):
    """Diffusion in pixel space (LDM-1).

    The latent is the image, [B, H, W, 3] float, and there are no parameters.
    """

    has_variance, has_parameters, losses = False, False, None
    factor, latent_channels = 1, 3

    def encode(self, x: Array, train: bool = False) -> Array:
        return x

    def decode(self, z: Array, train: bool = False) -> Array:
        return z

    def __call__(
        self, x: Array, key: Array | None = None, sample_posterior: bool = True, train: bool = False
    ):
        """(x, None): there is nothing to regularize."""
        return x, None
