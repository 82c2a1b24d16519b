"""Layout to image: boxes with classes, or with words."""

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax.data import shapes as shapes_source
from ldm_jax.evaluation.shapes.base import SHOWN, Model, Outcome, scenes_and_images
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores


def score(args: argparse.Namespace) -> Outcome:
    """Boxes and labels of scenes, or boxes and words for an adapter of instances; what is read is matched with them."""
    model = Model(args)
    instances = {"prompts", "instances"} <= set(model.system.takes)
    model.check_takes(*(("prompts", "instances") if instances else ("layouts",)))
    scenes, images = scenes_and_images(args.num_samples)
    told = _instances(scenes) if instances else {"layouts": [shapes_source.layout(s) for s in scenes]}
    drawn = model.draw("layouts", len(scenes), **told)
    found = [scores.layout_score(image, scene) for image, scene in zip(drawn, scenes, strict=True)]
    figures = dict(
        mean_iou=float(np.concatenate([one.iou for one in found]).mean()),
        class_right=float(np.concatenate([one.class_right for one in found]).mean()),
        count_right=float(np.mean([one.count_right for one in found])),
    )
    boxes = np.stack([drawn_boxes(scene) for scene in scenes[:SHOWN]])
    return Outcome(figures | model.settings(), {"layout": [boxes, drawn, images]})


def _instances(scenes: Sequence[world.Scene]) -> dict[str, list]:
    """{'prompts', 'instances'}: the scenes' captions, and of each object its words and its box alone."""
    said = [shapes_source.instances(scene) for scene in scenes]
    boxes = [[{"text": one["text"], "box": one["box"]} for one in scene] for scene in said]
    return {"prompts": [world.caption(scene) for scene in scenes], "instances": boxes}


def drawn_boxes(scene: world.Scene) -> np.ndarray:
    """[64, 64, 3] uint8: the boxes of a scene, in the colors and with the first letters of the shapes of their
    classes."""
    picture = Image.new("RGB", (world.SIZE, world.SIZE), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for o in scene.objects:
        pen.rectangle([round(side) for side in o.box], outline=world.COLORS[o.color])
        pen.text((o.x - o.r + 2, o.y - o.r), o.shape[:2], fill=world.COLORS[o.color])
    return np.asarray(picture)
