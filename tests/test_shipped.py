"""The shipped model: it is small, it is whole, and it draws what it is told."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import convert, sample
from ldm_jax.data import masks
from ldm_jax.metrics.psnr import psnr
from ldm_jax.shapes_world import oracle, scores
from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import score

FOLDER = bundle.SHIPPED / "shapes"


def test_it_fits_in_the_package():
    assert sum(path.stat().st_size for path in bundle.SHIPPED.rglob("*") if path.is_file()) <= 30e6


def test_its_log_says_how_it_was_trained():
    summary = json.loads((FOLDER / "training.json").read_text())
    for stage in ("first_stage", "diffusion"):
        assert {"command", "steps", "hardware", "hours", "losses"} <= set(summary[stage])


@pytest.mark.parametrize("name", [name for name in bundle.shipped_names() if name != "shapes"])
def test_those_of_tasks_say_what_they_reached(name):
    summary = json.loads((bundle.SHIPPED / name / "training.json").read_text())["diffusion"]
    assert {"command", "steps", "hardware", "hours", "losses", "measured"} <= set(summary)
    assert f"--checkpoint {name}" in summary["measured"]["command"]


def test_one_object_prompts():
    """A floor far under its measured accuracy (README), for sixteen pictures (a painter of noise gets none); the full
    measurement is ldm_jax.commands.evaluate."""
    prompts = shapes_prompts.prompts("one", 16)
    images = ldm_jax.load("shapes").sample(prompts, range(2_000_000, 2_000_016), num_steps=25, batch_size=16)
    assert np.mean([score(image, prompt).right for image, prompt in zip(images, prompts, strict=True)]) >= 0.4


def test_the_default_command(tmp_path):
    sample.main(["--out", str(tmp_path), "--seeds", "0", "--steps", "10"])
    assert Image.open(tmp_path / "0.png").text["prompt"] == "a small red circle above a large blue square"


def test_a_bundle_has_what_it_shares_with_a_shipped_model_from_the_package(tmp_path):
    """Models of one first stage, or of one network, lie in the package beside each other, and it once."""
    convert.main(["shapes", str(tmp_path / "without"), "--share", "shapes"])
    config = json.loads((tmp_path / "without" / "config.json").read_text())
    assert config["shared"] == {"first_stage": "shapes", "unet": "shapes"}
    assert not {"first_stage", "model"} & set(config)
    assert (tmp_path / "without" / bundle.WEIGHTS).stat().st_size < 1e6  # the text encoder's
    whole, found = bundle.read(FOLDER), bundle.read(tmp_path / "without")
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)
    assert found.config == whole.config
    convert.main([str(tmp_path / "without"), str(tmp_path / "again")])  # for who has not the package
    jax.tree.map(np.testing.assert_array_equal, bundle.read(tmp_path / "again").params, whole.params)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ({"unet": "../shapes"}, "shared unet is '../shapes', expected a shipped model: shapes"),
        ({"unet": 3}, "shared unet is 3, expected a shipped model"),
        ({"conditioner": "shapes"}, "shared has 'conditioner', expected first_stage, unet"),
        (3, "shared is 3, expected a section"),
    ],
)
def test_what_is_shared_is_a_part_of_a_shipped_model(tmp_path, shared, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(bundle.read_config(FOLDER) | {"shared": shared}))
    (folder / bundle.WEIGHTS).write_bytes((FOLDER / bundle.WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=message):
        bundle.read(folder)


def test_other_parts_are_not_left_out(tmp_path):
    own = bundle.read(FOLDER)
    own.params["unet"]["conv_in"]["bias"] = own.params["unet"]["conv_in"]["bias"] + 1
    bundle.save(tmp_path / "tuned", own)
    convert.main([str(tmp_path / "tuned"), str(tmp_path / "without"), "--share", "shapes"])
    config = json.loads((tmp_path / "without" / "config.json").read_text())
    assert config["shared"] == {"first_stage": "shapes"}
    jax.tree.map(np.testing.assert_array_equal, bundle.read(tmp_path / "without").params, own.params)
    own.params["first_stage"]["quant_conv"]["bias"] = own.params["first_stage"]["quant_conv"]["bias"] + 1
    bundle.save(tmp_path / "other", own)
    with pytest.raises(
        ValueError, match="--share shapes: first_stage and unet are others than those of shapes"
    ):
        convert.main([str(tmp_path / "other"), str(tmp_path / "out"), "--share", "shapes"])
    with pytest.raises(ValueError, match="--share is for --to bundle, got it with --to diffusers"):
        convert.main(["shapes", str(tmp_path / "out"), "--share", "shapes", "--to", "diffusers"])


def test_a_task_is_done_with_its_own_model_where_that_is_shipped(tmp_path):
    assert sample.shipped_for(None) == sample.shipped_for("text") == sample.shipped_for("img2img") == "shapes"
    assert sample.shipped_for("class") == "shapes_class"  # it draws as text does: test_classes_of_text.py
    assert (
        sample.shipped_for("inpaint") == "shapes_inpaint" and sample.shipped_for("inpaint", True) == "shapes"
    )
    boxes = [[0.125, 0.125, 0.375, 0.375], [0.6, 0.5, 0.25, 0.25]]
    (tmp_path / "scene.json").write_text(
        json.dumps({"boxes": boxes, "labels": ["blue square", "red circle"]})
    )
    flags = ["--task", "layout", "--layout", str(tmp_path / "scene.json"), "--seeds", "0-3", "--steps", "10"]
    sample.main([*flags, "--out", str(tmp_path / "out")])
    found = [Image.open(tmp_path / "out" / f"scene_{seed}.png") for seed in range(4)]
    assert {image.text["checkpoint"] for image in found} == {"shapes_layout"}
    read = [oracle.parse(np.asarray(image.convert("RGB"))) for image in found]
    drawn = [{(o.color, o.shape) for o in objects} for objects in read]
    assert np.mean([one == {("blue", "square"), ("red", "circle")} for one in drawn]) >= 0.5, drawn


def test_a_hole_is_filled_by_its_own_model_or_by_the_text_model_where_a_prompt_says_what_with(tmp_path):
    scenes = [world.scene(i, "test") for i in range(4)]
    holes = [masks.draw("rectangle", 64, 64, np.random.default_rng(i)) >= 0.5 for i in range(4)]
    for i, scene in enumerate(scenes):
        Image.fromarray(world.render(scene)).save(tmp_path / f"{i}.png")
        Image.fromarray(np.uint8(255 * holes[i])).save(tmp_path / f"{i}_mask.png")
    flags = ["--task", "inpaint", "--image", str(tmp_path), "--steps", "10"]
    sample.main([*flags, "--out", str(tmp_path / "out")])
    found = [Image.open(tmp_path / "out" / f"{i}.png") for i in range(4)]
    assert {image.text["checkpoint"] for image in found} == {"shapes_inpaint"}
    pictures = [np.asarray(image.convert("RGB")) for image in found]
    for drawn, scene, hole in zip(pictures, scenes, holes, strict=True):
        np.testing.assert_array_equal(drawn[~hole], world.render(scene)[~hole])
    right = [scores.completed_right(*one) for one in zip(pictures, scenes, holes, strict=True)]
    assert np.mean(right) >= 0.5
    one = ["--image", str(tmp_path / "0.png"), "--mask", str(tmp_path / "0_mask.png")]
    told = [*one, "--prompt", "a red circle", "--steps", "2", "--out", str(tmp_path / "told")]
    sample.main(["--task", "inpaint", *told])
    assert Image.open(tmp_path / "told" / "0.png").text["checkpoint"] == "shapes"


def test_a_label_map_is_drawn_by_the_shipped_model(tmp_path):
    asked = [world.semantic_mask(world.scene(i, "test")).astype(np.uint8) for i in range(8)]
    for i, labels in enumerate(asked):
        Image.fromarray(labels).save(tmp_path / f"{i}.png")
    sample.main(
        ["--task", "semantic", "--map", str(tmp_path), "--steps", "10", "--out", str(tmp_path / "out")]
    )
    found = [np.asarray(Image.open(tmp_path / "out" / f"{i}.png").convert("RGB")) for i in range(8)]
    objects = [
        (scores.segment(image) == labels)[labels > 0] for image, labels in zip(found, asked, strict=True)
    ]
    assert np.concatenate(objects).mean() >= 0.7


def test_a_gray_picture_is_colored_by_the_shipped_model(tmp_path):
    scenes = [world.scene(i, "test") for i in range(4)]
    for i, scene in enumerate(scenes):
        Image.fromarray(world.render(scene)).convert("L").save(tmp_path / f"{i}.png")
    flags = ["--task", "colorize", "--image", str(tmp_path), "--steps", "10", "--out", str(tmp_path / "out")]
    sample.main(flags)
    found = [np.asarray(Image.open(tmp_path / "out" / f"{i}.png").convert("RGB")) for i in range(4)]
    legible = [scores.color_score(*one).legible for one in zip(found, scenes, strict=True)]
    assert np.concatenate(legible).mean() >= 0.7


def test_a_small_picture_is_enlarged_by_the_shipped_model(tmp_path):
    images = np.stack([world.render(world.scene(i, "test")) for i in range(2)])
    for i, image in enumerate(images):
        Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    sample.main(
        ["--task", "superres", "--image", str(tmp_path), "--steps", "10", "--out", str(tmp_path / "out")]
    )
    found = np.stack([np.asarray(Image.open(tmp_path / "out" / f"{i}.png").convert("RGB")) for i in range(2)])
    plain = [Image.open(tmp_path / f"{i}.png").resize((64, 64), Image.Resampling.BICUBIC) for i in range(2)]
    assert (psnr(images, found) > psnr(images, np.stack(plain))).all()
