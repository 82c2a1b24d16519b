"""Every source of the room, found by listing it, keeps the contract of pipeline.Source."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import pipeline
from ldm_jax.find import names
from tests.data import published, stored_latents, written_shards

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
    if request.param in written_shards.FORMATS:
        pytest.importorskip({"arrow": "pyarrow", "parquet": "pyarrow"}.get(request.param, "numpy"))
        written = written_shards.FORMATS[request.param](tmp_path / "data", written_shards.pictures(3))
        return request.param, written
    if request.param == "scene":
        Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "img.png")
        for i in range(2):
            Image.new("L", (8, 6), 255).save(tmp_path / f"mask{i}.png")
        return request.param, {"root": tmp_path, "words": ["cat", "dog"], "side": 8}
    if request.param == "shapes_scene":
        return request.param, {"words": ["cat", "dog"]}
    if request.param == "layouts":
        lines = []
        for i in range(3):
            Image.new("RGB", (8, 6 + i), (i, i, i)).save(tmp_path / f"{i}.png")
            boxes = [[0, 0, 0.5, 0.5], [0.5, 0.25, 0.5, 0.75]]
            lines.append(json.dumps({"file_name": f"{i}.png", "boxes": boxes, "labels": ["cat", "dog"]}))
        (tmp_path / "layouts.jsonl").write_text("\n".join(lines))
        return request.param, {"root": tmp_path}
    if request.param in published.LAYOUTS:
        return request.param, published.LAYOUTS[request.param](tmp_path)
    if request.param == "latents":
        stored_latents.write(tmp_path / "out")
        return request.param, {"root": tmp_path / "out"}
    if request.param == "tfds":
        data_dir = request.getfixturevalue("tiny_shapes")[1]
        return request.param, {"dataset": "shapes/tiny", "data_dir": data_dir, "caption_key": "caption"}
    return request.param, {}


each_source = pytest.mark.parametrize("options", names("data"), indirect=True)


def test_the_room_is_listed():
    assert {"folder", "shapes", "tfds"} <= set(names("data"))
    assert not {"pipeline", "transforms", "captions", "shapes_builder"} & set(names("data"))


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
    parameters = list(inspect.signature(pipeline.maker(name)).parameters.values())
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


@each_source
def test_what_it_has_beyond_that_is_as_abilities_say(options):
    name, given = options
    source, rng = pipeline.open_source(name, SPLIT, **given), np.random.default_rng(0)
    can, example = pipeline.abilities(source), source[0]
    picked = can.pick(example, rng)
    assert picked.keys() <= example.keys() and {"image", "moments"} & picked.keys()
    assert all(isinstance(name, str) for name in can.class_names) and can.unreadable_files() == []
    assert can.caption is None or isinstance(can.caption(0, rng), str)
    if can.cut:
        image = can.cut(example, 4, rng)["image"]
        assert image.shape == (4, 4, 3) and image.dtype == np.float32
    if can.described:
        caption, phrases = can.described(0, rng)
        assert any(end > start for start, end, _ in phrases)
        for start, end, mask in phrases:  # of no letters: what the caption does not name
            assert (
                (caption[start:end] or start == end)
                and mask.shape == example["image"].shape[:2]
                and 0 < mask.max() <= 1
            )
    if can.statistics:
        assert {"scale_factor", "mean", "std", "number"} <= can.statistics.keys()
        with pytest.raises(ValueError, match="first stage"):
            can.check(first_stage="another", image_size=64)


def test_a_source_without_abilities_has_what_stands_for_none():
    example = {"image": np.zeros((2, 2, 3), np.uint8)}
    can = pipeline.abilities([example])
    assert can.pick(example, None) == example and can.pick(example, None) is not example
    assert not (can.cut or can.caption or can.described or can.statistics or can.has_text or can.class_names)
    assert can.unreadable_files() == [] and can.check(first_stage="", image_size=1) is None


OWN = """
class Mine:
    def __init__(self, number): self.number = number
    def __len__(self): return self.number
    def __getitem__(self, index): return {"image": index}
    def fingerprint(self): return str(self.number)
def source(split, *, number=2): return Mine(number)
def short(split): return [split]
def loose(split, **options): return Mine(len(options))
"""


def test_a_source_of_the_users_own_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_pictures.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert len(pipeline.open_source("my_pictures:source", "train", number=3)) == 3
    assert len(pipeline.open_source("my_pictures:loose", "train", a=1)) == 1
    for name, options, said in (
        ("my_pictures:source", {"numbre": 3}, "has no option 'numbre'; it has: number"),
        ("my_pictures:other", {}, "my_pictures has no function 'other'"),
        ("no_pictures:source", {}, "cannot be imported: No module named 'no_pictures'"),
        ("my_pictures:short", {}, "gives list, which has no fingerprint()"),
        ("folder", {}, "missing a required argument: 'root'"),
    ):
        with pytest.raises(ValueError) as error:
            pipeline.open_source(name, "train", **options)
        assert said in str(error.value)


def test_the_room_needs_neither_jax_nor_tensorflow_to_import():
    code = (
        "import sys; from ldm_jax.data import folder, latents, latents_builder, pipeline, shapes, "
        "captions, pictures, tfds, transforms, parquet, arrow, webdataset, array_record; "
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'flax', 'pyarrow') if m in sys.modules])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"
