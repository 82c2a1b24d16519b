"""Conditioning on a picture that says what one word of the prompt means; beside a kind that reads text.

Decides how a user gives the picture, and that without one the word is its row of the table. The encoder is
models/word_encoder.py; what it gives is added to the embedding of the word's token (text.py `offsets_of`).
Source: Gal et al. 2023, E4T (arXiv:2302.12228), section 4.1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import linen as nn
from PIL import Image

from ldm_jax.conditioning.base import Setting, pictures
from ldm_jax.models.word_encoder import WIDTHS, WordEncoder
from ldm_jax.types import Array

TAKES = ("word_images",)
OPTIONAL = TAKES
EXAMPLE = {"word_images": "image"}
DROPS = ()
ENCODES = ()
PREPARES = True  # what its Conditioner returns is added to the inputs of the other kinds

NONE = -1  # the id of no word


class Conditioner(nn.Module):
    """token: the word. width: of the text encoder's embeddings. side: what pictures are brought to, in pixels.
    widths: of the encoder. scale: of what it gives.
    """

    token: str
    width: int
    side: int = 64
    widths: tuple[int, ...] = WIDTHS
    scale: float = 0.1

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> dict[str, Array]:
        """inputs as of `inputs` below -> {'word_vectors': [B, width] float32}, scale times what the encoder gives."""
        said = WordEncoder(self.width, tuple(self.widths), name="encoder")(inputs["word_images"])
        return {"word_vectors": self.scale * said}


def inputs(given: Mapping[str, Sequence], setting: Setting) -> dict[str, np.ndarray]:
    """given, maybe {'word_images': B pictures [H, W, 3] of any size, uint8 or floats in [-1, 1]} ->
    {'word_images': [B, side, side, 3] float32, 'word_ids': [B] int32}, as of `null_inputs` without.

    Raises: ValueError for another range or shape, or a word that the vocabulary does not have.
    """
    images = given.get("word_images")
    if images is None:
        return null_inputs(len(next(iter(given.values()), ())), setting)
    side = setting.conditioner.side
    token = setting.conditioner.token
    number = None if setting.tokenizer is None else setting.tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"word_encoder: the model's vocabulary does not have the word {token!r}")
    small = [_resized(np.asarray(image), side) for image in images]
    return {
        "word_images": pictures(small, side, side, "word_encoder: word_images"),
        "word_ids": np.full(len(small), number, np.int32),
    }


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a picture as [side, side, 3]; what is no picture, as it is."""
    if image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < 1:
        return image
    least = min(image.shape[:2])
    top, left = ((n - least) // 2 for n in image.shape[:2])
    square = image[top : top + least, left : left + least]
    if least == side:
        return square
    if square.dtype == np.uint8:
        return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BOX))
    planes = [
        Image.fromarray(plane).resize((side, side), Image.Resampling.BOX)
        for plane in np.moveaxis(square.astype(np.float32), -1, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """As `inputs` of pictures that no word stands for."""
    side = setting.conditioner.side
    return {
        "word_images": np.zeros((batch_size, side, side, 3), np.float32),
        "word_ids": np.full(batch_size, NONE, np.int32),
    }
