"""Conditioning of Stable Diffusion XL: text through two of CLIP's towers, and the sizes of the picture.

Decides how the towers' outputs and the embedded sizes become one Cond, which sizes a user who gives none
means, and what "no text" is. The towers are models/clip_text.py, the tokenizers those of
conditioning/clip.py.
Source: Podell et al. 2023 (arXiv:2307.01952) sections 2.1, 2.2; Stability-AI/generative-models
sgm/modules/encoders/modules.py GeneralConditioner, ConcatTimestepEmbedderND.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ldm_jax.conditioning import chunks, clip, emphasis, text
from ldm_jax.conditioning.base import Setting, numbers
from ldm_jax.config import clip_skip
from ldm_jax.models.clip_text import CLIPTextTransformer, end_positions
from ldm_jax.models.layers import timestep_embedding
from ldm_jax.types import Array, Cond

TAKES = ("prompts", "prompts_2", "original_sizes", "crops", "target_sizes", "aesthetic_scores")
OPTIONAL = TAKES[1:]
EXAMPLE = {
    "prompts": "caption",
    "prompts_2": "caption_2",
    "original_sizes": "original_size",
    "crops": "crop",
    "target_sizes": "target_size",
    "aesthetic_scores": "aesthetic_score",
}
DROPS = ("tokens", "tokens_2", "keep", "aesthetic_scores")
ENCODES = ()
WEIGHTS = {"tokens_weights": "tokens", "tokens_2_weights": "tokens_2"}
TOKENIZERS = clip.TOKENIZERS

AESTHETIC, NULL_AESTHETIC = 6.0, 2.5  # what the original's demo gives the refiner with and without a prompt
NEGATIVE = {"aesthetic_scores": NULL_AESTHETIC}  # what goes with a negative prompt


class Conditioner(nn.Module):
    """Tokens and sizes to Cond(context, vector).

    clip_l, clip_g: fields of models.clip_text.CLIPTextTransformer for CLIP's own tower and OpenCLIP's; the
    refiner has clip_l=None. vocab_size, max_length: of a tower that does not say. One tokenizer serves both:
    in clip_g whatever follows a caption's end is `pad_id_g`. eos_id: see models.clip_text.end_positions.
    layer: of both towers, as of config.clip_skip.
    use_aesthetic: the sizes are original, crop and the aesthetic score, as in the refiner, and not original,
    crop and target, as in the base.
    force_zeros: "no text" is zeros in place of what the towers give, as in the base, and not the empty
    caption, as in the refiner. None, of both: as in the refiner if there is no clip_l. size_width: of the
    embedding of one number.
    """

    clip_g: Mapping[str, Any]
    clip_l: Mapping[str, Any] | None = None
    vocab_size: int = 49408
    max_length: int = 77
    eos_id: int | None = None
    pad_id_g: int = 0
    use_aesthetic: bool | None = None
    force_zeros: bool | None = None
    size_width: int = 256
    layer: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs as of `inputs` below -> Cond(context [B, L, D_l + D_g], vector [B, P + n size_width]
        float32).

        L: of prompts in several parts (chunks.py) that many times a tower's length; what is pooled is the first one's.
        context: of each tower its `layer`, the one before the last, not normed, side by side. vector: clip_g's pooled
        output, then the n numbers of the sizes, 6, or 5 with use_aesthetic. deterministic changes nothing
        here.
        """
        refiner = self.clip_l is None
        use_aesthetic = refiner if self.use_aesthetic is None else self.use_aesthetic
        force_zeros = not refiner if self.force_zeros is None else self.force_zeros
        length = min(inputs["tokens"].shape[1], self.clip_g.get("max_length", self.max_length))
        tokens, tokens_2 = (chunks.apart(inputs[name], length) for name in ("tokens", "tokens_2"))
        number = len(tokens) // len(inputs["tokens"])  # parts of a prompt
        after_end = jnp.arange(tokens_2.shape[1]) > end_positions(tokens_2, self.eos_id)[:, None]
        out = self._tower(self.clip_g, "clip_g")(
            jnp.where(after_end, self.pad_id_g, tokens_2), skip=clip_skip(self.layer) - 1, final_norm=False
        )
        first = jnp.arange(0, len(tokens), number)  # the first part of each prompt
        pooled = out.pooled.astype(jnp.float32)[first] if number > 1 else out.pooled.astype(jnp.float32)
        context = self._weighed(out.hidden, inputs, "tokens_2_weights")
        if self.clip_l is not None:
            out = self._tower(self.clip_l, "clip_l")(tokens, skip=clip_skip(self.layer) - 1, final_norm=False)
            context = jnp.concatenate([self._weighed(out.hidden, inputs, "tokens_weights"), context], axis=-1)
        if force_zeros:
            keep = inputs["keep"].astype(jnp.float32)
            context = context * keep[:, None, None].astype(context.dtype)
            pooled = pooled * keep[:, None]
        sizes = inputs["sizes"]
        if use_aesthetic:
            sizes = jnp.concatenate([sizes[:, :4], inputs["aesthetic_scores"][:, None]], axis=1)
        embedded = timestep_embedding(sizes.reshape(-1), self.size_width).reshape(len(sizes), -1)
        return Cond(context=context, vector=jnp.concatenate([pooled, embedded], axis=1))

    def _weighed(self, hidden: Array, inputs: Mapping[str, Array], key: str) -> Array:
        """hidden [B * n, L, D] of n parts of each prompt -> [B, n * L, D], weighed."""
        length, number = hidden.shape[1], inputs["tokens"].shape[0]
        return emphasis.weighed(hidden.reshape(number, -1, hidden.shape[-1]), inputs.get(key), length)

    def _tower(self, fields: Mapping[str, Any], name: str) -> CLIPTextTransformer:
        shared = {
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "eos_id": self.eos_id,
            "dtype": self.dtype,
        }
        return CLIPTextTransformer(**shared | dict(fields), name=name)


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given: 'prompts' [B] strings, and perhaps 'prompts_2' [B] strings for clip_g, the prompts by default,
    'original_sizes' and 'target_sizes' [B, 2] (height, width) in
    pixels, setting.image_shape by default; 'crops' [B, 2] (top, left), (0, 0); 'aesthetic_scores' [B], 6.0.

    Returns: {'tokens': [B, L] int32, 'tokens_2': [B, L] int32, clip_g's, 'keep': [B] float32 (1: there is a prompt, be
    it empty), 'sizes': [B, 6] float32 (original, crop, target), 'aesthetic_scores': [B] float32}.
    Raises: ValueError without a tokenizer, or for numbers of other shapes.
    """
    tokens = tokens_2 = text.inputs(given, setting)["tokens"]
    if given.get("prompts_2") is not None:
        tokens_2 = text.inputs({"prompts": given["prompts_2"]}, setting)["tokens"]
        if len(tokens_2) != len(tokens):
            raise ValueError(
                f"sdxl: {len(tokens_2)} prompts_2, expected one for each of the {len(tokens)} prompts"
            )
    for tower, read in ((setting.conditioner.clip_l, tokens), (setting.conditioner.clip_g, tokens_2)):
        if tower is not None:
            text.check_ids(read, tower.get("vocab_size", setting.conditioner.vocab_size))
    shape = tuple(setting.image_shape)

    def each(name, default):
        if given.get(name) is None:
            return np.broadcast_to(np.float32(default), (len(tokens), *np.shape(default)))
        array = numbers(given[name], np.shape(default), f"sdxl: {name}")
        if len(array) != len(tokens):
            raise ValueError(f"sdxl: {len(array)} {name}, expected one for each of the {len(tokens)} prompts")
        return array

    sizes = [each("original_sizes", shape), each("crops", (0, 0)), each("target_sizes", shape)]
    return {
        "tokens": tokens,
        "tokens_2": tokens_2,
        "keep": np.ones(len(tokens), np.float32),
        "sizes": np.concatenate(sizes, axis=1),
        "aesthetic_scores": np.array(each("aesthetic_scores", AESTHETIC)),
    }


def weights(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """As of text.weights, {'tokens_weights', 'tokens_2_weights'}: of each tower, whose means are restored apart. What
    clip_g pools is not weighed, as in the original of the notation."""
    first = second = text.token_weights(given["prompts"], setting.tokenizer, setting.in_parts)
    if given.get("prompts_2") is not None:
        second = text.token_weights(given["prompts_2"], setting.tokenizer, setting.in_parts)
    return {"tokens_weights": first, "tokens_2_weights": second}


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of the empty caption at the default sizes, with 'keep' 0 and the lower aesthetic score,
    2.5."""
    conditioner = setting.conditioner
    if setting.tokenizer is None:
        length = conditioner.clip_g.get("max_length", conditioner.max_length)
        tokens = np.zeros((batch_size, length), np.int32)
    else:
        tokens = text.null_inputs(batch_size, setting)["tokens"]
    sizes = np.tile(np.float32([*setting.image_shape, 0, 0, *setting.image_shape]), (batch_size, 1))
    return {
        "tokens": tokens,
        "tokens_2": tokens,
        "keep": np.zeros(batch_size, np.float32),
        "sizes": sizes,
        "aesthetic_scores": np.full(batch_size, NULL_AESTHETIC, np.float32),
    }
