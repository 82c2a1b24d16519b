"""A small example of every kind of conditioning, for the contract test: what two users give, and a Conditioner."""

from typing import NamedTuple

import numpy as np

from ldm_jax.conditioning import (
    class_label,
    clip,
    colorize,
    concat,
    controlnet,
    depth,
    few_shot,
    guidance_scale,
    inpaint,
    instances,
    instruct,
    ip_adapter,
    layout,
    layout_map,
    retrieval,
    sdxl,
    semantic,
    spatext,
    superres,
    t2i_adapter,
    text,
    unclip,
    upscale,
    vector,
    word_encoder,
)
from ldm_jax.conditioning.base import Setting

LATENT_SHAPE, IMAGE_SIZE = (4, 4, 3), 16
FACTOR, WIDE = 4, (16, 24)


class Example(NamedTuple):
    """given: two of each of the kind's TAKES, different from each other. setting: with a small Conditioner."""

    given: dict
    setting: Setting


def setting(conditioner, tokenizer=None, image_shape=(IMAGE_SIZE, IMAGE_SIZE)) -> Setting:
    latent_shape = (image_shape[0] // FACTOR, image_shape[1] // FACTOR, LATENT_SHAPE[2])
    return Setting(conditioner, tokenizer, latent_shape, image_shape)


def _class_label() -> Example:
    return Example(
        {"class_labels": [1, {2: 0.5, 4: 0.25}]}, setting(class_label.Conditioner(num_classes=5, width=3))
    )


def _text() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    conditioner = text.Conditioner(
        vocab_size=tokenizer.get_vocab_size(), width=8, num_layers=1, max_length=6, num_heads=2
    )
    return Example({"prompts": ["a red circle", "a circle"]}, setting(conditioner, tokenizer))


def _ip_adapter() -> Example:
    embeddings = np.random.default_rng(0).normal(size=(2, 6))
    given = {"image_embeddings": list(embeddings), "image_scales": [0.5, 1]}
    return Example(given, setting(ip_adapter.Conditioner(width=6)))


def _word_encoder() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "<it>"], 6)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 3), np.uint8)
    conditioner = word_encoder.Conditioner(token="<it>", width=8, side=8, widths=(4, 4))
    return Example({"word_images": list(pictures)}, setting(conditioner, tokenizer))


def _controlnet() -> Example:
    hints = np.random.default_rng(0).uniform(size=(2, 2, IMAGE_SIZE, IMAGE_SIZE, 3))
    numbers = dict(hint_scales=[0.5, [1, 2]], hint_starts=[0, 0.5], hint_stops=[[0.5, 1], 1])
    return Example(
        {"hints": list(hints), **numbers}, setting(controlnet.Conditioner(nets=((4, 4, 4), (4, 4, 4))))
    )


def _t2i_adapter() -> Example:
    hints = np.random.default_rng(0).uniform(size=(2, 1, IMAGE_SIZE, IMAGE_SIZE, 3))
    numbers = dict(adapter_hint_scales=[0.5, 1], adapter_hint_starts=[0, 0.5], adapter_hint_stops=[0.5, 1])
    nets = (dict(widths=(4, 4), factor=FACTOR),)
    return Example({"adapter_hints": list(hints), **numbers}, setting(t2i_adapter.Conditioner(nets=nets)))


def _guidance_scale() -> Example:
    return Example({"guidance_scales": [2.0, 7.5]}, setting(guidance_scale.Conditioner()))


def _instances() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    mask[4:8] = 1
    one = {"text": "a red circle", "box": [0, 0.1, 0.5, 1]}
    given = {"instances": [[one, {"text": "a circle", "mask": mask}], [{"text": "red", "point": [0.5, 0.2]}]]}
    numbers = dict(instance_scales=[0.5, 1], instance_starts=[0, 0.5], instance_stops=[0.5, 1])
    conditioner = instances.Conditioner(number=2, dim=8, width=8, hidden=8)
    return Example(given | numbers, setting(conditioner, tokenizer))


def _spatext() -> Example:
    conditioner = spatext.Conditioner(width=3, words=("circle", "square", "red"), group_sizes=(2, 1))
    regions = [
        [{"box": [0, 0, 0.5, 1], "text": "a red circle"}],
        [{"mask": np.eye(4), "embedding": [1, 2, 3]}],
    ]
    return Example({"regions": regions}, setting(conditioner))


def _layout() -> Example:
    conditioner = layout.Conditioner(
        width=8, num_layers=1, vocab_size=40, max_length=5, num_classes=2, num_heads=2, head_dim=4
    )
    layouts = [{"boxes": [[0, 0, 0.5, 1]], "labels": [1]}, [9, 1, 26, 0, 24]]
    return Example({"layouts": layouts}, setting(conditioner))


def _layout_map() -> Example:
    layouts = [
        {"boxes": [[0, 0, 0.5, 1]], "labels": [1]},
        {"boxes": [[0.1, 0.2, 0.3, 0.4]] * 2, "labels": [0, 1]},
    ]
    return Example(
        {"layouts": layouts}, setting(layout_map.Conditioner(num_classes=2, number=2, out_channels=3))
    )


def _semantic() -> Example:
    maps = np.random.default_rng(0).integers(5, size=(2, *WIDE))
    return Example({"segmentations": maps}, setting(semantic.Conditioner(num_classes=5), image_shape=WIDE))


def images(height: int, width: int | None = None) -> np.ndarray:
    """Two of them, [2, height, width, 3] float32 in [-1, 1]; square unless a width is given."""
    return np.random.default_rng(1).uniform(-1, 1, (2, height, width or height, 3)).astype(np.float32)


def _superres() -> Example:
    return Example({"low_res_images": images(4, 6)}, setting(superres.Conditioner(), image_shape=WIDE))


def _inpaint() -> Example:
    masks = np.zeros((2, *WIDE))
    masks[1, 3:9, 4:15] = 1
    return Example(
        {"images": images(*WIDE), "masks": masks}, setting(inpaint.Conditioner(), image_shape=WIDE)
    )


def _few_shot() -> Example:
    masks = [np.eye(IMAGE_SIZE), np.zeros((IMAGE_SIZE, IMAGE_SIZE))]
    return Example({"shots": images(IMAGE_SIZE), "shot_masks": masks}, setting(few_shot.Conditioner()))


def _colorize() -> Example:
    return Example({"images": images(*WIDE)}, setting(colorize.Conditioner(), image_shape=WIDE))


def _retrieval() -> Example:
    embeddings = np.random.default_rng(2).normal(size=(2, 3, 8))
    return Example({"embeddings": embeddings}, setting(retrieval.Conditioner(width=8)))


def _depth() -> Example:
    return Example({"depths": images(9)[..., 0]}, setting(depth.Conditioner(), image_shape=WIDE))


def _upscale() -> Example:
    given = {"low_res_images": images(4, 6), "noise_levels": [0, 200], "seeds": [7, 2**32 - 1]}
    return Example(given, setting(upscale.Conditioner(), image_shape=WIDE))


def _instruct() -> Example:
    return Example({"changed_images": images(*WIDE)}, setting(instruct.Conditioner(0.5), image_shape=WIDE))


def _concat() -> Example:
    arrays = np.random.default_rng(3).normal(size=(2, 4, 6, 5))
    return Example({"concats": arrays}, setting(concat.Conditioner(channels=5), image_shape=WIDE))


def _vector() -> Example:
    return Example({"vectors": [[1, 2, 3], [0, -1, 0.5]]}, setting(vector.Conditioner(width=3)))


def _unclip() -> Example:
    given = {"image_embeddings": list(np.random.default_rng(4).normal(size=(2, 6))), "noise_levels": [0, 900]}
    return Example(given | {"seeds": [7, 2**32 - 1]}, setting(unclip.Conditioner(width=6)))


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
        "prompts_2": ["a circle", "a red circle"],
        "original_sizes": [[16, 16], [32, 24]],
        "crops": [[0, 0], [4, 2]],
    }
    given |= {"target_sizes": [[16, 16], [16, 16]], "aesthetic_scores": [6.0, 5.0]}
    return Example(given, setting(conditioner, tokenizer))


EXAMPLES = {
    "class_label": _class_label,
    "clip": _clip,
    "colorize": _colorize,
    "concat": _concat,
    "controlnet": _controlnet,
    "guidance_scale": _guidance_scale,
    "ip_adapter": _ip_adapter,
    "depth": _depth,
    "few_shot": _few_shot,
    "inpaint": _inpaint,
    "layout": _layout,
    "layout_map": _layout_map,
    "spatext": _spatext,
    "retrieval": _retrieval,
    "sdxl": _sdxl,
    "semantic": _semantic,
    "superres": _superres,
    "t2i_adapter": _t2i_adapter,
    "text": _text,
    "unclip": _unclip,
    "upscale": _upscale,
    "instances": _instances,
    "instruct": _instruct,
    "vector": _vector,
    "word_encoder": _word_encoder,
}
