"""What a training run tells TensorBoard: event files, written in the background and without tensorflow.

Its methods are those of clu's MetricWriter, the part that a run uses, so one of clu's writers can stand in its place.
clu.metric_writers itself imports tensorflow, whatever of it is used; tensorboard has the format of the records, the
messages and the summaries' metadata, and imports none. Values are as tf.summary.scalar and tf.summary.image lay them
out (tensorboard/plugins/scalar/summary_v2.py and image/summary_v2.py).
"""

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import grid, paths

UPLOAD_EVERY = 60.0  # seconds


class EventWriter:
    """Writes into `folder`, in one thread of its own and in order; None writes nothing, for processes that are not the
    first.

    What a call wrote is in the file when the thread comes to it. An object of a bucket cannot grow: its file lies on
    this machine's disk, and is uploaded every UPLOAD_EVERY seconds and at its end. Raises: OSError, at a later call, if
    it could not be written.
    """

    def __init__(self, folder: Path | None):
        self._file = None
        if folder is None:
            return
        from clu import asynclib
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder, self._here, self._uploaded = folder, paths.scratch(folder), time.monotonic()
        self._here.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.v2"
        self._path = _new(self._here / name)
        self._file = RecordWriter(open(self._path, "xb"))  # noqa: SIM115 - open as long as the run goes on
        self._pool = asynclib.Pool("events", max_workers=1)
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """scalars: numbers, or arrays of one, by tag; written as float32."""
        if self._file is not None:
            self._soon(self._scalars, step, time.time(), dict(scalars))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """images: [N, H, W, 1 or 3] uint8 by tag, or one picture [H, W, 1 or 3]. Raises: ValueError for others."""
        images = {tag: np.asarray(value) for tag, value in images.items()}
        for tag, value in images.items():
            if value.dtype != np.uint8 or value.ndim not in (3, 4) or value.shape[-1] not in (1, 3):
                raise ValueError(
                    f"picture {tag!r}: got {value.dtype} {value.shape}, expected uint8 [N, H, W, 1 or 3]"
                )
        if self._file is not None:
            self._soon(self._images, step, time.time(), images)

    def flush(self) -> None:
        """Waits until all is written."""
        if self._file is not None:
            with self._as_os_error():
                self._pool.join()

    def close(self) -> None:
        """`flush`, and the end of the file."""
        if self._file is not None:
            with self._as_os_error():
                self._pool.close()
            self._file.close()
            self._file = None
            self._upload()

    def _soon(self, write: Callable, *args: Any) -> None:
        """write(*args), in the thread."""
        with self._as_os_error():
            self._pool(write)(*args)

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Inside, what the thread met before is raised as what it was, with the file's name where the disk is full or
        gone."""
        from clu import asynclib

        try:
            yield
        except asynclib.AsyncError as error:
            if isinstance(error.__cause__, OSError):
                raise OSError(f"{self._path} cannot be written: {error.__cause__}") from error
            raise

    def _scalars(self, step: int, now: float, scalars: dict[str, Any]) -> None:
        from tensorboard.plugins.scalar import metadata

        about = metadata.create_summary_metadata(display_name=None, description=None)
        numbers = {tag: np.asarray(value, np.float32).reshape(()) for tag, value in scalars.items()}
        self._summary(step, now, about, numbers)

    def _images(self, step: int, now: float, images: dict[str, np.ndarray]) -> None:
        from tensorboard.plugins.image import metadata

        about = metadata.create_summary_metadata(display_name=None, description=None)
        shown = {}
        for tag, value in images.items():
            pictures = value if value.ndim == 4 else value[None]
            height, width = pictures.shape[1:3]
            sizes = [str(width).encode(), str(height).encode()]
            shown[tag] = np.array([*sizes, *(_png(picture) for picture in pictures)], object)
        self._summary(step, now, about, shown)

    def _summary(self, step: int, now: float, about: Any, values: dict[str, np.ndarray]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.util import tensor_util

        made = [
            summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=tensor_util.make_tensor_proto(value))
            for tag, value in values.items()
        ]
        self._write(event_pb2.Event(wall_time=now, step=step, summary=summary_pb2.Summary(value=made)))

    def _write(self, event: Any) -> None:
        self._file.write(event.SerializeToString())
        self._file.flush()
        if time.monotonic() - self._uploaded > UPLOAD_EVERY:
            self._upload()

    def _upload(self) -> None:
        if paths.in_bucket(self._folder):
            paths.upload(self._path, self._folder / self._path.name)
            self._uploaded = time.monotonic()


def _new(path: Path) -> Path:
    """path, or with a number after it the first that is not there."""
    number, found = 0, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _png(picture: np.ndarray) -> bytes:
    """[H, W, 1 or 3] uint8 as a PNG."""
    file = io.BytesIO()
    grid.to_pil(picture).save(file, "PNG")
    return file.getvalue()
