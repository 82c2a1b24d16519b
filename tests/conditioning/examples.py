"""A small example of every kind of conditioning, for the contract test: what two users give, and a Conditioner."""

from typing import NamedTuple

import numpy as np

from ldm_jax.conditioning import (
    class_label,
    clip,
    depth,
    inpaint,
    layout,
    retrieval,
    sdxl,
    semantic,
    superres,
    text,
    upscale,
)
from ldm_jax.conditioning.base import Setting

LATENT_SHAPE, IMAGE_SIZE = (4, 4, 3), 16


class Example(NamedTuple):
    """given: two of each of the kind's TAKES, different from each other. setting: with a small Conditioner."""

    given: dict
    setting: Setting


def setting(conditioner, tokenizer=None) -> Setting:
    return Setting(conditioner, tokenizer, LATENT_SHAPE, IMAGE_SIZE)


def _class_label() -> Example:
    return Example({"class_labels": [1, 2]}, setting(class_label.Conditioner(num_classes=5, width=3)))


def _text() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    conditioner = text.Conditioner(
        vocab_size=tokenizer.get_vocab_size(), width=8, num_layers=1, max_length=6, num_heads=2
    )
    return Example({"prompts": ["a red circle", "a circle"]}, setting(conditioner, tokenizer))


def _layout() -> Example:
    conditioner = layout.Conditioner(
        width=8, num_layers=1, vocab_size=27, max_length=5, num_heads=2, head_dim=4
    )
    return Example({"layouts": [[0, 1, 2, 3, 4], [9, 1, 26, 0, 24]]}, setting(conditioner))


def _semantic() -> Example:
    maps = np.random.default_rng(0).integers(5, size=(2, IMAGE_SIZE, IMAGE_SIZE))
    return Example({"segmentations": maps}, setting(semantic.Conditioner(num_classes=5)))


def images(size: int) -> np.ndarray:
    """Two of them, [2, size, size, 3] float32 in [-1, 1]."""
    return np.random.default_rng(1).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)


def _superres() -> Example:
    return Example({"low_res_images": images(LATENT_SHAPE[0])}, setting(superres.Conditioner()))


def _inpaint() -> Example:
    masks = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE))
    masks[1, 3:9, 4:15] = 1
    return Example({"images": images(IMAGE_SIZE), "masks": masks}, setting(inpaint.Conditioner()))


def _retrieval() -> Example:
    embeddings = np.random.default_rng(2).normal(size=(2, 3, 8))
    return Example({"embeddings": embeddings}, setting(retrieval.Conditioner(width=8)))


def _depth() -> Example:
    return Example({"depths": images(9)[..., 0]}, setting(depth.Conditioner()))


def _upscale() -> Example:
    given = {"low_res_images": images(LATENT_SHAPE[0]), "noise_levels": [0, 200], "seeds": [7, 2**32 - 1]}
    return Example(given, setting(upscale.Conditioner()))


TOWER = {"width": 8, "num_layers": 2, "num_heads": 2}


def _clip() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    conditioner = clip.Conditioner(vocab_size=7, max_length=6, **TOWER)
    return Example({"prompts": ["a red circle", "a circle"]}, setting(conditioner, tokenizer))


def _sdxl() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    conditioner = sdxl.Conditioner(
        clip_l=TOWER, clip_g=TOWER | {"projection_dim": 8}, vocab_size=7, max_length=6, eos_id=3, size_width=4
    )
    given = {
        "prompts": ["a red circle", "a circle"],
        "original_sizes": [[16, 16], [32, 24]],
        "crops": [[0, 0], [4, 2]],
    }
    given |= {"target_sizes": [[16, 16], [16, 16]], "aesthetic_scores": [6.0, 5.0]}
    return Example(given, setting(conditioner, tokenizer))


EXAMPLES = {
    "class_label": _class_label,
    "clip": _clip,
    "depth": _depth,
    "inpaint": _inpaint,
    "layout": _layout,
    "retrieval": _retrieval,
    "sdxl": _sdxl,
    "semantic": _semantic,
    "superres": _superres,
    "text": _text,
    "upscale": _upscale,
}
