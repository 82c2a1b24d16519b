"""The commands of the tasks with painters in the model's place: the figures follow from what they paint."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from ldm_jax import grid
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import evaluate
from ldm_jax.data import transforms
from ldm_jax.evaluation.shapes import base, command, superres
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference import pipeline
from ldm_jax.shapes_world import scenes as world
from tests import tiny_diffusion, tiny_models

EMPTY = world.Scene((), world.Background("plain", (242, 242, 242), 0.0, 0))


class Painter:
    """Stands where LatentDiffusion does. paint: (index of the picture, its conditions) -> [H, W, 3] uint8."""

    def __init__(self, takes: tuple[str, ...], paint, image_size: int = 64):
        self.system = SimpleNamespace(
            takes=takes,
            optional=(),
            image_size=image_size,
            latent_shape=(image_size // 4, image_size // 4, 4),
            parts=(),
        )
        self.paint, self.calls, self.params = paint, [], {}

    def sample(self, prompts=None, seeds=(0,), *, strength=1.0, image_shape=None, progress=None, **given):
        settings = {k: given.pop(k) for k in ("num_steps", "sampler", "guidance_scale", "batch_size")}
        given |= {} if prompts is None else {"prompts": prompts}
        known = inspect.signature(pipeline.LatentDiffusion.sample).parameters
        assert {*given, *settings} <= {*known, *self.system.takes}
        assert all(len(values) == len(seeds) for values in given.values())
        self.calls.append(dict(given, seeds=seeds, image_shape=image_shape, **settings))
        out = []
        for i, seed in enumerate(seeds):
            told = {name: values[i] for name, values in given.items()} | {"strength": strength}
            told["image_shape"] = image_shape
            out.append(self.paint(seed - base.FIRST_SEED, told))
        progress(len(seeds), len(seeds))
        return np.stack(out)

    def encode(self, images):
        return images / 2

    def decode(self, latents):
        return latents * 2


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command with a painter; returns its last line."""

    def with_painter(painter: Painter, *argv: str) -> dict:
        def load(name, adapters=(), **options):
            painter.adapters = list(adapters)
            return painter

        monkeypatch.setattr(pipeline, "load", load)
        evaluate.main([*argv, "--checkpoint", "somewhere", "--out", str(tmp_path / "out")])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return with_painter


def truth(index: int, told: dict) -> np.ndarray:
    return world.render(world.scene(index, "test"))


def blank(index: int, told: dict) -> np.ndarray:
    height, width = told["image_shape"] or (64, 64)
    return np.tile(world.render(EMPTY), (1, 2, 1))[:height, :width]


def grid_of(tmp_path, name: str, rows: int, columns: int, width: int = 64) -> None:
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert picture.size == (columns * (width + 2) + 2, rows * 66 + 2)


def test_class(run, tmp_path):
    def obedient(index: int, told: dict) -> np.ndarray:
        color, shape = world.CLASS_NAMES[told["class_labels"]].split()
        return world.render(EMPTY._replace(objects=(world.Object(shape, color, "small", 30.0, 30.0, 7.0),)))

    painter = Painter(("class_labels",), obedient)
    found = run(painter, "class", "--num_samples", "25", "--unseen", "--steps", "3", "--guidance_scale", "2")
    assert found["class_right"] == found["unseen_class_right"] == 1 and found["num_samples"] == 25
    seen, unseen = (call["class_labels"] for call in painter.calls)
    assert len(set(seen)) == 20 and seen[:5] == seen[20:] and len(unseen) == 8
    assert set(seen) | set(unseen) == set(range(24)) and len(set(unseen)) == 4
    assert (painter.calls[0]["num_steps"], painter.calls[0]["guidance_scale"]) == (3, 2.0)
    assert found["steps"] == 3 and found["sampler"] == "ddim" and found["checkpoint"] == "somewhere"
    grid_of(tmp_path, "class", 2, 16)
    grid_of(tmp_path, "class_unseen", 2, 8)
    found = run(Painter(("class_labels",), blank), "class", "--num_samples", "3")
    assert found["class_right"] == 0 and "unseen_class_right" not in found


def test_layout(run, tmp_path):
    painter = Painter(("layouts",), truth)
    found = run(painter, "layout", "--num_samples", "12")
    assert found["mean_iou"] > 0.98 and found["class_right"] == found["count_right"] == 1
    first, box = world.scene(0, "test").objects[0], painter.calls[0]["layouts"][0]
    x0, y0, w, h = (side * 64 for side in box["boxes"][0])
    np.testing.assert_allclose([x0 + w / 2, y0 + h / 2, w], [first.x, first.y, 2 * first.r], rtol=1e-5)
    assert box["labels"][0] == world.class_label(first)
    grid_of(tmp_path, "layout", 3, 12)
    found = run(Painter(("layouts",), blank), "layout", "--num_samples", "12")
    assert found["mean_iou"] == found["class_right"] == found["count_right"] == 0


def test_a_layout_in_words(run):
    """A model with an adapter that takes instances is told captions, words and boxes, no points and no masks."""
    painter = Painter(("prompts", "instances"), truth)
    found = run(painter, "layout", "--num_samples", "3", "--adapter", "places")
    assert found["mean_iou"] > 0.98 and painter.adapters == ["places"]
    scene, told = world.scene(1, "test"), painter.calls[0]
    assert told["prompts"][1] == world.caption(scene)
    for obj, one in zip(scene.objects, told["instances"][1], strict=True):
        assert set(one) == {"text", "box"} and one["text"] == world.noun_phrase(obj)
        np.testing.assert_allclose(np.multiply(one["box"], 64), obj.box, rtol=1e-6)


def test_semantic(run, tmp_path):
    def obedient(index: int, told: dict) -> np.ndarray:
        if told["image_shape"] == (64, 64):
            return truth(index, told)
        assert told["segmentations"].shape == told["image_shape"] == (64, 128)
        return np.concatenate([truth(2 * index, told), truth(2 * index + 1, told)], axis=1)

    painter = Painter(("segmentations",), obedient)
    found = run(painter, "semantic", "--num_samples", "9")
    assert len(painter.calls[1]["seeds"]) == 4
    for name in ("agreement", "agreement_wide", "object_agreement", "object_agreement_wide"):
        assert found[name] > 0.99
    grid_of(tmp_path, "semantic", 4, 9)
    grid_of(tmp_path, "semantic_wide", 3, 4, width=128)
    found = run(Painter(("segmentations",), blank), "semantic", "--num_samples", "9")
    background = np.mean([world.semantic_mask(world.scene(i, "test")) == 0 for i in range(9)])
    assert found["agreement"] == pytest.approx(background)
    assert found["object_agreement"] == found["object_agreement_wide"] == 0


def test_superres(run, tmp_path):
    painter = Painter(("low_res_images",), truth)
    found = run(painter, "superres", "--num_samples", "4")
    assert found["psnr"] is None and found["ssim"] == pytest.approx(1)  # no error at all has no PSNR
    assert found["ssim_bicubic"] < 1 and found["factor"] == 4
    small = [Image.fromarray(truth(i, {})).resize((16, 16), Image.Resampling.BICUBIC) for i in range(4)]
    for given, expected in zip(painter.calls[0]["low_res_images"], small, strict=True):
        np.testing.assert_array_equal(given, np.asarray(expected))

    def bicubic(index: int, told: dict) -> np.ndarray:
        return np.asarray(Image.fromarray(told["low_res_images"]).resize((64, 64), Image.Resampling.BICUBIC))

    found = run(Painter(("low_res_images",), bicubic), "superres", "--num_samples", "4")
    assert found["psnr"] == found["psnr_bicubic"] and found["ssim"] == found["ssim_bicubic"]
    grid_of(tmp_path, "superres", 4, 4)


def test_superres_of_photographs(run, tmp_path):
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    large, small = rng.integers(0, 256, (50, 80, 3), np.uint8), rng.integers(0, 256, (20, 60, 3), np.uint8)
    Image.fromarray(large).save(photos / "a.png")
    Image.fromarray(small).save(photos / "b.png")
    (photos / "notes.txt").write_text("no picture")

    found = superres.crops(photos, 5, 32)
    np.testing.assert_array_equal(found[0], large[9:41, 24:56])
    np.testing.assert_array_equal(found[1], transforms.resize(small, 32, 96, "bicubic")[:, 32:64])
    places = [
        (y, x) for y in range(19) for x in range(49) if (large[y : y + 32, x : x + 32] == found[2]).all()
    ]
    assert len(places) == 1 and not np.array_equal(found[2], found[0])
    np.testing.assert_array_equal(found, superres.crops(photos, 5, 32))

    def paint(index: int, told: dict) -> np.ndarray:
        assert told["low_res_images"].shape == (8, 8, 3)
        return superres.crops(photos, 5, 32)[index] // 2

    painter = Painter(("low_res_images",), paint, image_size=32)
    said = run(painter, "superres", "--images", str(photos), "--num_samples", "5")
    errors = np.square(found - (found // 2).astype(float)).mean((1, 2, 3))
    assert said["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)))
    assert said["images"] == str(photos) and said["num_samples"] == 5


def test_inpaint(run, tmp_path):
    painter = Painter(("images", "masks"), truth)
    found = run(painter, "inpaint", "--num_samples", "16")
    assert found["known_identical"] is True and found["completed_right"] == 1
    assert found["completed_right_where_hidden"] == 1 and 0 < found["hidden"] < 1
    call = painter.calls[0]
    assert all(0 < mask.mean() < 1 and mask.shape == (64, 64) for mask in call["masks"])
    np.testing.assert_array_equal(call["images"][3], truth(3, {}))
    grid_of(tmp_path, "inpaint", 3, 16)

    def noise(index: int, told: dict) -> np.ndarray:
        rubbish = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
        return np.where(told["masks"][..., None], rubbish, truth(index, told))

    found = run(Painter(("images", "masks"), noise), "inpaint", "--num_samples", "16")
    assert found["known_identical"] is True and found["completed_right"] < 0.1

    def one_byte(index: int, told: dict) -> np.ndarray:
        image = truth(index, told)
        y, x = np.argwhere(~told["masks"])[0]
        image[y, x, 2] += index == 5
        return image

    found = run(Painter(("images", "masks"), one_byte), "inpaint", "--num_samples", "16")
    assert found["known_identical"] is False and found["completed_right"] == 1


def test_inpaint_by_a_model_that_takes_no_masks(run):
    painter = Painter(("prompts",), truth)
    found = run(painter, "inpaint", "--num_samples", "3")
    assert found["completed_right"] == 1
    call = painter.calls[0]
    assert call["prompts"] == [world.caption(world.scene(i, "test")) for i in range(3)]
    assert {"init_images", "fill_masks"} <= set(call)
    painter = Painter((), truth)
    run(painter, "inpaint", "--num_samples", "2")
    assert "prompts" not in painter.calls[0]


def test_colorize(run, tmp_path):
    painter = Painter(("images",), truth)
    found = run(painter, "colorize", "--num_samples", "8")
    assert found["shape_right"] == found["color_legible"] == 1 and found["psnr_luma"] is None
    given = painter.calls[0]["images"][2]
    assert (given[..., 0] == given[..., 1]).all()
    np.testing.assert_array_equal(given[..., 2], np.asarray(Image.fromarray(truth(2, {})).convert("L")))
    grid_of(tmp_path, "colorize", 3, 8)
    found = run(Painter(("images",), blank), "colorize", "--num_samples", "8")
    assert found["shape_right"] == found["color_legible"] == 0 and found["psnr_luma"] < 25


def noised(index: int, told: dict) -> np.ndarray:
    """What a right model does: nothing at strength 0, no image at strength 1, in between so many levels more."""
    if told["strength"] == 1:
        return np.full((64, 64, 3), index, np.uint8)
    if told["strength"] == 0:
        return grid.to_uint8(transforms.to_float(told["init_images"]))
    levels = np.uint8(20 * told["strength"])
    return np.where(told["init_images"] > 127, told["init_images"] - levels, told["init_images"] + levels)


def test_img2img(run, tmp_path):
    painter = Painter(("prompts",), noised)
    found = run(painter, "img2img", "--num_samples", "5", "--batch_size", "2")
    assert found["strength_0_is_reconstruction"] is True and found["strength_1_ignores_image"] is True
    expected = {s: 20 * np.log10(255 / (20 * float(s))) for s in ("0.25", "0.5", "0.75")}
    assert found["psnr_to_image"] == pytest.approx(expected)
    assert [len(call["seeds"]) for call in painter.calls] == [2, 2, 2, 5, 5, 5]
    assert painter.calls[3]["prompts"][4] == world.caption(world.scene(4, "test"))
    grid_of(tmp_path, "img2img", 6, 2)

    def off(index: int, told: dict) -> np.ndarray:
        out = noised(index, told | ({"strength": 0.0} if told["strength"] == 1 else {}))
        return out - np.uint8(told["strength"] == 0)

    found = run(Painter((), off), "img2img", "--num_samples", "2")
    assert found["strength_0_is_reconstruction"] is False and found["strength_1_ignores_image"] is False


def test_img2img_of_a_model(tmp_path, capsys):
    """Through the real pipeline: the two ends of strength hold for any parameters."""
    config = tiny_diffusion.get_config().to_dict()
    config |= dict(image_size=64, scale_factor=1.0, conditioning=None)
    config["model"] = dict(
        in_channels=3, out_channels=3, channels=4, channel_mult=[1, 1, 1], num_res_blocks=1, num_groups=2, num_heads=1,
        attention_levels=[],
    )  # fmt: skip
    bundle.save(tmp_path / "tiny", tiny_models.random_bundle(config))
    argv = ["--num_samples", "2", "--batch_size", "2", "--steps", "4"]
    evaluate.main(["img2img", "--checkpoint", str(tmp_path / "tiny"), *argv])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["strength_0_is_reconstruction"] is True and found["strength_1_ignores_image"] is True
    assert set(found["psnr_to_image"]) == {"0.25", "0.5", "0.75"}


def test_shapes(run, tmp_path):
    known = {}
    for i in range(300):
        for split in ("test", "unseen"):
            scene = world.scene(i, split)
            known.setdefault(world.caption(scene, np.random.default_rng([1, i])), scene)
    painter = Painter(("prompts",), lambda index, told: world.render(known[told["prompts"]]))
    found = run(painter, "shapes", "--num_samples", "13")
    assert [found[kind] for kind in ("one", "two", "relation", "unseen", "count", "three")] == [1.0] * 6
    assert {kind: set(shares.values()) for kind, shares in found["failures"].items()} == {
        kind: {0.0} for kind in found["interval"]
    }
    assert found["num_samples"] == 12 and found["shapes_fid"] is None  # too few for it
    grid_of(tmp_path, "shapes", 3, 4)
    found = run(painter, "shapes", "--num_samples", "5", "--only", "two,unseen")
    assert (
        found["num_samples"] == 4
        and set(found["interval"]) == {"two", "unseen"}
        and "shapes_fid" not in found
    )
    with pytest.raises(ValueError, match="--only: 'tow' not found; there are: one, two, relation"):
        run(painter, "shapes", "--only", "tow")


def test_first_stage(tmp_path, capsys):
    """Three scenes in batches of two, against scikit-image's PSNR of what the module makes of them."""
    section = tiny_models.FIRST_STAGE | dict(channels=4, num_groups=2)
    stage = make_first_stage(section)
    template = jax.eval_shape(stage.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(np.float32), template)
    saved = bundle.Bundle(
        dict(task="first_stage", image_size=64, first_stage=section), {"first_stage": params}
    )
    bundle.save(tmp_path / "stage", saved)
    evaluate.main(
        ["first_stage", "--checkpoint", str(tmp_path / "stage"), "--num_samples", "3", "--batch_size", "2"]
    )
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    images = np.stack([truth(i, {}) for i in range(3)])
    rebuild = jax.jit(lambda p, x: stage.decode(p, stage.mode(p, x)))
    out = grid.to_uint8(np.asarray(rebuild(params, transforms.to_float(images))))
    errors = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(images, out, strict=True)]
    assert found["psnr"] == pytest.approx(np.mean(errors), abs=0.02)
    assert found["oracle_right"] == 0 and found["num_samples"] == 3


def test_oracle(run, tmp_path):
    assert run(None, "oracle", "--num_samples", "5") == {
        "oracle_right": 1.0, "num_samples": 5, "seconds": pytest.approx(0, abs=60),
    }  # fmt: skip
    grid_of(tmp_path, "oracle", 2, 3)


@pytest.mark.parametrize(
    "takes, argv, said",
    [
        (("prompts",), ["class"], "takes prompts, and task 'class' is for a model that takes class_labels"),
        (("images", "masks"), ["colorize"], "takes images, masks, and task 'colorize' is for"),
        ((), ["layout"], "takes no conditions, and task 'layout' is for a model that takes layouts"),
        (("layouts",), ["img2img", "--num_samples", "1"], "takes layouts, and task 'img2img' is for a model "
            "that takes none"),
        (("class_labels",), ["class", "--num_samples", "0"], "--num_samples is 0, expected at least 1"),
        (("class_labels",), ["class", "--images", "x"], "--images is for task superres, got it with task class"),
        (("images", "masks"), ["inpaint", "--mask", "hole", "--num_samples", "1"], "mask kind 'hole' not found"),
        (("prompts",), ["shapes", "--unseen"], "--unseen is for task class, got it with task shapes"),
        (("class_labels",), ["class", "--mask", "hair"], "--mask is for task inpaint, got it with task class"),
        ((), ["clas"], "task 'clas' not found; there are: .*; did you mean 'class'"),
        (("low_res_images",), ["superres", "--images", "absent"], "--images 'absent' is not there"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said_in_one_sentence(run, takes, argv, said):
    with pytest.raises(ValueError, match=said) as error:
        run(Painter(takes, blank), *argv)
    assert "\n" not in str(error.value)


def test_every_file_of_the_room_is_a_task_with_its_help_and_its_options():
    files = {path.stem for path in Path(base.__file__).parent.glob("*.py")} - {
        "__init__",
        "base",
        "command",
        "points",
        "regions",
        "rows",
    }
    tasks, said = command.tasks(), " ".join(command.parser().format_help().split())
    assert {module.__name__.rpartition(".")[2] for module in tasks.values()} == files
    for name, module in tasks.items():
        assert f"{name} {' '.join(module.score.__doc__.split('.')[0].split())}" in said
        assert all(flag in said for flag in getattr(module, "OPTIONS", {}))


def test_a_model_of_another_size(run):
    with pytest.raises(ValueError, match="draws pictures of 32 x 32, expected 64 x 64"):
        run(Painter(("class_labels",), blank, image_size=32), "class")
