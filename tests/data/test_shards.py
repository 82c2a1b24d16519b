"""Pictures in shards: the same examples and batches from every format, restarts, splits, and what is damaged."""

import io
import itertools
import json
import pathlib
import tarfile

import fsspec
import numpy as np
import pytest

from ldm_jax.data import index, pipeline, shards
from tests.data import written_shards

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "datasets"
WRITTEN = written_shards.pictures(12)


def opened(name, root, written=WRITTEN, split="train", **options):
    if name in ("parquet", "arrow"):
        pytest.importorskip("pyarrow")
    return pipeline.open_source(name, split, **written_shards.FORMATS[name](root, written), **options)


def transform(example, rng):
    fields = pipeline.abilities(SOURCE[0]).pick(example, rng)
    return {"image": fields["image"], "caption": fields["caption"], "noise": rng.normal(size=2)}


SOURCE = [None]


def batches(source, number, **options):
    SOURCE[0] = source
    found = pipeline.batches(source, batch_size=4, transform=transform, seed=3, num_threads=0, **options)
    return list(itertools.islice(found, number))


def test_every_format_gives_the_same_batches(tmp_path):
    sources = {name: opened(name, tmp_path / name) for name in written_shards.FORMATS}
    assert all(source.shapes().tolist() == [[8, 12]] * 12 for source in sources.values())
    found = {name: batches(source, 7) for name, source in sources.items()}
    for name, these in found.items():
        for ours, theirs in zip(found["folder"], these, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key], err_msg=f"{name} {key}")
    captions = np.concatenate([batch["caption"] for batch in found["folder"]])
    assert set(captions[:12]) == {caption for *_, caption in WRITTEN}


@pytest.mark.parametrize("name", written_shards.FORMATS)
def test_a_restart_goes_on_at_its_batch_on_one_host_and_on_two(name, tmp_path):
    source = opened(name, tmp_path / "data")
    whole = batches(source, 6)
    again = pipeline.open_source(name, "train", root=str(tmp_path / "data"))
    assert again.fingerprint() == source.fingerprint()
    for ours, theirs in zip(whole[4:], batches(again, 2, start_step=4), strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
    SOURCE[0] = again
    for host in range(2):
        parts = pipeline.batches(
            again, batch_size=2, transform=transform, seed=3, start_step=4, process_index=host, process_count=2,
            num_threads=0,
        )  # fmt: skip
        for ours, theirs in zip(whole[4:], parts, strict=False):
            for key in ours:
                np.testing.assert_array_equal(ours[key][host::2], theirs[key])


@pytest.mark.parametrize("name", [name for name in written_shards.FORMATS if name != "folder"])
def test_holdout_divides_and_damaged_pictures_are_stood_in_for(name, tmp_path, caplog):
    written = [(n, b"\xff\xd8broken" if i == 4 else data, c) for i, (n, data, c) in enumerate(WRITTEN)]
    source = opened(name, tmp_path / "data", written)
    assert [source[i]["caption"] for i in (3, 4, 5)] == [f"picture number {i}" for i in (3, 5, 5)]
    assert caplog.text.count("unreadable so far") == 1
    root = tmp_path / "data"
    parts = [pipeline.open_source(name, s, root=root, holdout=0.3) for s in shards.SPLITS]
    said = [{part[i]["caption"] for i in range(len(part))} for part in parts]
    assert all(said) and sum(map(len, parts)) == 12 and len(parts[0].fingerprint()) == 64
    assert not said[0] & said[1] - {"picture number 5"}
    with pytest.raises(ValueError, match="'test'"):
        pipeline.open_source(name, "test", root=root)


def test_a_tar_is_read_to_its_end_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "cache"))
    source = opened("webdataset", tmp_path / "tars")
    again = pipeline.open_source("webdataset", "train", root=str(tmp_path / "tars" / "{00000..00002}.tar"))
    assert len(list((tmp_path / "cache" / "indexes").iterdir())) == 1
    np.testing.assert_array_equal(source[7]["image"], again[7]["image"])
    from_json = pipeline.open_source(
        "webdataset", "train", root=tmp_path / "tars", caption_key="json/caption"
    )
    assert from_json[11]["caption"] == "picture number 11"
    with pytest.raises(ValueError, match=r"has no 'txt2', which .*; there are: jpg, txt, json, json/caption"):
        pipeline.open_source("webdataset", "train", root=tmp_path / "tars", caption_key="txt2")
    tar = tmp_path / "tars" / "00001.tar"
    whole = tar.read_bytes()
    for length in (5 * 512, 6 * 512 + 100, 9 * 512, len(whole) // 2):
        tar.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"00001.tar is cut or damaged after \d+ members"):
            pipeline.open_source("webdataset", "train", root=tmp_path / "tars")
    tar.write_bytes(whole)
    with tarfile.open(tar) as opened_tar:
        at = opened_tar.getmembers()[1].offset
    tar.write_bytes(whole[:at] + bytes([255] * 512) + whole[at + 512 :])
    with pytest.raises(ValueError, match="cut or damaged after 1 members"):
        pipeline.open_source("webdataset", "train", root=tmp_path / "tars")
    with tarfile.open(tar, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(ValueError, match="is compressed, which has no random access"):
        pipeline.open_source("webdataset", "train", root=tmp_path / "tars")


def test_columns_that_are_not_there_are_said_with_those_that_are(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a.parquet has no column of pictures.*text \(string\), n \(int64\)"
    ):
        pipeline.open_source("parquet", "train", root=tmp_path)
    opened("parquet", tmp_path / "b")
    with pytest.raises(ValueError, match="has no 'prompt', which caption_key names; there are: image, text"):
        pipeline.open_source("parquet", "train", root=tmp_path / "b", caption_key="prompt")
    with pytest.raises(ValueError, match="'text' is string, expected bytes"):
        pipeline.open_source("parquet", "train", root=tmp_path / "b", image_key="text")
    with pytest.raises(ValueError, match="no .parquet files of split 'test', only of train"):
        pipeline.open_source("parquet", "test", root=tmp_path / "b")
    shard = tmp_path / "b" / "data" / "train-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match="train-00001-of-00003.parquet cannot be read as parquet"):
        pipeline.open_source("parquet", "train", root=tmp_path / "b")
    root = tmp_path / "c"
    opened("arrow", root)
    file = root / "data-00001-of-00003.arrow"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="data-00001-of-00003.arrow cannot be read as an Arrow stream"):
        pipeline.open_source("arrow", "train", root=root)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="names files that are not there: data-00001-of-00003.arrow"):
        pipeline.open_source("arrow", "train", root=root)
    (tmp_path / "d.array_record").write_bytes(b"none")
    with pytest.raises(ValueError, match="d.array_record cannot be read as array_record"):
        pipeline.open_source("array_record", "train", root=tmp_path / "d.array_record")


def test_several_captions_and_classes_of_a_data_set(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("pic", pa.binary()), ("captions", pa.list_(pa.string())), ("label", pa.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = {"pic": [WRITTEN[0][1]] * 2, "captions": [["one", "two"], None], "label": [1, 0]}
    parquet.write_table(pa.table(rows, schema), tmp_path / "a.parquet")
    source = pipeline.open_source("parquet", "train", root=tmp_path, caption_key="captions")
    can, rng = pipeline.abilities(source), np.random.default_rng(0)
    assert {can.pick(source[0], rng)["caption"] for _ in range(20)} == {"one", "two"}
    assert can.pick(source[1], rng)["caption"] == "" and source[0]["class_label"] == 1
    assert list(can.class_names) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("name", "folder"), [("parquet", "parquet"), ("arrow", "arrow"), ("webdataset", "tars")]
)
def test_what_the_libraries_themselves_wrote(name, folder):
    """tests/golden/datasets, of datasets 5.2.0 and webdataset 1.0.2."""
    pytest.importorskip("pyarrow")
    source = pipeline.open_source(name, "train", root=GOLDEN / folder)
    rng = np.random.default_rng(0)
    for i in range(len(source)):
        example, caption = source[i], "" if i == 2 and name != "webdataset" else f"picture {i}"
        np.testing.assert_array_equal(example["image"], rng.integers(0, 256, (6, 8, 3), np.uint8))
        assert (example["caption"], example["class_label"]) == (caption, [0, 1, 1, 0][i])
    assert len(source) == (3 if name == "arrow" else 4)
    assert name == "webdataset" or list(source.class_names) == ["ant", "bee"]
    if name == "arrow":
        test = pipeline.open_source(name, "test", root=GOLDEN / folder)
        assert [test[i]["caption"] for i in range(len(test))] == ["picture 3"]


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_shards_in_a_bucket_are_those_on_the_disk(name, tmp_path, monkeypatch):
    def no_answer(*_, **__):
        raise OSError("the network is down")

    here = opened(name, tmp_path / "data")
    bucket = fsspec.filesystem("memory")
    bucket.put(str(tmp_path / "data"), f"/{tmp_path.name}/{name}", recursive=True)
    address = f"memory://{tmp_path.name}/{name}"
    try:
        there = pipeline.open_source(name, "train", root=address)
        assert there.fingerprint() == here.fingerprint()
        for ours, theirs in zip(batches(here, 5), batches(there, 5), strict=True):
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])
        ending = {"webdataset": "{00000..00002}.tar", "parquet": "data/train-*.parquet"}[name]
        assert len(pipeline.open_source(name, "train", root=f"{address}/{ending}")) == 12
        parts = [pipeline.open_source(name, split, root=address, holdout=0.3) for split in shards.SPLITS]
        assert sum(map(len, parts)) == 12 and all(map(len, parts))
        monkeypatch.setattr(type(bucket), "cat_file", no_answer)
        monkeypatch.setattr(type(bucket), "_open", no_answer)
        with pytest.raises(RuntimeError, match="cannot be read: the network is down"):
            pipeline.open_source(name, "train", root=address)[3] if name == "parquet" else there[3]
        assert not there.unreadable
        monkeypatch.undo()
        with pytest.raises(FileNotFoundError, match=f"nothing is there at '{address}/none'"):
            pipeline.open_source(name, "train", root=f"{address}/none")
        with pytest.raises(ValueError, match="has no 'none', which caption_key names"):
            pipeline.open_source(name, "train", root=address, caption_key="none")
    finally:
        bucket.rm(f"/{tmp_path.name}", recursive=True)


def test_an_address_of_a_bucket_is_said_as_it_was_typed(monkeypatch):
    def no_permission(address):
        raise PermissionError("anonymous caller does not have storage.objects.list access")

    monkeypatch.setattr(fsspec.core, "url_to_fs", no_permission)
    for name in written_shards.FORMATS:
        with pytest.raises(ValueError, match=r"data.root (is )?gs://bucket/photos") as error:
            pipeline.open_source(name, "train", root="gs://bucket/photos")
        said = (
            "expected a folder: mount" if name in ("folder", "arrow") else "listed: anonymous caller does not"
        )
        assert said in str(error.value)
