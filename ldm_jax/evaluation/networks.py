"""The measuring networks with their weights: from files that the user names or has in a cache directory to extractors.

Decides where each network's files are looked for and what is said when none is there. Nothing is fetched. What the
networks are and how images reach them is evaluation/'s and models/', the names in the files convert/'s.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import text_files
from ldm_jax.checkpoints.bundle import SHIPPED
from ldm_jax.conditioning import clip as clip_conditioning
from ldm_jax.convert import cached_weights, files
from ldm_jax.convert import clip as clip_names
from ldm_jax.convert import inception as inception_names
from ldm_jax.convert import lpips as lpips_names
from ldm_jax.inference import classifiers
from ldm_jax.metrics import features, shapes_features, statistics
from ldm_jax.metrics.clip_score import clip_extractor
from ldm_jax.metrics.features import Extractor
from ldm_jax.models.clip_text import CLIPTextTransformer
from ldm_jax.models.inception import SIZE, InceptionV3
from ldm_jax.types import PyTree

CLASSIFIER = SHIPPED / "shapes_classifier"
CLIPS = ("clip-vit-base-patch16", "clip-vit-large-patch14", "clip-vit-base-patch32")


def inception(path: str | Path | None = None, resize: str = "tf1") -> Extractor:
    """InceptionV3 of the FID literature. path: its file; None looks in the cache directory.

    Raises: ValueError if there is none, it does not fit, or resize is not one of evaluation.resize.CONVENTIONS.
    """
    path = cached_weights.find_cached("InceptionV3 of FID", inception_names.NAMES, path, inception_names.URL)
    template = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    return features.inception_extractor(inception_names.load_inception(path, template), resize)


def lpips(vgg: str | Path | None = None, heads: str | Path | None = None) -> PyTree:
    """The parameters of models/lpips.py. vgg: torchvision's vgg16. heads: the five learned layers; None looks in the
    cache directory for either, and for the heads in the first file too.

    Raises: ValueError if there is none, or it does not fit.
    """
    return lpips_names.load_lpips(*lpips_names.find(vgg, heads))


def shapes(folder: Path = CLASSIFIER) -> Extractor:
    """The shipped classifier of the shapes world. Raises: ValueError if it is not there or damaged."""
    return shapes_features.shapes_extractor(classifiers.of_pictures(str(folder)).params)


def shapes_reference(folder: Path = CLASSIFIER) -> statistics.Statistics:
    """What shapes-FID compares with: statistics of rendered held-out scenes, equal shares of the kinds of prompt."""
    return statistics.read(folder / "reference.npz")


class Clip(NamedTuple):
    """extractor: the image tower, layer `embedding` [B, D]. embed: captions -> [N, D] float32, of the text tower."""

    extractor: Extractor
    embed: Callable[[Sequence[str]], np.ndarray]


def clip(folder: str | Path | None = None, batch_size: int = 64) -> Clip:
    """Both towers of a folder of transformers' CLIPModel: config.json, its weights and its tokenizer's files.

    folder: None looks for one called as those that scores are quoted with (CLIPS) in the cache directory.
    Raises: ValueError if there is none, or it does not fit.
    """
    given = None if folder is None else Path(folder).expanduser() / "config.json"
    path = cached_weights.find_cached(
        "CLIP (a folder)", [f"{name}/config.json" for name in CLIPS], given
    ).parent
    config = text_files.read_object(path / "config.json", "config")
    vision, params = classifiers.clip_tower(path)
    if "text_config" not in config:
        raise ValueError(f"{path} has the image tower of CLIP alone, expected a CLIPModel, with text_config")
    tensors = files.open_tensors(path)
    text_tensors = {n: t for n, t in tensors.items() if n.startswith(("text_model.", "text_projection."))}
    extractor = clip_extractor(f"CLIP {path.name}", vision, params)
    text = _text(config)
    tokenizer = clip_conditioning.clip_tokenizer(path, text.max_length)
    template = jax.eval_shape(text.init, jax.random.key(0), jnp.zeros((1, text.max_length), jnp.int32))[
        "params"
    ]
    text_params = clip_names.from_torch({name: t.read() for name, t in text_tensors.items()}, template)
    pooled = jax.jit(lambda p, tokens: text.apply({"params": p}, tokens).pooled)

    def embed(captions: Sequence[str]) -> np.ndarray:
        out = []
        for start in range(0, len(captions), batch_size):
            part = list(captions[start : start + batch_size])
            tokens = np.asarray([e.ids for e in tokenizer.encode_batch(part)], np.int32)
            tokens = np.concatenate([tokens, np.repeat(tokens[-1:], batch_size - len(part), 0)])
            with jax.default_matmul_precision("highest"):
                out.append(np.asarray(pooled(text_params, tokens), np.float32)[: len(part)])
        return np.concatenate(out)

    return Clip(extractor, embed)


def _text(config: dict) -> CLIPTextTransformer:
    """Defaults are transformers' own, which its files leave out."""
    c = config["text_config"]
    return CLIPTextTransformer(
        c.get("vocab_size", 49408),
        c.get("hidden_size", 512),
        c.get("num_hidden_layers", 12),
        c.get("num_attention_heads", 8),
        c.get("max_position_embeddings", 77),
        c.get("hidden_act", "quick_gelu"),
        c.get("intermediate_size", 2048),
        config.get("projection_dim", 512),
    )
