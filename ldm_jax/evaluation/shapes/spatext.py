"""Text and regions to image: each thing's mask with what it is, and the prompt of the whole."""

import argparse

import numpy as np

from ldm_jax.evaluation.shapes.base import Model, Outcome, scenes_and_images
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores
from ldm_jax.shapes_world.scenes import caption

OPTIONS = {
    "--without": dict(choices=("regions", "prompts"), help="spatext: leave regions, or prompts, out"),
}  # fmt: skip


def score(args: argparse.Namespace) -> Outcome:
    """The masks of scenes' things with their words, and captions; what is read is matched with the scene."""
    model = Model(args)
    model.check_takes("prompts", "regions")
    scenes, images = scenes_and_images(args.num_samples)
    given = dict(prompts=[caption(scene) for scene in scenes], regions=[regions(scene) for scene in scenes])
    if args.without:
        given[args.without] = [type(one)() for one in given[args.without]]
    drawn = model.draw("spatext", len(scenes), **given)
    found = [scores.layout_score(image, scene) for image, scene in zip(drawn, scenes, strict=True)]
    figures = dict(
        mean_iou=float(np.concatenate([one.iou for one in found]).mean()),
        class_right=float(np.concatenate([one.class_right for one in found]).mean()),
        count_right=float(np.mean([one.count_right for one in found])),
        without=args.without,
    )
    return Outcome(figures | model.settings(), {"spatext": [drawn, images]})


def regions(scene: world.Scene) -> list[dict]:
    """What conditioning/spatext.py is told of a scene: the mask and the words of each thing."""
    return [
        {"mask": world.objects_mask(scene, [i]), "text": world.noun_phrase(thing)}
        for i, thing in enumerate(scene.objects)
    ]
