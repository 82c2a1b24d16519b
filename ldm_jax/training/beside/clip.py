"""A pair of CLIP's towers that learns which caption belongs to which picture, and so to say what is in others.

Decides the small sizes, the words (those of the shapes world, or a tokenizer.json of other data) and the loss; the
towers are models/clip_vision.py and models/clip_text.py. What is done with them is metrics/zero_shot.py.
Source: Radford et al. 2021 (arXiv:2103.00020), section 2.3 and figure 3: the cross-entropy of captions given pictures
and of pictures given captions, over a batch, at a learned temperature whose inverse is 100 at most.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ldm_jax.conditioning import text
from ldm_jax.models.clip_text import CLIPTextTransformer
from ldm_jax.models.clip_vision import CLIPVisionTransformer
from ldm_jax.shapes_world.scenes import WORDS
from ldm_jax.training.beside.base import Learner, check_fields, picture, pixels
from ldm_jax.types import Array, PyTree

MOST = np.log(100.0)  # of the logarithm of the inverse temperature
START = np.log(1 / 0.07)


class ClipPair(nn.Module):
    """images [B, H, W, 3] float in [-1, 1], tokens [B, L] int32 -> their embeddings, [B, D] each, not of unit length,
    and the inverse temperature."""

    vision: CLIPVisionTransformer
    text: CLIPTextTransformer

    def setup(self) -> None:
        self.scale = self.param("scale", nn.initializers.constant(START), (), jnp.float32)

    def __call__(self, images: Array, tokens: Array) -> tuple[Array, Array, Array]:
        return self.see(images), self.read(tokens), jnp.exp(jnp.minimum(self.scale, MOST))

    def see(self, images: Array) -> Array:
        return self.vision(images)

    def read(self, tokens: Array) -> Array:
        return self.text(tokens).pooled


def learner(
    *,
    image_size: int = 64,
    patch_size: int = 8,
    width: int = 96,
    num_layers: int = 4,
    text_layers: int = 3,
    num_heads: int = 4,
    embedding: int = 64,
    max_length: int = 24,
    tokenizer: str = "",
    learning_rate: float = 1e-3,
) -> Learner:
    """tokenizer: a tokenizer.json; by default the words of the shapes world. Examples need `image` and `caption`.

    Raises: ValueError for an example without a caption, or a tokenizer that cannot be read.
    """
    words = tokenizer_of(tokenizer, max_length)
    network = ClipPair(
        CLIPVisionTransformer(width, num_layers, num_heads, patch_size, embedding, image_size, "gelu"),
        CLIPTextTransformer(
            words.get_vocab_size(), width, text_layers, num_heads, words.truncation["max_length"], "gelu",
            projection_dim=embedding, eos_id=words.token_to_id("[EOS]") if not tokenizer else None,
        ),
    )  # fmt: skip

    def init(key: Array) -> PyTree:
        tokens = jnp.zeros((1, words.truncation["max_length"]), jnp.int32)
        return network.init(key, jnp.zeros((1, image_size, image_size, 3)), tokens)["params"]

    def loss(params: PyTree, batch: Mapping[str, Array], key: Array) -> tuple[Array, dict]:
        seen, said, scale = network.apply({"params": params}, pixels(batch["image"]), batch["tokens"])
        return contrastive(seen, said, scale)

    def example(fields: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        check_fields("clip", fields, "caption")
        tokens = text.tokenize([str(fields["caption"])], words)["tokens"][0]
        return {"image": picture(fields, image_size), "tokens": tokens}

    return Learner(network, init, loss, example, learning_rate=learning_rate)


def tokenizer_of(path: str, max_length: int) -> Any:
    return text.load_tokenizer(path) if path else text.word_level_tokenizer(WORDS, max_length)


def contrastive(seen: Array, said: Array, scale: Array) -> tuple[Array, dict[str, Array]]:
    """The loss of embeddings seen and said [B, D] of pictures and their captions; and how often a picture's own caption
    is the nearest."""
    seen, said = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (seen, said))
    logits, own = scale * seen @ said.T, jnp.arange(len(seen))
    ways = [optax.softmax_cross_entropy_with_integer_labels(way, own).mean() for way in (logits, logits.T)]
    return sum(ways) / 2, {"right": (logits.argmax(-1) == own).mean(), "scale": scale}


def embed_images(network: ClipPair, params: PyTree, images: Array) -> Array:
    """images [B, H, W, 3] uint8 -> [B, D]."""
    return network.apply({"params": params}, pixels(images), method=network.see)


def embed_captions(
    network: ClipPair, params: PyTree, options: Mapping, captions: Sequence[str]
) -> np.ndarray:
    """captions -> [N, D]. options: of `learner`, as they were given."""
    words = tokenizer_of(options.get("tokenizer", ""), network.text.max_length)
    tokens = text.tokenize(captions, words)["tokens"]
    read = jax.jit(lambda params, tokens: network.apply({"params": params}, tokens, method=network.read))
    return np.asarray(read(params, tokens))
