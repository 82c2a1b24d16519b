"""What is written is read back, by this source and by TFDS itself; what does not fit is refused in a sentence."""

import itertools
import json
import shutil

import numpy as np
import pytest

from ldm_jax.conditioning import layout
from ldm_jax.data import latents, latents_builder, pipeline
from tests.data import stored_latents
from tests.data.stored_latents import MADE


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(folder, the examples that were written into it)."""
    root = tmp_path_factory.mktemp("latents") / "out"
    return root, stored_latents.write(root)


def assert_equal(got, expected):
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_equal(got[key], expected[key])
    else:
        np.testing.assert_array_equal(got, expected)
        assert np.asarray(got).dtype.kind == np.asarray(expected).dtype.kind


def test_what_was_written_is_read(stored):
    root, written = stored
    source = latents.source("train", root=root)
    assert len(source) == 5 and source.record["scale_factor"] == 0.5
    for i, example in enumerate(written):
        assert_equal(source[i], example)
    assert isinstance(source[3]["caption"], str) and isinstance(source[3]["class_label"], int)


def test_tfds_reads_it_without_us(stored):
    import tensorflow_datasets as tfds

    root, written = stored
    builder = tfds.builder_from_directory(root)
    assert builder.info.splits["train"].shard_lengths == [2, 2, 1]
    records = builder.as_data_source(split="train")
    assert [r["caption"].decode() for r in records] == [e["caption"] for e in written]
    np.testing.assert_array_equal(records[4]["moments"], written[4]["moments"])


def test_a_stored_layout_is_one_that_conditioning_takes(stored):
    given = latents.source("train", root=stored[0])[2]["layout"]
    conditioner = layout.Conditioner(vocab_size=8192, max_length=92, num_classes=24, width=8, num_layers=1)
    setting = layout.Setting(conditioner, None, (2, 2, 2), (8, 8))
    plain = dict(boxes=given["boxes"].tolist(), labels=given["labels"].tolist())
    for name, value in layout.inputs({"layouts": [given]}, setting).items():
        np.testing.assert_array_equal(value, layout.inputs({"layouts": [plain]}, setting)[name])


def test_half_precision_is_rounded_once(tmp_path):
    written = stored_latents.write(tmp_path / "out", MADE._replace(dtype="float16"))
    example = latents.source("train", root=tmp_path / "out")[1]
    assert example["moments"].dtype == np.float32
    np.testing.assert_array_equal(example["moments"], written[1]["moments"].astype(np.float16))


def test_tfrecord_is_written_for_others_and_refused_here(tmp_path):
    import tensorflow_datasets as tfds

    root = tmp_path / "out"
    written = stored_latents.write(root, MADE._replace(file_format="tfrecord"))
    read = tfds.builder_from_directory(root).as_dataset(split="train").as_numpy_iterator()
    assert sorted(e["class_label"] for e in read) == [e["class_label"] for e in written]
    with pytest.raises(ValueError, match="in tfrecord files, which have no random access"):
        latents.source("train", root=root)


def test_a_picture_and_its_mirror_image_are_equally_likely(tmp_path):
    written = stored_latents.write(tmp_path / "out", MADE._replace(flip=True))
    source = latents.source("train", root=tmp_path / "out")
    mirrored = 0
    for i in range(400):
        picked = source.pick(source[0], np.random.default_rng(i))
        assert "moments_flipped" not in picked
        is_mirror = (picked["moments"] == written[0]["moments"][:, ::-1]).all()
        assert is_mirror or (picked["moments"] == written[0]["moments"]).all()
        mirrored += is_mirror
    assert 150 < mirrored < 250  # five standard deviations


def test_without_mirror_images_nothing_is_drawn(stored):
    source, rng = latents.source("train", root=stored[0]), np.random.default_rng(0)
    assert_equal(source.pick(source[0], rng), source[0])
    assert rng.random() == np.random.default_rng(0).random()


def test_only_the_first_stage_that_made_them_may_decode_them(stored, tmp_path):
    source = latents.source("train", root=stored[0])
    source.check(first_stage="a" * 64, image_size=8)
    with pytest.raises(ValueError, match=r"made by the first stage a{12}, expected b{12}, which the config"):
        source.check(first_stage="b" * 64, image_size=8)
    with pytest.raises(ValueError, match="of pictures of 8 pixels, expected 16"):
        source.check(first_stage="a" * 64, image_size=16)
    stored_latents.write(tmp_path / "out", MADE._replace(text_encoder="c" * 64))
    said = latents.source("train", root=tmp_path / "out")
    assert said.has_text and not source.has_text
    said.check_text("c" * 64)
    source.check_text(None)
    with pytest.raises(ValueError, match=r"outputs of the text encoder c{12}, expected d{12}: write another"):
        said.check_text("d" * 64)
    with pytest.raises(ValueError, match="expected none, for the model trains its own"):
        said.check_text(None)


def test_the_fingerprint_is_of_all_that_decided(stored, tmp_path):
    prints = {latents.source("train", root=stored[0]).fingerprint()}
    for i, change in enumerate((dict(first_stage="b"), dict(data="e"), dict(dtype="float16"))):
        stored_latents.write(tmp_path / str(i), MADE._replace(**change))
        prints.add(latents.source("train", root=tmp_path / str(i)).fingerprint())
    assert len(prints) == 4


def test_what_is_not_whole_is_refused(stored, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no latents\.json, expected a folder that ldm-precompute-latents"
    ):
        latents.source("train", root=tmp_path)
    with pytest.raises(ValueError, match="split 'test' of latents .* there are: train"):
        latents.source("test", root=stored[0])
    stored_latents.write(tmp_path / "begun", shards=range(1))
    with pytest.raises(ValueError, match="is not finished: 2 of 3 shards are missing; run the same"):
        latents.source("train", root=tmp_path / "begun")
    shutil.copytree(stored[0], tmp_path / "lost")
    MADE.path(tmp_path / "lost", 1).unlink()
    with pytest.raises(ValueError, match="1 of 3 shards are missing"):
        latents.source("train", root=tmp_path / "lost")
    (tmp_path / "lost" / "latents.json").write_text('{"first_stage": "a"}')
    with pytest.raises(ValueError, match=r"latents\.json is no record of ldm-precompute-latents"):
        latents.source("train", root=tmp_path / "lost")


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_folder_that_names_other_modules_is_not_followed(stored, tmp_path, key):
    folder = tmp_path / "other"
    shutil.copytree(stored[0], folder)
    described = (folder / "features.json").read_text()
    assert "pythonClassName" in described
    described = described.replace(
        "tensorflow_datasets.core.features.text_feature.Text", "a_module_of_theirs.Text"
    )
    (tmp_path / "a_module_of_theirs.py").write_text("raise SystemExit('it was imported')")
    (folder / "features.json").write_text(described.replace("pythonClassName", key))
    with pytest.raises(ValueError, match=r"features\.json names 'a_module_of_theirs.Text', .* not followed"):
        latents.source("train", root=folder)
    (folder / "features.json").unlink()
    with pytest.raises(ValueError, match=r"features\.json is not there"):
        latents.source("train", root=folder)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(number=0), "number is 0, expected a whole number from 1"),
        (dict(number=10**30), "number is 1000000"),
        (dict(number=10**9, examples_per_shard=1), "it is of 1000000000 shards, expected at most"),
        (dict(examples_per_shard=0), "examples_per_shard is 0"),
        (dict(split=None), "split is None, expected a string"),
        (dict(moments=4), "moments is 4, expected a list"),
        (dict(split="x" * 300), "no files are named after"),
        (dict(file_format="x"), "no files are named after"),
    ],
)
def test_a_record_of_other_kinds_of_fields_is_named(tmp_path, change, said):
    (tmp_path / "latents.json").write_text(json.dumps(MADE._asdict() | change))
    with pytest.raises(ValueError, match=f"latents.json is no record of ldm-precompute-latents: {said}"):
        latents.read_record(tmp_path)


def test_a_shard_is_there_whole_or_not_at_all(tmp_path):
    given = stored_latents.examples()
    given[1]["moments"] = np.full((2, 2, 4), np.inf, np.float32)
    latents_builder.begin(tmp_path / "out", MADE)
    with pytest.raises(ValueError, match="the moments of example 1 are not finite in float32"):
        latents_builder.write_shard(tmp_path / "out", MADE, 0, given[:2], {}, given[0])
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["latents.json"]
    given[1]["moments"] = np.full((2, 2, 4), 1e5, np.float32)
    with pytest.raises(ValueError, match="not finite in float16"):
        latents_builder.write_shard(
            tmp_path / "out", MADE._replace(dtype="float16"), 0, given[:2], {}, given[0]
        )


def test_what_killed_runs_left_is_swept_up(tmp_path):
    stored_latents.write(tmp_path / "out", shards=range(2))
    litter = tmp_path / "out" / f"{MADE.path(tmp_path, 2).name}.123.partial"
    litter.write_bytes(b"half a shard")
    stored_latents.write(tmp_path / "out")
    assert not litter.exists() and len(latents.source("train", root=tmp_path / "out")) == 5


def test_a_folder_of_other_things_is_left_alone(stored, tmp_path):
    with pytest.raises(ValueError, match=r"holds others: dtype is 'float32' there and 'float16' here; take"):
        latents_builder.begin(stored[0], MADE._replace(dtype="float16"))
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds something else than latents; take another --out"):
        latents_builder.begin(tmp_path, MADE)
    assert latents_builder.begin(stored[0], MADE) == []


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(latents_builder.shutil, "disk_usage", lambda path: free)
    latents_builder.check_space(tmp_path, MADE, 0)
    with pytest.raises(OSError, match="no space left"):
        latents_builder.check_space(tmp_path, MADE, 1)


def test_fields_that_cannot_be_stored_are_named():
    with pytest.raises(ValueError, match=r"examples' objects/names is of type list .* leave it out"):
        latents_builder.storable("objects", {"names": ["cat", "dog"]})


def test_it_feeds_the_pipeline(stored):
    source = latents.source("train", root=stored[0])

    def transform(example, rng):
        return {"moments": example["moments"], "index": example["index"]}

    batches = pipeline.batches(source, batch_size=4, transform=transform, seed=0)
    for batch in itertools.islice(batches, 3):
        for index, moments in zip(batch["index"], batch["moments"], strict=True):
            np.testing.assert_array_equal(moments, stored[1][index]["moments"])


def test_the_section_of_a_config_that_trains_on_it():
    data = dict(name="folder", root="pictures", split="test", recipe="lsun", flip=0.5, derive={"mask": {}})
    assert latents.instead_of(data, "out") == dict(
        name="latents", root="out", split="test", derive={"mask": {}}
    )


def test_the_record_is_plain_json(stored):
    record = json.loads((stored[0] / "latents.json").read_text())
    assert latents.made_of(record) == MADE and set(record) == {*MADE._fields, *stored_latents.STATISTICS}
