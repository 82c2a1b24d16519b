"""The procedural source: annotations agree with each other and with the pixels; held-out things are held
out."""

import numpy as np
import pytest

from ldm_jax.data import shapes
from ldm_jax.shapes_world import scenes as world


@pytest.fixture(scope="module")
def examples():
    source = shapes.source("test", num_scenes=60)
    return [(source.scene(i), source[i]) for i in range(60)]


def test_boxes_bound_the_instances(examples):
    for scene, example in examples:
        assert example["boxes"].shape == (len(scene.objects), 4) and example["boxes"].dtype == np.float32
        assert (0 <= example["boxes"]).all() and (example["boxes"] <= 1).all()
        for i, box in enumerate(example["boxes"] * 64):
            rows, columns = np.nonzero(example["instance_mask"] == i + 1)
            tight = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            # a triangle's apex is thinner than a pixel: its mask begins later than its box
            np.testing.assert_allclose(tight, box, atol=1.6)


def test_the_layout_says_the_boxes_as_conditioning_takes_them(examples):
    for _, example in examples:
        x0, y0, w, h = np.asarray(example["layout"]["boxes"]).T
        np.testing.assert_allclose(np.stack([y0, x0, y0 + h, x0 + w], 1), example["boxes"], atol=1e-7)
        assert example["layout"]["labels"] == example["labels"].tolist()


def test_masks_show_the_colors(examples):
    for scene, example in examples:
        for i, obj in enumerate(scene.objects):
            inside = example["instance_mask"] == i + 1
            assert np.abs(np.median(example["image"][inside], axis=0) - world.COLORS[obj.color]).max() <= 1
            assert (example["semantic_mask"][inside] == example["labels"][i] + 1).all()
        assert example["image"][example["instance_mask"] == 0].mean() > 220
        assert ((example["semantic_mask"] == 0) == (example["instance_mask"] == 0)).all()


def test_corners_lie_on_their_boxes(examples):
    number = {"circle": 4, "square": 4, "triangle": 3, "cross": 12}
    for scene, example in examples:
        for i, obj in enumerate(scene.objects):
            points = example["corners"][example["corner_objects"] == i]
            assert len(points) == number[obj.shape]
            bounds = np.concatenate([points.min(0), points.max(0)])
            np.testing.assert_allclose(bounds, example["boxes"][i], atol=1e-6)


def test_class_is_the_largest_object(examples):
    for scene, example in examples:
        largest = max(range(len(scene.objects)), key=lambda i: scene.objects[i].r)
        assert example["class_label"] == example["labels"][largest]
        color, shape = world.CLASS_NAMES[example["class_label"]].split()
        assert (color, shape) == (scene.objects[largest].color, scene.objects[largest].shape)


def test_held_out_things_are_held_out():
    for split, expected in (("train", False), ("test", False), ("unseen", True)):
        source = shapes.source(split, num_scenes=50)
        assert all(world.is_unseen(source.scene(i).objects) == expected for i in range(50))


def test_examples_depend_on_split_seed_and_index_alone():
    short, long = shapes.source("train", num_scenes=3), shapes.source("train", num_scenes=30)
    np.testing.assert_array_equal(short[2]["image"], long[2]["image"])
    assert short[2]["caption"] == long[2]["caption"]
    assert (long[2]["image"] != shapes.source("train", seed=1)[2]["image"]).any()
    assert (long[2]["image"] != shapes.source("test")[2]["image"]).any()


def test_random_captions_follow_their_rng():
    source = shapes.source("train")
    index = next(i for i in range(100) if len(source.scene(i).objects) == 3)
    said = {source.caption(index, np.random.default_rng(i)) for i in range(20)}
    assert len(said) > 3
    assert source.caption(index, np.random.default_rng(5)) == source.caption(index, np.random.default_rng(5))
    assert source.caption(index) == source[index]["caption"]


def test_as_many_captions_say_a_relation_as_are_told_to():
    clear = [
        i
        for i, objects in enumerate(shapes.source("train").scene(i).objects for i in range(60))
        if len(objects) == 2 and objects[0][:3] != objects[1][:3] and world.relation(*objects)
    ]
    for related, least, most in (
        (0.0, 0, 0),
        (world.RELATED, 1, len(clear) - 1),
        (1.0, len(clear), len(clear)),
    ):
        source = shapes.source("train", related=related)
        said = [source.caption(i, np.random.default_rng(i)) for i in clear]
        assert said == [source.described(i, np.random.default_rng(i))[0] for i in clear]
        assert least <= sum(any(f" {where} " in text for where in world.RELATIONS) for text in said) <= most


def test_phrases_speak_of_what_their_masks_cover(examples):
    source = shapes.source("test", num_scenes=60)
    for index, (scene, example) in enumerate(examples):
        caption, phrases = source.described(index, np.random.default_rng(index))
        assert caption == source.caption(index, np.random.default_rng(index))
        spoken = []
        for start, end, mask in phrases:
            assert mask.shape == (64, 64) and mask.dtype == np.float32
            shown = set(np.unique(example["instance_mask"][mask >= 0.5])) - {0}
            assert ((mask >= 0.5) == np.isin(example["instance_mask"], list(shown))).all()
            for i in shown:
                obj = scene.objects[i - 1]
                words = f"{obj.color} {obj.shape if len(shown) == 1 else world.plural(obj.shape)}"
                assert caption[start:end] in (words, f"{obj.size} {words}")
            spoken += shown
        assert sorted(spoken) == list(range(1, len(scene.objects) + 1))


def test_fingerprint_tells_contents_apart():
    prints = {
        shapes.source("train").fingerprint(),
        shapes.source("test").fingerprint(),
        shapes.source("train", seed=1).fingerprint(),
        shapes.source("train", num_scenes=5).fingerprint(),
    }
    assert len(prints) == 4


def test_without_annotations_the_rest_is_the_same():
    bare, full = shapes.source("test", annotations=False)[4], shapes.source("test")[4]
    assert set(bare) == {"image", "caption", "class_label"}
    np.testing.assert_array_equal(bare["image"], full["image"])


def test_bad_input():
    with pytest.raises(ValueError, match="'valid' of shapes not found; there are: train, test, unseen"):
        shapes.source("valid")
    with pytest.raises(ValueError, match="num_scenes"):
        shapes.source("train", num_scenes=0)
    with pytest.raises(ValueError, match="related of shapes is 1.5, expected a share, 0 to 1"):
        shapes.source("train", related=1.5)
    with pytest.raises(IndexError, match="scene 3"):
        shapes.source("train", num_scenes=3)[3]
