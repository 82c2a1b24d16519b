"""Every source of the room, found by listing it, keeps the contract of pipeline.Source."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import pipeline
from tests.data import stored_latents

SPLIT = "train"


@pytest.fixture
def options(request, tmp_path):
    """The options that a source cannot do without; a source that has none needs no entry."""
    if request.param in ("folder", "neighbours"):
        for i in range(3):
            Image.new("RGB", (8, 6 + i), (i, i, i)).save(tmp_path / f"{i}.png")
            (tmp_path / f"{i}.txt").write_text(f"picture {i}")
        if request.param == "folder":
            return request.param, {"root": tmp_path}
        np.save(tmp_path / "clip.npy", np.eye(3, 4, dtype=np.float32))
        return request.param, {"root": tmp_path, "embeddings": tmp_path / "clip.npy", "k": 2}
    if request.param == "layouts":
        lines = []
        for i in range(3):
            Image.new("RGB", (8, 6 + i), (i, i, i)).save(tmp_path / f"{i}.png")
            boxes = [[0, 0, 0.5, 0.5], [0.5, 0.25, 0.5, 0.75]]
            lines.append(json.dumps({"file_name": f"{i}.png", "boxes": boxes, "labels": ["cat", "dog"]}))
        (tmp_path / "layouts.jsonl").write_text("\n".join(lines))
        return request.param, {"root": tmp_path}
    if request.param == "latents":
        stored_latents.write(tmp_path / "out")
        return request.param, {"root": tmp_path / "out"}
    if request.param == "tfds":
        data_dir = request.getfixturevalue("tiny_shapes")[1]
        return request.param, {"dataset": "shapes/tiny", "data_dir": data_dir, "caption_key": "caption"}
    return request.param, {}


each_source = pytest.mark.parametrize("options", pipeline.source_names(), indirect=True)


def test_the_room_is_listed():
    assert {"folder", "shapes", "tfds"} <= set(pipeline.source_names())
    assert not {"pipeline", "transforms", "captions", "shapes_builder"} & set(pipeline.source_names())


@each_source
def test_examples_are_random_access(options):
    name, given = options
    source = pipeline.open_source(name, SPLIT, **given)
    assert len(source) >= 1
    for index in (len(source) - 1, 0):
        example, again = source[index], source[index]
        image = example["image"]
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        assert isinstance(example.get("caption", ""), str)
        assert isinstance(example.get("class_label", 0), int)
        assert example.keys() == again.keys()
        for key in example:
            np.testing.assert_equal(example[key], again[key])


@each_source
def test_fingerprint_is_stable(options):
    name, given = options
    first, second = (pipeline.open_source(name, SPLIT, **given) for _ in range(2))
    assert isinstance(first.fingerprint(), str) and first.fingerprint() == second.fingerprint()


@each_source
def test_signature_and_unknown_split(options):
    name, given = options
    parameters = list(
        inspect.signature(
            inspect.getmodule(type(pipeline.open_source(name, SPLIT, **given))).source
        ).parameters.values()
    )
    assert parameters[0].name == "split"
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])
    with pytest.raises(ValueError, match="'no such split'"):
        pipeline.open_source(name, "no such split", **given)


@each_source
def test_feeds_the_pipeline(options):
    name, given = options
    source = pipeline.open_source(name, SPLIT, **given)

    def transform(example, rng):
        return {"index": example["index"], "mean": np.float32(example["image"].mean())}

    batch = next(pipeline.batches(source, batch_size=2, transform=transform, seed=0))
    for index, mean in zip(batch["index"], batch["mean"], strict=True):
        assert mean == np.float32(source[int(index)]["image"].mean())


def test_the_room_needs_neither_jax_nor_tensorflow_to_import():
    code = (
        "import sys; from ldm_jax.data import folder, latents, latents_builder, pipeline, shapes, "
        "captions, pictures, tfds, transforms; "
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'flax') if m in sys.modules])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"
