"""Aspect buckets: SDXL's shapes, the order of batches, what is cut from a picture, one program for each shape."""

import collections

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import folder, pictures, pipeline
from ldm_jax.data.aspect_buckets import MOST_BUCKETS, Order, cut, nearest, shapes


def test_the_shapes_are_sdxls():
    """Its sides are multiples of 64, areas near 1024 squared, ratios from 1 / 4 to 4: appendix I of the paper."""
    found = shapes(1024, 64, 40)
    tall = [
        (2048, 512),
        (1984, 512),
        (1920, 512),
        (1856, 512),
        (1792, 576),
        (1728, 576),
        (1664, 576),
        (1600, 640),
    ]
    tall += [
        (1536, 640),
        (1472, 704),
        (1408, 704),
        (1344, 704),
        (1344, 768),
        (1280, 768),
        (1216, 832),
        (1152, 832),
    ]
    tall += [(1152, 896), (1088, 896), (1088, 960), (1024, 960)]
    theirs = {(1024, 1024), *tall, *((width, height) for height, width in tall)}
    assert len(set(found)) == 40 and (1024, 1024) in found and set(found) <= theirs


@pytest.mark.parametrize("number", [1, 3, 5, 9])
def test_a_few_shapes_span_all_ratios_and_hold_the_square(number):
    found = shapes(1024, 64, number)
    assert len(set(found)) == number and (1024, 1024) in found
    if number > 2:
        ratios = [height / width for height, width in found]
        assert ratios[0] == 0.25 and ratios[-1] == 4 and ratios == sorted(ratios)


@pytest.mark.parametrize(
    "size, number, said",
    [
        (1024, 0, "got 0, expected 1 to 40: a training step is compiled for each"),
        (1024, MOST_BUCKETS + 1, "got 41, expected 1 to 40"),
        (1000, 3, "image_size is 1000, expected a multiple of 64"),
        (128, 40, "got 40, and there are"),
    ],
)
def test_numbers_and_sizes_that_cannot_be(size, number, said):
    with pytest.raises(ValueError, match=said):
        shapes(size, 64, number)


def test_a_picture_is_of_the_nearest_shape():
    buckets = shapes(1024, 64, 5)
    sizes = [(h, w) for h, w in buckets] + [(100, 101), (10, 4000)]
    np.testing.assert_array_equal(nearest(np.array(sizes), buckets), [0, 1, 2, 3, 4, 2, 0])


OF_EXAMPLE = np.array([0] * 50 + [1] * 30 + [2] * 3)
BUCKETS = [(16, 64), (32, 32), (64, 16)]


def test_batches_are_of_one_shape_and_show_everything_alike():
    order = Order(OF_EXAMPLE, BUCKETS, 4, seed=0)
    seen, batches = collections.Counter(), []
    for batch in range(480):
        places = [order[4 * batch + i] for i in range(4)]
        (shape,) = {place.shape for place in places}
        batches.append(shape)
        for place in places:
            assert BUCKETS[OF_EXAMPLE[place.index]] == shape
            seen[place.index] += 1
    shares = {shape: batches.count(shape) / len(batches) for shape in BUCKETS}
    for bucket, shape in enumerate(BUCKETS):
        assert abs(shares[shape] - (OF_EXAMPLE == bucket).mean()) < 0.02
        counts = [seen[i] for i in np.flatnonzero(OF_EXAMPLE == bucket)]
        assert max(counts) - min(counts) <= 1  # each once before any twice
    again = Order(OF_EXAMPLE, BUCKETS, 4, seed=0)
    assert [again[i] for i in (0, 777, 5)] == [order[i] for i in (0, 777, 5)]
    other = Order(OF_EXAMPLE, BUCKETS, 4, seed=1)
    assert [other[i] for i in range(40)] != [order[i] for i in range(40)]


def test_a_picture_is_resized_until_it_covers_the_shape():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, :150] = 255
    out = cut(image, (40, 80), "bilinear", np.random.default_rng(0))
    assert out["image"].shape == (40, 80, 3) and out["image"].dtype == np.float32
    np.testing.assert_array_equal(out["original_size"], [100, 300])
    np.testing.assert_array_equal(out["target_size"], [40, 80])
    top, left = out["crop"]
    assert top == 0 and 0 <= left <= 40  # 40 x 120, cut at the sides alone
    white = (out["image"][0, :, 0] > 0).sum()
    assert abs(white - np.clip(60 - left, 0, 80)) <= 1


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures of three shapes, one of them on its side."""
    rng = np.random.default_rng(0)
    for i in range(12):
        height, width = [(20, 80), (40, 40), (80, 20)][i % 3]
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        picture.save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text("a red circle")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rng.integers(0, 255, (20, 80, 3), dtype=np.uint8)).save(tmp_path / "12.jpg", exif=exif)
    (tmp_path / "12.txt").write_text("a red circle")
    return tmp_path


def test_a_folder_knows_the_shapes_of_its_pictures(photos):
    source = folder.source("train", root=str(photos))
    found = pipeline.abilities(source).shapes()
    np.testing.assert_array_equal(found, [source[i]["image"].shape[:2] for i in range(len(source))])
    assert pictures.shape_of(photos / "12.jpg") == (80, 20)


def test_batches_in_order_are_the_same_from_any_step_and_over_processes(photos):
    source = folder.source("train", root=str(photos))
    order = Order(nearest(source.shapes(), BUCKETS), BUCKETS, 4, seed=3)

    def transform(example, rng):
        return cut(example["image"], example["bucket"], "bilinear", rng) | {"index": example["index"]}

    def first(number, start=0, size=4, process=0, count=1):
        made = pipeline.batches(
            source, batch_size=size, transform=transform, seed=3, start_step=start, order=order,
            process_index=process, process_count=count, num_threads=0,
        )  # fmt: skip
        return [next(made) for _ in range(number)]

    whole = first(6)
    assert len({batch["image"].shape for batch in whole}) == 3
    for a, b in zip(whole[3:], first(3, start=3), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    for i, (a, b) in enumerate(zip(first(6, size=2), first(6, size=2, process=1, count=2), strict=True)):
        del a
        np.testing.assert_array_equal(whole[i]["index"][1::2], b["index"])


def test_a_training_step_is_compiled_once_for_each_shape(photos):
    """A stand-in for the step: shapes alone decide."""
    source = folder.source("train", root=str(photos))
    order = Order(nearest(source.shapes(), BUCKETS), BUCKETS, 4, seed=3)
    traces = []

    @jax.jit
    def step(image):
        traces.append(image.shape)
        return image.mean()

    made = pipeline.batches(
        source, batch_size=4, seed=3, order=order, num_threads=0,
        transform=lambda example, rng: {"image": cut(example["image"], example["bucket"], "bilinear", rng)["image"]},
    )  # fmt: skip
    for _ in range(12):
        step(next(made)["image"])
    assert len(traces) == 3
