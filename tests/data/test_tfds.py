"""The TFDS builder writes what the procedural source draws; the TFDS source reads it back, and says what is
missing."""

import numpy as np
import pytest

from ldm_jax.data import shapes, tfds


@pytest.mark.parametrize(("split", "number"), [("train", 5), ("test", 3), ("unseen", 2)])
def test_builder_equals_the_procedural_source(tiny_shapes, split, number):
    import tensorflow_datasets

    records = tensorflow_datasets.data_source("shapes/tiny", split=split, data_dir=tiny_shapes[1])
    drawn = shapes.source(split, num_scenes=number)
    assert len(records) == number
    for i in range(number):
        example = drawn[i]
        for name in ("layout", "instances"):  # boxes, labels and masks say it
            example.pop(name)
        assert records[i].keys() == example.keys()
        for key, expected in example.items():
            if key == "caption":
                assert records[i][key].decode() == expected
            else:
                assert np.asarray(records[i][key]).dtype == np.asarray(expected).dtype
                np.testing.assert_array_equal(records[i][key], expected)


def test_source_reads_by_name(tiny_shapes):
    options = {"dataset": "shapes/tiny", "data_dir": tiny_shapes[1]}
    source = tfds.source("train[1:4]", **options, caption_key="caption", label_key="class_label")
    drawn = shapes.source("train")
    assert len(source) == 3
    for i in range(3):
        example = source[i]
        assert set(example) == {"image", "caption", "class_label"}
        np.testing.assert_array_equal(example["image"], drawn[i + 1]["image"])
        assert example["caption"] == drawn[i + 1]["caption"]
        assert example["class_label"] == drawn[i + 1]["class_label"]
    assert set(tfds.source("train", **options)[0]) == {"image"}
    prints = [
        tfds.source(split, **options).fingerprint() for split in ("train", "train", "test", "train[1:4]")
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_a_mask_can_be_the_image(tiny_shapes):
    source = tfds.source("test", dataset="shapes/tiny", data_dir=tiny_shapes[1], image_key="instance_mask")
    mask = shapes.source("test")[0]["instance_mask"]
    np.testing.assert_array_equal(source[0]["image"], np.repeat(mask[..., None], 3, -1))


def test_nested_keys_and_several_captions():
    records = [
        {"media": {"picture": np.zeros((2, 2, 1), np.uint8)}, "captions": {"text": [b"first", b"second"]}}
    ]
    source = tfds.TfdsSource(
        "x", "train", records, {"image": "media/picture", "caption": "captions/text"}, "x"
    )
    assert source[0]["caption"] == "first" and source[0]["image"].shape == (2, 2, 3)


def test_unknown_names(tiny_shapes):
    options = {"dataset": "shapes/tiny", "data_dir": tiny_shapes[1]}
    with pytest.raises(ValueError, match=r"'mnis' not found; did you mean mnist .*list_builders"):
        tfds.source("train", dataset="mnis")
    with pytest.raises(
        ValueError, match="'valid' of tfds data set 'shapes/tiny' not found; there are: train, test, unseen"
    ):
        tfds.source("valid", **options)
    with pytest.raises(ValueError, match="image_key 'picture' is no feature .* there are: .*image"):
        tfds.source("train", **options, image_key="picture")
    with pytest.raises(ValueError, match="caption_key 'caption/en' is no feature"):
        tfds.source("train", **options, caption_key="caption/en")


def test_not_prepared_says_the_command(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="run `tfds build mnist --file_format=array_record --data_dir="
    ):
        tfds.source("train", dataset="mnist", data_dir=str(tmp_path))
