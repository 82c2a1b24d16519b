"""TensorBoard's files: read back by TensorBoard, what tensorflow writes, and the methods of clu's writers."""

import ast
import importlib.util
import inspect
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.training import events

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)


def write(folder) -> None:
    writer = events.EventWriter(folder)
    writer.write_scalars(3, {"loss": 0.1, "time/data_wait": np.float64(2)})
    writer.write_images(4, {"samples": PICTURES, "mask": PICTURES[0, ..., :1]})
    writer.close()


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_what_was_written(tmp_path):
    write(tmp_path / "run")
    write(tmp_path / "run")  # within the same second, as a file of its own
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 2
    found = read(tmp_path / "run")
    (loss, _), (shown, _) = found.Tensors("loss"), found.Tensors("samples")
    assert (loss.step, shown.step) == (3, 4)
    assert loss.tensor_proto.float_val == [np.float32(0.1)]
    width, height, *pictures = shown.tensor_proto.string_val
    assert (width, height) == (b"6", b"4")
    np.testing.assert_array_equal([np.asarray(Image.open(io.BytesIO(p))) for p in pictures], PICTURES)
    gray = found.Tensors("mask")[0].tensor_proto.string_val[2]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(gray))), PICTURES[0, ..., 0])


@pytest.mark.slow  # imports tensorflow
def test_it_is_what_tensorflow_writes(tmp_path):
    from clu import metric_writers

    write(tmp_path / "ours")
    theirs = metric_writers.SummaryWriter(str(tmp_path / "theirs"))
    theirs.write_scalars(3, {"loss": 0.1, "time/data_wait": np.float64(2)})
    theirs.write_images(4, {"samples": PICTURES, "mask": PICTURES[0, ..., :1]})
    theirs.close()
    ours, expected = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert ours.Tags() == expected.Tags()
    for tag in ours.Tags()["tensors"]:
        assert ours.SummaryMetadata(tag) == expected.SummaryMetadata(tag)
        (mine,), (other,) = ours.Tensors(tag), expected.Tensors(tag)
        assert mine.step == other.step
        assert mine.tensor_proto.dtype == other.tensor_proto.dtype
        assert mine.tensor_proto.tensor_shape == other.tensor_proto.tensor_shape


def test_its_methods_are_those_of_clus_writers():
    """By their source: importing clu.metric_writers imports tensorflow."""
    (folder,) = importlib.util.find_spec("clu").submodule_search_locations
    tree = ast.parse((pathlib.Path(folder) / "metric_writers" / "interface.py").read_text())
    (interface,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    expected = {
        f.name: [a.arg for a in f.args.args] for f in interface.body if isinstance(f, ast.FunctionDef)
    }
    methods = ("write_scalars", "write_images", "flush", "close")
    for name in methods:
        assert list(inspect.signature(getattr(events.EventWriter, name)).parameters) == expected[name]


def test_processes_that_are_not_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path):
    writer = events.EventWriter(tmp_path)
    with pytest.raises(ValueError, match="picture 'samples': got float32 .*, expected uint8"):
        writer.write_images(1, {"samples": np.zeros((2, 2, 3), np.float32)})
    writer._file = events_of_a_full_disk()
    writer.write_scalars(1, {"loss": 1.0})
    with pytest.raises(OSError, match="tfevents.* cannot be written: .*No space left"):
        writer.flush()


def events_of_a_full_disk():
    """A writer of records whose file is on a disk without room."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    return RecordWriter(open("/dev/full", "wb", buffering=0))  # noqa: SIM115
