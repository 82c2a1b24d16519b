"""CLIP score: how well an image fits its caption, as the cosine of CLIP's embeddings of both.

Source: Hessel et al. 2021 (arXiv:2104.08718) eq. 1; the mean over images of 100 max(cos, 0), as the field quotes it
(the paper's own weight is 2.5). Also decides how pixels reach CLIP's image tower: that of openai/CLIP clip.py. The
towers are models/clip_vision.py and models/clip_text.py.
"""

import numpy as np

from ldm_jax.data import transforms
from ldm_jax.metrics.features import Extractor, params_hash
from ldm_jax.models.clip_vision import MEAN, STD, CLIPVisionTransformer
from ldm_jax.types import Array, PyTree


def prepare(image: np.ndarray, size: int = 224) -> np.ndarray:
    """image [H, W, 3] uint8 -> [size, size, 3] float32: the shorter side to `size` by Pillow's bicubic, the middle,
    CLIP's normalization."""
    height, width = image.shape[:2]
    short = min(height, width)
    image = transforms.resize(image, size * height // short, size * width // short, "bicubic")
    return (transforms.center_crop(image, size).astype(np.float32) / np.float32(255) - MEAN) / STD


def clip_extractor(name: str, model: CLIPVisionTransformer, params: PyTree) -> Extractor:
    """The image tower as an extractor with the layer `embedding` [B, projection_dim]. name: of the weights."""

    def apply(params: PyTree, batch: Array) -> dict[str, Array]:
        return {"embedding": model.apply({"params": params}, batch)}

    return Extractor(
        name, params_hash(params), "clip", params, lambda image: prepare(image, model.image_size), apply
    )


def clip_scores(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> np.ndarray:
    """100 max(cosine, 0) of each image [N, D] and its own caption [N, D]: [N] float64 in [0, 100].

    Raises: ValueError if the shapes differ.
    """
    if image_embeddings.shape != text_embeddings.shape:
        raise ValueError(
            f"CLIP score: image embeddings {image_embeddings.shape} and text embeddings {text_embeddings.shape}, "
            "expected one caption for each image, from towers of one model"
        )
    a, b = (np.asarray(x, np.float64) for x in (image_embeddings, text_embeddings))
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return 100.0 * np.maximum(cosine, 0.0)
