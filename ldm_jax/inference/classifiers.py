"""Networks that guidance asks: classifiers of clean pictures and of noised latents, and CLIP's image tower.

Decides which checkpoint is one, and whether it fits the model.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.checkpoints.bundle import SHIPPED
from ldm_jax.checkpoints.open import locate, open_checkpoint
from ldm_jax.config import call
from ldm_jax.convert import clip_vision, files
from ldm_jax.diffusion.schedule import NoiseSchedule, make_schedule, same_levels
from ldm_jax.models.clip_vision import MEAN, STD, CLIPVisionTransformer
from ldm_jax.models.noisy_classifier import NoisyClassifier
from ldm_jax.models.shapes_classifier import ShapesClassifier
from ldm_jax.params import from_names
from ldm_jax.paths import last_written
from ldm_jax.text_files import read_json, read_object
from ldm_jax.types import Array, PyTree


class Classifier(NamedTuple):
    """network: a linen module, or what is applied as one. params: its parameters. labels: names of its logits, in
    order; () of a network that has none."""

    network: Any
    params: PyTree
    labels: tuple[str, ...]


def of_pictures(name: str) -> Classifier:
    """A classifier of clean pictures, [B, 64, 64, 3] in [-1, 1] -> .logits [B, labels], each label's own odds:
    'shapes_classifier', which is shipped, or a folder that ldm_jax/commands/train_shapes_classifier.py wrote. Of a
    folder of transformers' CLIPModel its image tower, which has no labels. Raises: ValueError if there is none."""
    folder = SHIPPED / name if name == "shapes_classifier" else Path(name).expanduser()
    if (folder / "config.json").is_file() and not (folder / "classifier.json").is_file():
        tower, params = clip_tower(folder)
        return Classifier(ClipOfPictures(tower), params, ())
    if not (folder / "classifier.json").is_file():
        raise ValueError(
            f"classifier {name!r} not found: expected 'shapes_classifier', a folder with classifier.json and "
            "weights.safetensors, or one of CLIP"
        )
    return _read(folder, last_written(folder))


@functools.lru_cache(maxsize=4)
def _read(folder: Path, stamp: int) -> Classifier:
    labels = tuple(read_json(folder / "classifier.json", "classifier")["labels"])
    tensors = files.open_tensors(folder / "weights.safetensors")
    params = from_names({name: np.asarray(t.read(), np.float32) for name, t in tensors.items()})
    return Classifier(ShapesClassifier(len(labels)), params, labels)


class ClipOfPictures(NamedTuple):
    """CLIP's image tower, applied to images [B, H, W, 3] in about [-1, 1] of any size: bicubic, and so that a gradient
    goes through."""

    tower: CLIPVisionTransformer

    def apply(self, variables: PyTree, images: Array, **options) -> Any:
        """As of linen.Module."""
        side = self.tower.image_size
        resized = jax.image.resize(images, (images.shape[0], side, side, 3), "bicubic")
        return self.tower.apply(variables, ((resized + 1) / 2 - MEAN) / STD, **options)


def clip_tower(folder: Path) -> tuple[CLIPVisionTransformer, PyTree]:
    """The image tower of a folder of transformers' CLIPModel, and its parameters. Raises: ValueError for another."""
    return _read_tower(folder, last_written(folder))


@functools.lru_cache(maxsize=2)
def _read_tower(folder: Path, stamp: int) -> tuple[CLIPVisionTransformer, PyTree]:
    config = read_object(folder / "config.json", "config")
    if (
        config.get("model_type") == "clip_vision_model"
    ):  # CLIPVisionModelWithProjection, as beside an IP-Adapter
        config = dict(config, vision_config=config, text_config={})
    if "vision_config" not in config or "text_config" not in config:
        raise ValueError(
            f"{folder} is no folder of transformers' CLIPModel: its config.json has no vision_config and text_config"
        )
    c = config["vision_config"]
    # Defaults are transformers' own, which its files leave out.
    tower = CLIPVisionTransformer(
        c.get("hidden_size", 768), c.get("num_hidden_layers", 12), c.get("num_attention_heads", 12),
        c.get("patch_size", 32), config.get("projection_dim", 512), c.get("image_size", 224),
        c.get("hidden_act", "quick_gelu"),
    )  # fmt: skip
    blank = jnp.zeros((1, tower.image_size, tower.image_size, 3))
    template = jax.eval_shape(tower.init, jax.random.key(0), blank)["params"]
    tensors = files.open_tensors(folder)
    return tower, clip_vision.from_state({name: t.read() for name, t in tensors.items()}, template)


def of_noised_latents(path: str, latent_shape: tuple[int, int, int], schedule: NoiseSchedule) -> Classifier:
    """A classifier of latents x [B, h, w, c] at t [B], from a run or bundle of task 'classifier'.

    Raises: ValueError for a checkpoint of something else, and for one of other latents or other noise levels.
    """
    config, found, own = _opened(locate(path), last_written(locate(path)))
    taken = (found.network.latent_size, found.network.latent_size, found.network.in_channels)
    if taken != tuple(latent_shape):
        raise ValueError(
            f"classifier {path}: it takes latents of shape {taken}, expected {tuple(latent_shape)}, those of this model"
        )
    if not same_levels(own, schedule):
        raise ValueError(
            f"classifier {path}: it was trained at the noise levels of {config['schedule']}, expected those of this "
            "model"
        )
    return found


@functools.lru_cache(maxsize=4)
def _opened(path: Path, stamp: int) -> tuple[dict, Classifier, NoiseSchedule]:
    opened = open_checkpoint(path)
    if opened.config.get("task") != "classifier":
        raise ValueError(
            f"classifier {path}: a checkpoint of task {opened.config.get('task')!r}, expected 'classifier'"
        )
    config, params = opened.config, opened.bundle().params["classifier"]
    network = call(NoisyClassifier, config["classifier"], "classifier")
    names = config.get("class_names") or [str(i) for i in range(network.num_classes)]
    return config, Classifier(network, params, tuple(names)), make_schedule(**config["schedule"])
