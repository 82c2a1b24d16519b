"""The source `array_record`: files of ArrayRecord whose records are tf.train.Example, such as grain is fed with.

Decides which features of a record are the picture, its caption and its class. A data set that TFDS prepared has its
own source, `tfds`, which knows its features. Neither needs tensorflow.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_jax import text_files
from ldm_jax.data import shards
from ldm_jax.data.places import File
from ldm_jax.data.shards import Record, ShardSource, choose_key, no_pictures

IMAGES = ("image", "image/encoded", "jpg", "png", "image_bytes")
CAPTIONS = ("text", "caption", "image/caption", "txt")
LABELS = ("label", "class_label", "image/class/label", "cls")


class _Records:
    def __init__(self, root: str | Path, files: Sequence[File], keys: dict[str, str | None]):
        from array_record.python import array_record_data_source

        self.root, self.files = root, list(files)
        try:
            self._records = array_record_data_source.ArrayRecordDataSource([str(f) for f in self.files])
            number = len(self._records)
            first = _features(self._records[0]) if number else {}
        except Exception as error:  # noqa: BLE001 - the library raises what its C++ says
            names = ", ".join(f.name for f in self.files[:3])
            raise ValueError(
                f"{root}: {names} cannot be read as array_record: {text_files.cut(error)}"
            ) from None
        if not number:
            raise ValueError(f"{root} holds no records in its {len(self.files)} files")
        what = f"the first record of {self.files[0]}"
        images = [name for name, value in first.items() if isinstance(value, list) and _is_file(value)]
        kinds = {name: _kind(value) for name, value in first.items()}
        image = choose_key(
            keys["image_key"], list(first), [n for n in (*IMAGES, *images) if n in images], "image_key", what
        )
        if image is None:
            raise no_pictures(what, kinds)
        texts = [name for name in CAPTIONS if kinds.get(name) == "bytes"]
        caption = choose_key(keys["caption_key"], list(first), texts, "caption_key", what)
        numbers = [name for name in LABELS if kinds.get(name) == "int64"]
        label = choose_key(keys["label_key"], list(first), numbers, "label_key", what)
        self._keys = image, caption, label
        self.has_captions, self.several = caption is not None, caption is not None
        self.class_names: list[str] = []
        self.content = ["array_record", shards.sizes(self.files), list(self._keys)]

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"array_record({str(self.root)!r}, {len(self)} records)"

    def called(self, at: int) -> str:
        return f"{os.path.basename(os.path.abspath(self.root))}/{at}"

    def read(self, at: int) -> Record:
        found, (image, caption, label) = _features(self._records[at]), self._keys
        if not found.get(image):
            raise ValueError(f"it has no {image!r}")
        return Record(found[image][0], found.get(caption), found[label][0] if label else None)

    def caption(self, at: int) -> Any:
        return _features(self._records[at]).get(self._keys[1])


def _features(record: bytes) -> dict[str, list]:
    """{name: its values} of a tf.train.Example. Raises: as protobuf for bytes that are none."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value) if feature.WhichOneof("kind") else []
        for name, feature in sorted(features.items())
    }


def _kind(values: list) -> str:
    return {bytes: "bytes", int: "int64", float: "float"}.get(type(values[0])) if values else "empty"


def _is_file(values: list) -> bool:
    """Whether it is one value that begins as files of pictures do."""
    begins = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    return len(values) == 1 and isinstance(values[0], bytes) and values[0].startswith(begins)


def source(
    split: str,
    *,
    root: str | Path,
    holdout: float = 0.0,
    image_key: str | None = None,
    caption_key: str | None = None,
    label_key: str | None = None,
) -> ShardSource:
    """The records of ArrayRecord files, in the order of the files' names.

    split: 'train' or 'test', as the files' names say (shards.files_of), or else by `holdout`. root: a folder, a file or
    a pattern.
    image_key, caption_key, label_key: features of a tf.train.Example; None is one that holds a picture's file, the
    first of CAPTIONS, and of LABELS.

    Raises: FileNotFoundError, ValueError in one sentence for files that are not there or are no such records, features
    that are not there, and an empty split.
    """
    files, stated = shards.files_of(
        root,
        split,
        holdout,
        lambda name: "array_record" in name or name.endswith(".arrayrecord"),
        ".array_record files",
    )
    if files[0].bucket is not None:
        raise ValueError(f"data.root is {root}, expected a folder: array_record reads files of a disk")
    keys = dict(image_key=image_key, caption_key=caption_key, label_key=label_key)
    return shards.of_split(_Records(root, files, keys), split, holdout, stated)
