"""Classifiers that guidance asks: of clean pictures, and of noised latents.

Decides which checkpoint is one, and whether it fits the model.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.checkpoints.bundle import SHIPPED
from ldm_jax.checkpoints.open import locate, open_checkpoint
from ldm_jax.config import call
from ldm_jax.convert import files
from ldm_jax.diffusion.schedule import NoiseSchedule, make_schedule
from ldm_jax.models.noisy_classifier import NoisyClassifier
from ldm_jax.models.shapes_classifier import ShapesClassifier
from ldm_jax.params import from_names
from ldm_jax.text_files import read_json
from ldm_jax.types import PyTree


class Classifier(NamedTuple):
    """network: a linen module. params: its parameters. labels: names of its logits, in order."""

    network: Any
    params: PyTree
    labels: tuple[str, ...]


def of_pictures(name: str) -> Classifier:
    """A classifier of clean pictures, [B, 64, 64, 3] in [-1, 1] -> .logits [B, labels], each label's own odds:
    'shapes_classifier', which is shipped, or a folder that ldm_jax/commands/train_shapes_classifier.py wrote. Raises:
    ValueError if there is none."""
    folder = SHIPPED / name if name == "shapes_classifier" else Path(name)
    if not (folder / "classifier.json").is_file():
        raise ValueError(
            f"classifier {name!r} not found: expected 'shapes_classifier', or a folder with classifier.json and "
            "weights.safetensors"
        )
    return _read(folder, _stamp(folder))


@functools.lru_cache(maxsize=4)
def _read(folder: Path, stamp: int) -> Classifier:
    labels = tuple(read_json(folder / "classifier.json", "classifier")["labels"])
    tensors = files.open_tensors(folder / "weights.safetensors")
    params = from_names({name: np.asarray(t.read(), np.float32) for name, t in tensors.items()})
    return Classifier(ShapesClassifier(len(labels)), params, labels)


def of_noised_latents(path: str, latent_shape: tuple[int, int, int], schedule: NoiseSchedule) -> Classifier:
    """A classifier of latents x [B, h, w, c] at t [B], from a run or bundle of task 'classifier'.

    Raises: ValueError for a checkpoint of something else, and for one of other latents or other noise levels.
    """
    config, found, levels = _opened(locate(path), _stamp(locate(path)))
    taken = (found.network.latent_size, found.network.latent_size, found.network.in_channels)
    if taken != tuple(latent_shape):
        raise ValueError(
            f"classifier {path}: it takes latents of shape {taken}, expected {tuple(latent_shape)}, those of this model"
        )
    if levels.shape != schedule.alphas_cumprod.shape or not np.allclose(
        levels, schedule.alphas_cumprod, atol=1e-5
    ):
        raise ValueError(
            f"classifier {path}: it was trained at the noise levels of {config['schedule']}, expected those of this "
            "model"
        )
    return found


@functools.lru_cache(maxsize=4)
def _opened(path: Path, stamp: int) -> tuple[dict, Classifier, np.ndarray]:
    opened = open_checkpoint(path)
    if opened.config.get("task") != "classifier":
        raise ValueError(
            f"classifier {path}: a checkpoint of task {opened.config.get('task')!r}, expected 'classifier'"
        )
    config, params = opened.config, opened.bundle().params["classifier"]
    network = call(NoisyClassifier, config["classifier"], "classifier")
    names = config.get("class_names") or [str(i) for i in range(network.num_classes)]
    levels = np.asarray(make_schedule(**config["schedule"]).alphas_cumprod)
    return config, Classifier(network, params, tuple(names)), levels


def _stamp(path: Path) -> int:
    """When a folder, or what lies in it, was last written: a classifier that is trained on is read anew."""
    return max(p.stat().st_mtime_ns for p in (path, *(path.iterdir() if path.is_dir() else ())))
