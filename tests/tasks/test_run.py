"""What a job becomes, against a model that writes down what it is asked; which jobs a user's files make; what is
refused."""

import ast
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioning import class_label, layout, semantic, superres, text
from ldm_jax.system import System
from ldm_jax.tasks import jobs, labels, run

NAMES = ["red circle", "blue circle", "red square"]
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
HOLE = np.zeros((16, 16), bool)
HOLE[4:12, 4:12] = True


class FakeSystem:
    """A system of some names, 16 x 16 pixels, a factor of 4. check: as System.inputs would for a single job."""

    image_shape, parts = (16, 16), ()
    first_stage = SimpleNamespace(factor=4)
    size_multiple = 8

    def __init__(self, takes, optional=(), check=lambda given: None):
        self.takes, self.optional, self._check = takes, optional, check

    check_shape = System.check_shape

    def inputs(self, given, image_shape=None):
        self._check(given)
        return {}


class FakeModel:
    """Remembers the arguments of each call; the pictures it draws are filled with their seeds."""

    def __init__(self, *takes, optional=(), check=lambda given: None, config=None):
        self.system = FakeSystem(takes, optional, check)
        self.config = config or dict(class_names=NAMES)
        self.calls = []

    def sample(self, seeds, batch_size, image_shape=None, **arguments):
        given = {name: values for name, values in arguments.items() if name in self.system.takes}
        for name, values in given.items():
            assert len(values) == len(seeds), name
            for value in values:
                self.system.inputs({name: [value]})
        self.calls.append(dict(arguments, seeds=list(seeds), image_shape=image_shape))
        shape = image_shape or self.system.image_shape
        return np.stack([np.full((*shape, 3), seed, np.uint8) for seed in seeds])


def done(model, given, task=None, **options):
    """The arguments that one job is sampled with. Raises: the job's error."""
    ((_, picture),) = run.run(model, [given], task, **options)
    if isinstance(picture, ValueError):
        raise picture
    (call,) = model.calls
    return call


def save(path, array):
    Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array).save(path)
    return str(path)


# ---------------------------------------------------------------------------------------- what a job becomes


@pytest.mark.parametrize(
    "takes, given, expected",
    [
        (("prompts",), dict(prompt="x"), "text"),
        (("prompts",), dict(prompt="x", image=PHOTO), "img2img"),
        (("prompts",), dict(image=PHOTO, mask=HOLE), "inpaint"),
        (("class_labels",), dict(class_label=1), "class"),
        (("layouts",), dict(layout={}), "layout"),
        (("segmentations",), {}, "semantic"),
        (("low_res_images",), {}, "superres"),
        (("prompts", "images", "masks"), dict(prompt="x"), "inpaint"),
        (("images",), {}, "colorize"),
        (("prompts", "depths"), dict(image=PHOTO), "depth"),
        (("embeddings",), {}, "retrieval"),
        ((), {}, "unconditional"),
        ((), dict(image=PHOTO), "img2img"),
        ((), dict(mask=HOLE), "inpaint"),
    ],
)
def test_the_task_that_is_meant(takes, given, expected):
    assert run.find_task(FakeSystem(takes), given) == expected


def test_a_prompt_and_its_settings():
    call = done(FakeModel("prompts"), dict(prompt="a", negative_prompt="b", seed=3, size="8x24"), num_steps=7)
    assert call == dict(prompts=["a"], negative_prompts=["b"], seeds=[3], image_shape=(8, 24), num_steps=7)


def test_a_prompt_that_is_not_given_is_the_empty_one():
    call = done(FakeModel("prompts"), dict(seed=5))
    assert call["prompts"] == [""] and call["seeds"] == [5]
    assert done(FakeModel("prompts"), dict(size=[64.0, 32]))["image_shape"] == (64, 32)


def test_gray_pictures_without_channels():
    gray = PHOTO[..., 0]
    for array in (gray, gray[..., None]):
        (image,) = done(FakeModel("images"), dict(image=array))["images"]
        np.testing.assert_array_equal(image, np.stack([gray] * 3, -1))


def test_a_depth_map_is_fitted_with_its_image():
    """A square for an image twice as wide as high; the middle of both is shown."""
    depth = np.repeat([[0, 0, 1, 2, 2, 3, 0, 0]], 8, axis=0)
    image = np.repeat(depth.repeat(2, 0).repeat(4, 1)[..., None], 3, -1).astype(np.uint8)
    call = done(FakeModel("prompts", "depths"), dict(depth=depth, image=image), fit="crop")
    np.testing.assert_array_equal(call["depths"][0], call["init_images"][0][..., 0])
    assert sorted(set(call["depths"][0].ravel())) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"depth has shape \(0, 4\)"):
        done(FakeModel("prompts", "depths"), dict(depth=depth[:0, :4], image=image), fit="crop")


def test_an_image_to_start_from():
    call = done(FakeModel("prompts"), dict(image=PHOTO))
    assert call["prompts"] == [""] and call["strength"] == 0.75 and call["image_shape"] == (16, 16)
    np.testing.assert_array_equal(call["init_images"], [PHOTO])
    assert done(FakeModel("prompts"), dict(image=PHOTO, strength=0))["strength"] == 0


def test_inpainting_by_a_model_of_masks_and_by_blending():
    given = dict(image=PHOTO, mask=HOLE)
    own = done(FakeModel("images", "masks"), given)
    np.testing.assert_array_equal(own["images"], [PHOTO])
    np.testing.assert_array_equal(own["masks"], [HOLE])
    assert not {"init_images", "fill_masks", "strength"} & set(own)
    blended = done(FakeModel("prompts"), dict(given, prompt="a"))
    np.testing.assert_array_equal(blended["init_images"], [PHOTO])
    np.testing.assert_array_equal(blended["fill_masks"], [HOLE])
    assert blended["prompts"] == ["a"] and "strength" not in blended
    with pytest.raises(
        ValueError, match="'inpaint' of this model takes image, mask, extend, size, got strength"
    ):
        done(FakeModel("images", "masks"), dict(given, strength=0.5))


def test_superresolution_is_as_many_times_larger_as_the_first_stage():
    call = done(FakeModel("low_res_images"), dict(image=PHOTO[:4, :6]))
    assert call["image_shape"] == (16, 24)
    np.testing.assert_array_equal(call["low_res_images"], [PHOTO[:4, :6]])
    call = done(FakeModel("low_res_images"), dict(image=PHOTO[:5, :9]), fit="crop")
    assert call["image_shape"] == (16, 16) and call["low_res_images"][0].shape == (4, 4, 3)
    call = done(
        FakeModel("low_res_images", "noise_levels", optional=("noise_levels",)),
        dict(image=PHOTO[:4, :4], noise_level=7),
    )
    assert call["noise_levels"] == [7]


def test_maps_colors_depths_and_neighbors():
    call = done(FakeModel("segmentations"), dict(map=np.eye(16, 32, dtype=int)))
    assert call["image_shape"] == (16, 32) and call["segmentations"][0].shape == (16, 32)
    call = done(FakeModel("images"), dict(image=PHOTO))
    assert "strength" not in call and call["images"][0].shape == (16, 16, 3)
    call = done(FakeModel("prompts", "depths"), dict(depth=np.ones((5, 7)), prompt="a"))
    assert call["image_shape"] is None and call["depths"][0].shape == (5, 7) and "strength" not in call
    call = done(FakeModel("prompts", "depths"), dict(depth=np.ones((5, 7)), image=PHOTO))
    assert call["strength"] == 0.75 and call["image_shape"] == (16, 16)
    assert done(FakeModel("embeddings"), dict(embeddings=np.ones((3, 8))))["embeddings"][0].shape == (3, 8)
    for one in (np.ones(8), np.ones((1, 8))):
        found = done(FakeModel("image_embeddings", "prompts"), dict(image_embedding=one, prompt="a"))
        assert found["image_embeddings"][0].shape == (8,) and found["prompts"] == ["a"]


def test_an_image_of_another_size_is_refused_or_fitted():
    photo = np.tile(PHOTO, (2, 3, 1))[:30, :45]
    mask = np.zeros((30, 45), bool)
    mask[10:20, 10:30] = True
    with pytest.raises(
        ValueError, match="the image: got 30 x 45.*nearest is 32 x 48.*'crop' or 'resize' makes it 16 x 16"
    ):
        done(FakeModel(), dict(image=photo))
    with pytest.raises(ValueError, match="at least 8 x 8"):
        done(FakeModel(), dict(image=photo[:3, :3]))
    for fit in ("crop", "resize"):
        call = done(FakeModel(), dict(image=photo, mask=mask), fit=fit)
        assert call["init_images"][0].shape == (16, 16, 3) and call["fill_masks"][0].shape == (16, 16)
        call = done(FakeModel(), dict(image=photo, size=[8, 24]), fit=fit)
        assert call["image_shape"] == (8, 24)
    with pytest.raises(ValueError, match="size is 8 x 8"):
        done(FakeModel(), dict(image=PHOTO, size=[8, 8]))


def test_pictures_of_pil_and_layouts_and_mixtures():
    call = done(FakeModel(), dict(image=Image.fromarray(PHOTO).convert("L")))
    assert call["init_images"][0].shape == (16, 16, 3)
    call = done(FakeModel("layouts"), dict(layout=dict(boxes=[[0, 0, 1, 1]], labels=["Blue  circle"])))
    assert call["layouts"] == [dict(boxes=[[0, 0, 1, 1]], labels=[1])]
    call = done(FakeModel("class_labels"), dict(class_label="red circle:0.25, 2:0.75"))
    assert call["class_labels"] == [{0: 0.25, 2: 0.75}]


@pytest.mark.parametrize(
    "value, expected",
    [
        (2, 2), ("2", 2), ("red square", 2), ({"red square": 1.5, 0: -0.5}, {2: 1.5, 0: -0.5}),
        ("0:1,0:1", {0: 2.0}), ({"red circle": 0.5, "0": 0.5, 0: 0.25}, {0: 1.25}), ("tench, Tinca tinca", 1),
        ("0, 1", {0: 1.0, 1: 1.0}),
    ],
)  # fmt: skip
def test_class_labels_as_people_write_them(value, expected):
    names = ["red circle", "tench, Tinca tinca", "red square"]
    assert labels.class_label(value, names) == expected


@pytest.mark.parametrize("names", [["1", "10", "2"], ["001", "010", "002"]])
def test_classes_that_are_called_by_numbers(names):
    """The folders 1, 2 and 10, in the order of their names."""
    for value, expected in (
        (10, 1),
        ("10", 1),
        (np.int64(2), 2),
        ("2", 2),
        ("10:0.5,2:0.5", {1: 0.5, 2: 0.5}),
    ):
        value = (
            value
            if len(names[0]) < 3 or not isinstance(value, str)
            else value.replace("10", "010").replace("2", "002")
        )
        assert labels.class_label(value, names) == expected
    assert labels.class_label({10: 1, "2" if names[0] == "1" else "002": 0.5}, names) == {1: 1.0, 2: 0.5}
    assert labels.layout(dict(boxes=[[0, 0, 1, 1]], labels=[10]), names)["labels"] == [1]
    for unknown in (0, "0", 3):
        with pytest.raises(ValueError, match=f"class '{unknown}' not found among the 3"):
            labels.class_label(unknown, names)
    assert labels.class_label(1, ["ant", "10"]) == labels.class_label("1", ["ant", "10"]) == 1


# ---------------------------------------------------------------------------------------- batches and errors


def test_jobs_of_one_shape_are_drawn_together_and_padded_once_compiled():
    model = FakeModel()
    wide = np.tile(PHOTO, (1, 2, 1))
    given = [dict(image=wide if i in (1, 4) else PHOTO, seed=i, name=f"j{i}") for i in range(8)]
    given[6]["strength"] = 0.5
    drawn = {job.name: picture for job, picture in run.run(model, given, batch_size=2)}
    for i in range(8):
        assert (drawn[f"j{i}"] == i).all() and drawn[f"j{i}"].shape == (16, 32 if i in (1, 4) else 16, 3)
    # the program of strength 0.75 draws 0.5 as well
    drawn_together = sorted(call["seeds"] for call in model.calls)
    assert drawn_together == [[0, 2], [1, 4], [3, 5], [6, 6], [7, 7]]
    model = FakeModel()  # that of strength 1 starts from noise, and is another
    given = [dict(image=PHOTO, strength=s, seed=i) for i, s in enumerate((0.6, 0.6, 0.5, 1))]
    list(run.run(model, given, batch_size=2))
    assert [call["seeds"] for call in model.calls] == [[0, 1], [2, 2], [3]]


def test_no_more_files_are_read_than_are_asked_for(tmp_path, monkeypatch):
    read, real = [], run.pictures.read_picture
    monkeypatch.setattr(run.pictures, "read_picture", lambda path: read.append(path) or real(path))
    path = save(tmp_path / "x.png", PHOTO)
    results = run.run(FakeModel(), [dict(image=path)] * 6, batch_size=2)
    next(results)
    assert len(read) == 2


def test_jobs_of_many_shapes_do_not_pile_up():
    model = FakeModel()
    sizes = [(8 * (1 + i), 8) for i in range(20)]
    results = run.run(model, [dict(size=size) for size in sizes], batch_size=2)
    next(results)
    assert len(model.calls) == 1
    assert len(list(results)) == 19


def test_a_bad_job_stops_none_of_the_others():
    def check(given):
        if 9 in given["class_labels"]:
            raise ValueError("label 9, expected 0 to 2")

    model = FakeModel("class_labels", check=check)
    given = [dict(class_label=label, seed=i) for i, label in enumerate([0, 9, 1, 2, 9])] + ["no job"]
    results = list(run.run(model, given, batch_size=4))
    errors = {job.where: str(r) for job, r in results if isinstance(r, ValueError)}
    assert errors.keys() == {"job 1", "job 4", "job 5"} and "label 9" in errors["job 4"]
    assert "expected an object" in errors["job 5"]
    assert {job.seed for job, r in results if not isinstance(r, ValueError)} == {0, 2, 3}


def test_a_hole_that_fitting_takes_away_is_one_bad_job():
    wide = np.tile(PHOTO, (1, 2, 1))
    away = np.zeros((16, 32), bool)
    away[:, :4] = True
    given = [dict(image=PHOTO, mask=HOLE, seed=1), dict(image=wide, mask=away)]
    for takes in ((), ("images", "masks")):
        (_, error), (job, _) = sorted(run.run(FakeModel(*takes), given, fit="crop"), key=lambda r: r[0].seed)
        assert job.seed == 1 and "marks none of the image after fit 'crop'" in str(error)
        assert "fill_masks" not in str(error)


def test_layouts_of_which_parts_are_no_lists_are_bad_jobs():
    system = real_system(
        "layout", layout, vocab_size=1024, num_classes=3, width=8, num_layers=1, max_length=11
    )
    good = dict(boxes=[[0, 0, 0.5, 0.5]], labels=[0])
    for bad in (dict(labels=3), dict(labels=None), dict(boxes=None), dict(boxes=[[10**400, 0, 1, 1]])):
        assert "layout: " in refusal(system, [dict(layout=good), dict(layout=good | bad)])


def test_an_error_of_the_settings_is_raised():
    model = FakeModel("class_labels")
    model.sample = lambda **arguments: (_ for _ in ()).throw(ValueError("sampler 'dimm' not found"))
    with pytest.raises(ValueError, match="'dimm' not found"):
        list(run.run(model, [dict(class_label=0)] * 2))


@pytest.mark.parametrize(
    "takes, given, task, said",
    [
        (("prompts",), dict(image=PHOTO), "superres", "takes prompts; it can do: text, inpaint, img2img"),
        (("prompts",), {}, "paint", "'paint' not found.*colorize"),
        (("low_res_images",), dict(image=PHOTO), "img2img", "takes low_res_images; it can do: superres"),
        ((), dict(prompt="x"), None, "takes size, got prompt"),
        (("prompts",), dict(image=PHOTO), "inpaint", "needs mask, got image"),
        (("class_labels",), dict(image=PHOTO), "img2img", "needs class_label"),
        (
            (),
            dict(size=[float("inf"), 64]),
            None,
            r"size is \[inf, 64\], expected height x width in whole pixels",
        ),
        ((), dict(size=[64.7, 64]), None, r"size is \[64.7, 64\], expected"),
        ((), dict(size=[[64], [64, 64]]), None, r"size is .*, expected height x width"),
        ((), dict(size=[60, 128]), None, "^size: got 60 x 128"),
        ((), dict(image=PHOTO[..., :2]), None, r"image is uint8 of shape \(16, 16, 2\)"),
        (
            ("class_labels",),
            dict(class_label={"0": None}),
            None,
            "'0' has the weight None, expected a number",
        ),
        ((), dict(image=PHOTO, mask=HOLE[:8]), None, "mask is 8 x 16 and its image 16 x 16"),
        ((), dict(image=PHOTO, mask=HOLE & False), None, "marks none.*nothing is to be filled in"),
        ((), dict(image=PHOTO, mask=HOLE | True), None, "marks all.*nothing is known"),
        ((), dict(image=PHOTO, mask=HOLE * 3.0), None, "values from 0 to 1"),
        ((), dict(image=PHOTO / 255.0), None, "image is float64.*expected uint8"),
        ((), dict(image=PHOTO, strength=1.5), None, "strength is 1.5, expected a number from 0 to 1"),
        ((), dict(image=PHOTO, strength="much"), None, "strength is 'much', expected a number"),
        ((), dict(size="big"), None, "size is 'big', expected height x width"),
        ((), dict(size=[4, 4]), None, "4 x 4.*at least 8 x 8"),
        ((), dict(image=PHOTO, sede=1), None, "no 'sede'; it may have: name, seed"),
        ((), dict(seed=-1), None, "seed is -1"),
        (("prompts",), dict(prompt="a \ud800"), None, "which is no Unicode text"),
        ((), dict(name="../x"), None, "name is '../x', expected the name of a file"),
        ((), dict(image="away.png"), None, "away.png is not there"),
        (("class_labels",), dict(class_label="red circel"), None, "'red circel' not found.*'red circle'"),
        (("class_labels",), dict(class_label="red circle:much"), None, "a mixture is written"),
        (
            ("layouts",),
            dict(layout=dict(boxes=[[0, 0, 1, 1]], labels=["cat"])),
            None,
            "class 'cat' not found",
        ),
        (("layouts",), dict(layout="away.json"), None, "away.json is not there"),
        (("segmentations",), dict(map=np.zeros((16, 16, 3), int)), None, "two axes"),
    ],
)
def test_what_is_refused(takes, given, task, said):
    with pytest.raises(ValueError, match=said) as error:
        done(FakeModel(*takes), given, task)
    assert "\n" not in str(error.value)


def test_options_of_a_run_that_are_none():
    for options, said in (
        (dict(fit="squash"), "'squash' not found"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(task="paint"), "'paint' not found"),
    ):
        with pytest.raises(ValueError, match=said):  # at the call, not at the first picture
            run.run(FakeModel(), [{}], **options)
    with pytest.raises(ValueError, match="names no classes"):
        done(FakeModel("class_labels", config=dict(x=1)), dict(class_label="dog"))


# ---------------------------------------------------------------------------------------- real kinds of conditioning


def real_system(name, kind, **options):
    """A system of one real kind of conditioning; its networks are not asked for."""
    part = SimpleNamespace(name=name, kind=kind, conditioner=kind.Conditioner(**options))
    unet = SimpleNamespace(channel_mult=(1,))
    first_stage = SimpleNamespace(factor=4, channels=4)
    return System(first_stage, unet, (part,), None, "v", None, 16)


def refusal(system, given):
    model = FakeModel()
    model.system = system

    def sample(seeds, batch_size, image_shape=None, negative_prompts=None, **arguments):
        asked = {k: v for k, v in arguments.items() if k in system.takes}
        system.inputs(asked, image_shape)
        if negative_prompts is not None:
            system.null_inputs(len(seeds), dict(asked, prompts=negative_prompts), image_shape)
        return np.zeros((len(seeds), 16, 16, 3), np.uint8)

    model.sample = sample
    good, bad = run.run(model, [given[0], given[1]], batch_size=2)
    good, bad = sorted((good, bad), key=lambda pair: pair[0].where)
    assert isinstance(good[1], np.ndarray)
    return str(bad[1])


def test_a_map_of_unknown_classes():
    system = real_system("semantic", semantic, num_classes=3)
    zeros = np.zeros((16, 16), int)
    assert "classes 0 to 7, expected 0 to 2" in refusal(system, [dict(map=zeros), dict(map=zeros + 7 * HOLE)])


def test_a_prompt_and_a_negative_prompt_of_unknown_tokens():
    """The tokenizer is another model's: it has one word more than the table of embeddings has rows."""
    make = text.TOKENIZERS["word_level"]
    known = make(words=["red"], max_length=4).get_vocab_size()
    system = real_system("text", text, vocab_size=known, width=8, num_layers=1, max_length=4)
    system = system._replace(tokenizer=make(words=["red", "stranger"], max_length=4))
    good = dict(prompt="red", negative_prompt="red")
    for bad in (dict(negative_prompt="stranger"), dict(prompt="stranger")):
        assert f"gives token {known}, expected" in refusal(system, [good, good | bad])


def test_boxes_outside_the_picture():
    system = real_system(
        "layout", layout, vocab_size=1024, num_classes=3, width=8, num_layers=1, max_length=11
    )
    good = dict(boxes=[[0, 0, 0.5, 0.5]], labels=["red circle"])
    said = refusal(system, [dict(layout=good), dict(layout=dict(good, boxes=[[0.75, 0, 0.5, 0.5]]))])
    assert "box 0 is [0.75, 0, 0.5, 0.5]" in said and "inside the picture" in said


def test_objects_for_which_there_is_no_room_are_named(caplog):
    system = real_system(
        "layout", layout, vocab_size=1024, num_classes=3, width=8, num_layers=1, max_length=11
    )
    many = dict(boxes=[[0, 0, 0.5, 0.5]] * 5, labels=[0, 1, 2, 0, 1], group=[True] * 5, crop=[0, 0, 1, 1])
    with caplog.at_level(logging.WARNING):
        kept = labels.within_room(system, many, NAMES, "a.json")
    assert (
        "a.json: 5 objects, this model has room for 3; left out: 3 (red circle), 4 (blue circle)"
        in caplog.text
    )
    assert kept == dict(boxes=[[0, 0, 0.5, 0.5]] * 3, labels=[0, 1, 2], group=[True] * 3, crop=[0, 0, 1, 1])
    assert labels.within_room(system, kept, NAMES, "a.json") == kept
    four = {key: value if key == "crop" else value[:4] for key, value in many.items()}
    assert (
        labels.within_room(system, four, NAMES, None) == kept
    )  # the crop is of four numbers whatever there is
    caplog.clear()
    assert labels.told(system, many, NAMES) == kept and not caplog.text


def test_tokens_are_read_back():
    sizes = dict(vocab_size=1024, num_classes=3, max_length=11)
    system = real_system("layout", layout, width=8, num_layers=1, **sizes)
    tokens = layout.tokens(dict(boxes=[[0, 0, 0.5, 1]], labels=[2], group=[True]), **sizes)
    told = labels.told(system, tokens.tolist(), NAMES)
    assert told["boxes"] == [[0, 0, 0.5, 1]] and told["labels"] == [2] and told["group"] == [True]
    with pytest.raises(ValueError, match="crop is .*, expected w and h above 0"):
        labels.told(system, [*tokens[:-1].tolist(), 0], NAMES)


def test_labels_of_a_class_out_of_range_and_pictures_that_are_too_small():
    said = refusal(
        real_system("class_label", class_label, num_classes=3, width=8),
        [dict(class_label="red square"), dict(class_label={"0": 0.5, "7": 0.5})],
    )
    assert "label 7, expected 0 to 2" in said
    said = refusal(real_system("superres", superres), [dict(image=PHOTO[:4, :4]), dict(image=PHOTO[:0, :4])])
    assert "4 times the image: got 0 x 16" in said and "at least 4 x 4" in said


# ---------------------------------------------------------------------------------------- where jobs come from


def test_a_file_of_lines(tmp_path):
    save(tmp_path / "x.png", PHOTO)
    lines = [
        json.dumps(dict(image="x.png", seed=5)), "", "{image: x.png}", json.dumps([1]),
        json.dumps(dict(image="x.png", name="mine", strength=0.2)), json.dumps(dict(imgae="x.png")),
        json.dumps(dict(image="x.png")), json.dumps(dict(prompt="a b")),
    ]  # fmt: skip
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found, failures = jobs.of_lines(tmp_path / "jobs.jsonl", dict(strength=0.5), seeds=[0, 1])
    assert [job.name for job in found] == ["x", "mine_0", "mine_1", "x_0", "x_1", "8_0", "8_1"]
    assert [job.seed for job in found] == [5, 0, 1, 0, 1, 0, 1]
    assert found[0].given == dict(image=str(tmp_path / "x.png"), strength=0.5)
    assert found[1].given["strength"] == 0.2 and found[1].where == "jobs.jsonl line 5"
    assert [f.where for f in failures] == ["jobs.jsonl line 3", "jobs.jsonl line 4", "jobs.jsonl line 6"]
    assert "no JSON" in failures[0].error and "no 'imgae'" in failures[2].error


def test_paths_of_lines_are_relative_to_their_file_and_those_beside_it_to_the_place_of_the_call(
    tmp_path, monkeypatch
):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "jobs.jsonl").write_text('{"mask": "m.png"}')
    monkeypatch.chdir(tmp_path)
    (job,), _ = jobs.of_lines("lists/jobs.jsonl", dict(image="x.png"))
    assert Path(job.given["image"]).resolve() == (tmp_path / "x.png").resolve()
    assert Path(job.given["mask"]).resolve() == (tmp_path / "lists" / "m.png").resolve()


def test_files_of_lines_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        jobs.of_lines(tmp_path / "away.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="is empty"):
        jobs.of_lines(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="no UTF-8"):
        jobs.of_lines(tmp_path / "latin.jsonl")


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.JPG", "c.png"):
        Image.fromarray(PHOTO).save(tmp_path / name)
    for name in ("a_mask.png", "b_mask.png"):
        save(tmp_path / name, HOLE)
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks" / "a.png", HOLE)
    save(tmp_path / "masks" / "b_mask.png", HOLE)
    return tmp_path


def test_images_and_masks_of_one_folder(folder):
    found, failures = jobs.of_flags(dict(image=folder, prompt="x"), [0], with_masks=True)
    assert [(job.name, job.given["mask"]) for job in found] == [
        ("a", str(folder / "a_mask.png")),
        ("b", str(folder / "b_mask.png")),
    ]
    assert found[0].given["image"] == str(folder / "a.png") and found[0].given["prompt"] == "x"
    (missing,) = failures
    assert (
        missing.where == str(folder / "c.png")
        and "no mask for it" in missing.error
        and "c_mask.*" in missing.error
    )
    found, _ = jobs.of_flags(dict(image=folder), [0])  # where no masks are wanted, they are pictures as well
    assert [job.name for job in found] == ["a", "a_mask", "b", "b_mask", "c"]


def test_a_folder_given_twice_holds_masks_beside_images(folder):
    beside, _ = jobs.of_flags(dict(image=folder), [0], with_masks=True)
    twice, failures = jobs.of_flags(dict(image=folder, mask=folder / "masks" / ".."), [0], with_masks=True)
    assert [Path(job.given["mask"]).name for job in twice] == ["a_mask.png", "b_mask.png"]
    assert [job.name for job in twice] == [job.name for job in beside] and len(failures) == 1
    (alone,), _ = jobs.of_flags(dict(image=folder / "a.png", mask=folder), [0], with_masks=True)
    assert alone.given["mask"] == str(folder / "a_mask.png")


@pytest.mark.parametrize("field", ["map", "depth", "mask"])
def test_a_picture_is_not_paired_with_itself(folder, field):
    said = f"{field} .*: a.png would be both the image and the {field} of a picture, expected another folder"
    with pytest.raises(ValueError, match=said):
        jobs.of_flags({"image": folder, field: folder / "masks" / ".."}, [0])
    (folder / "a.json").write_text("{}")  # layouts are no pictures, and may lie among them
    found, _ = jobs.of_flags(dict(image=folder, layout=folder), [0])
    assert [(job.name, job.given["layout"]) for job in found] == [("a", str(folder / "a.json"))]


def test_images_and_masks_of_two_folders(folder):
    found, failures = jobs.of_flags(dict(image=folder, mask=folder / "masks"), [0], with_masks=True)
    pairs = {job.name: job.given["mask"] for job in found}
    assert pairs == {"a": str(folder / "masks/a.png"), "b": str(folder / "masks/b_mask.png")}
    assert [str(folder / "c.png")] == [f.where for f in failures]
    assert "expected c.* or c_mask.*" in failures[-1].error


def test_single_files_seeds_and_names(folder):
    found, _ = jobs.of_flags(dict(image=folder / "a.png", mask=folder / "masks"), [0])
    assert [(j.name, j.given["mask"]) for j in found] == [("a", str(folder / "masks/a.png"))]
    found, _ = jobs.of_flags(dict(image=folder / "a.png"), [0], with_masks=True)
    assert found[0].given["mask"] == str(folder / "a_mask.png")
    found, _ = jobs.of_flags(dict(image=folder / "a.png", prompt="x"), [3, 4])
    assert [(j.name, j.seed) for j in found] == [("a_3", 3), ("a_4", 4)]
    found, _ = jobs.of_flags(dict(prompt="x"), [3, 4])
    assert [(j.name, j.seed) for j in found] == [("3", 3), ("4", 4)]
    save(folder / "a.bmp", PHOTO)
    save(folder / "grid.png", PHOTO)
    found, _ = jobs.of_flags(dict(image=folder), [0])
    assert [j.name for j in found] == ["a", "a_2", "a_mask", "b", "b_mask", "c", "grid_2"]
    found, _ = jobs.of_flags(dict(image=folder / "a.png", map=folder / "masks"), [0])  # the folder leads
    assert [(j.name, Path(j.given["image"]).name) for j in found] == [("a", "a.png"), ("b_mask", "a.png")]
    with pytest.raises(ValueError, match="holds no files .json"):
        jobs.of_flags(dict(layout=folder), [0])


def test_names_that_one_file_system_or_another_takes_for_one():
    given = [jobs.make_job({}, where="", name=name) for name in ("a", "A", "a_2", "Grid")]
    assert [job.name for job in jobs.named_apart(given)] == ["a", "A_2", "a_2_2", "Grid_2"]


def test_the_examples_of_the_docs_draw():
    """run.run is a generator: an example that does not run through it draws nothing. Each example is python."""
    text = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 8
    for block in blocks:
        calls = block.count("run.run(")
        consumed = [
            node.iter if isinstance(node, ast.For) else node.args[0]
            for node in ast.walk(ast.parse(block))
            if isinstance(node, ast.For)
            or (isinstance(node, ast.Call) and ast.unparse(node.func) == "list" and node.args)
        ]
        assert sum(ast.unparse(node).startswith("run.run(") for node in consumed) == calls, block


def test_the_docs_and_the_help_name_every_task():
    root = Path(__file__).parents[2]
    table = (root / "docs/tasks.md").read_text(encoding="utf-8")
    help_text = (
        (root / "ldm_jax/commands/sample.py").read_text(encoding="utf-8").partition('"--task",')[2][:200]
    )
    for name in run.TASKS:
        assert f"\n| `{name}` |" in table and name in help_text


def test_a_picture_is_extended_and_the_room_is_filled_in():
    """Both by a model of masks and by blending; known pixels stay where they are, a hole of the image stays one."""
    model = FakeModel("images", "masks")
    job = dict(image=PHOTO, extend="8,0,0,16")
    ((_, image),) = run.run(model, [job], "inpaint")
    (call,) = model.calls
    assert image.shape == (32, 24, 3) and call["image_shape"] == (32, 24)
    given, mask = call["images"][0], np.asarray(call["masks"][0])
    np.testing.assert_array_equal(given[:16, 8:], PHOTO)
    assert mask.shape == (32, 24) and not mask[:16, 8:].any() and mask.sum() == 32 * 24 - 16 * 16
    blending = FakeModel("prompts")
    list(run.run(blending, [dict(job, mask=HOLE, prompt="a")]))  # extend alone says that it is inpainting
    (call,) = blending.calls
    assert np.asarray(call["fill_masks"][0])[:16, 8:].sum() == HOLE.sum() and len(call["init_images"]) == 1


@pytest.mark.parametrize("extend", ["8", "a,b,c,d", "-8,0,0,8", "0,0,0,0", [8, 0, 0.5, 0], 3])
def test_no_room_is_refused(extend):
    ((_, error),) = run.run(FakeModel("images", "masks"), [dict(image=PHOTO, extend=extend)], "inpaint")
    assert re.match("extend is .*, expected left,top,right,bottom in pixels", str(error))
