"""Evaluation while training: on fixed seeds and prompts, with the averaged weights."""

import json

import numpy as np
import pytest

from ldm_jax.commands import train
from ldm_jax.evaluation import monitor, networks
from ldm_jax.evaluation import prompts as evaluation_prompts
from ldm_jax.inference import pipeline
from ldm_jax.metrics import features
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world.oracle import score
from ldm_jax.training import workdir
from tests import tiny_shapes


class Writer:
    """What train.py needs of a metric writer."""

    def __init__(self):
        self.scalars = {}

    def write_scalars(self, step, values):
        self.scalars.setdefault(step, {}).update(values)

    def write_images(self, step, images):
        pass

    def close(self):
        pass


def config(**changes) -> dict:
    given = tiny_shapes.config()
    return given | dict(total_steps=3, checkpoint_every=3, log_every=3, preview_every=3) | changes


@pytest.mark.slow
def test_a_run_is_evaluated_on_fixed_seeds_and_prompts(tmp_path, monkeypatch):
    writer = Writer()
    monkeypatch.setattr(train.writers, "make", lambda config, workdir: writer)
    train.train(
        config(evaluate_every=2, evaluate=dict(metrics=["accuracy", "shapes_fid"], num_images=66)),
        tmp_path / "a",
    )
    found = {
        step: {k for k in values if k.startswith("evaluation/")} for step, values in writer.scalars.items()
    }
    names = {
        "evaluation/accuracy",
        "evaluation/shapes_fid",
        *(f"evaluation/accuracy_{k}" for k in shapes_prompts.KINDS),
    }
    assert found == {2: names, 3: names}

    # the last number is that of the checkpoint, seeds 0 to 65 and the prompts in turn
    prompts = shapes_prompts.mixed_prompts(66)
    model = pipeline.load(str(tmp_path / "a"))
    images = np.concatenate(
        [
            evaluation_prompts.draw(
                model,
                {"prompts": prompts[i : i + 16]},
                range(66)[i : i + 16],
                16,
                num_steps=2,
                guidance_scale=2.0,
            )
            for i in range(0, 66, 16)
        ]
    )
    right = np.mean([score(image, prompt).right for image, prompt in zip(images, prompts, strict=True)])
    assert writer.scalars[3]["evaluation/accuracy"] == pytest.approx(right)
    own = features.collect(ArrayImages(images), networks.shapes()).moments["pool"].gaussian()
    expected = fid(own, networks.shapes_reference().gaussians["pool"])
    assert writer.scalars[3]["evaluation/shapes_fid"] == pytest.approx(expected, rel=1e-3)

    # how often it is evaluated may change from one start to the next
    assert json.loads((tmp_path / "a" / "config.json").read_text())["evaluate_every"] == 2
    workdir.check_workdir(tmp_path / "a", config(evaluate_every=3))


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(evaluate=dict(metric=["fid"])),
            "config.evaluate has no option 'metric'; it has: metrics, num_images",
        ),
        (dict(evaluate=dict(metrics=["fidd"])), "metric 'fidd' not found"),
        (dict(evaluate=dict(num_images=64)), "shapes_fid: 64 generated images for 64 features, 1 too few"),
        (dict(task="first_stage"), "config.evaluate_every is for task 'diffusion'"),
        (dict(evaluate_every=-1), "config.evaluate_every is -1"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_first_step(changes, said):
    with pytest.raises(ValueError, match=said):
        monitor.read_options(config(evaluate_every=2) | changes)
    assert monitor.read_options(config()) is None
