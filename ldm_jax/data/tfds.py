"""The source `tfds`: any TensorFlow Datasets data set by name, read at random through `tfds.data_source`.

Decides which features become image, caption and class. TFDS is asked for the bytes of pictures, which are decoded as
those of
every source: its own decoder gives the indices of palettes, other pixels with OpenCV than without, and turns nothing.
Neither
downloads nor prepares: that is one command, which the error names. tensorflow_datasets is imported when a source is
opened, not before.
"""

import dataclasses
import difflib
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ldm_jax import text_files
from ldm_jax.data import pictures, transforms


class TfdsSource:
    """Random access to a prepared data set. An example holds image [H, W, 3] uint8, and `caption` (str),
    `class_label` (int) and `objects` (as the data set has them: {'bbox': [n, 4], 'label': [n], …}) where their
    keys are given. object_names: those of the objects' labels, where the data set has them."""

    def __init__(
        self,
        name: str,
        split: str,
        records: Any,
        keys: dict[str, str],
        content: str,
        object_names: list[str] | None = None,
    ):
        self.name, self.split, self.records, self.keys, self.content = name, split, records, keys, content
        self.object_names = object_names or []

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"tfds({self.name!r}, {self.split!r})"

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        example = {"image": _image(_value(record, self.keys["image"]))}
        if "caption" in self.keys:
            example["caption"] = text_files.caption(_value(record, self.keys["caption"])) or ""
        if "class_label" in self.keys:
            example["class_label"] = int(_value(record, self.keys["class_label"]))
        if "objects" in self.keys:
            example["objects"] = _value(record, self.keys["objects"])
        return example

    def objects(self) -> Iterator[Any]:
        """The `objects` of each example in order; no image is decoded, though each record is read whole."""
        records = self.records
        if dataclasses.is_dataclass(records):
            records = dataclasses.replace(records, decoders=_undecoded(self.keys["image"]))
        for index in range(len(records)):
            yield _value(records[index], self.keys["objects"])

    def fingerprint(self) -> str:
        """Hex digest of name, configuration, version, split, and the lengths of the files on disk."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def _value(record: Any, key: str) -> Any:
    """record['captions']['text'] for 'captions/text'."""
    for part in key.split("/"):
        record = record[part]
    return record


def _undecoded(key: str) -> dict:
    """What keeps TFDS from decoding the feature at `key`."""
    import tensorflow_datasets as tfds

    decoders = tfds.decode.SkipDecoding()
    for part in reversed(key.split("/")):
        decoders = {part: decoders}
    return decoders


def _image(value: bytes | np.ndarray) -> np.ndarray:
    """The bytes of a file, or of a feature that is no picture [H, W] or [H, W, 1 | 3 | 4], uint8 or uint16 gray -> [H,
    W, 3] uint8."""
    if isinstance(value, bytes):
        return pictures.decode(io.BytesIO(value))
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return transforms.to_rgb(Image.fromarray(pixels))


def _check_key(option: str, key: str, features: Any, name: str) -> None:
    for part in key.split("/"):
        try:
            features = features[part]
        except (KeyError, TypeError) as error:
            there = ", ".join(features) if hasattr(features, "__iter__") else "none below it"
            raise ValueError(
                f"{option} {key!r} is no feature of tfds data set {name!r}; there are: {there}"
            ) from error


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.split("/")[0], known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"tfds data set {name!r} not found{hint} (to list all: "
            '`python -c "import tensorflow_datasets as t; print(*t.list_builders())"`)'
        ) from error


def source(
    split: str,
    *,
    dataset: str,
    data_dir: str | None = None,
    image_key: str = "image",
    caption_key: str | None = None,
    label_key: str | None = None,
    objects_key: str | None = None,
) -> TfdsSource:
    """A split of a prepared data set.

    split: a name, or a slice of one ('train[:90%]'). dataset: 'name', 'name/config' or 'name/config:version'.
    data_dir: where it was prepared; None is TFDS's own place.
    image_key, caption_key, label_key, objects_key: features, nested ones with slashes ('captions/text': the first
        caption).

    Raises: ValueError for an unknown data set (with the nearest names), split or feature; FileNotFoundError
    with the command to run where it is not prepared, or not in the array_record format that random access
    needs.
    """
    import tensorflow_datasets as tfds

    builder = _builder(dataset, data_dir)
    prepare = f"tfds build {dataset} --file_format=array_record" + (
        f" --data_dir={data_dir}" if data_dir else ""
    )
    with_tensorflow = "with `pip install 'ldm_jax[tensorflow]'`"  # the command imports it, reading does not
    if not builder.info.splits:
        raise FileNotFoundError(
            f"tfds data set {dataset!r} is not prepared in {builder.data_dir}; run `{prepare}`, {with_tensorflow}"
        )
    options = {
        "image": "image_key",
        "caption": "caption_key",
        "class_label": "label_key",
        "objects": "objects_key",
    }
    keys = dict(zip(options, (image_key, caption_key, label_key, objects_key), strict=True))
    for field, option in options.items():
        if keys[field] is not None:
            _check_key(option, keys[field], builder.info.features, dataset)
    known = builder.info.splits
    if split.split("[")[0] not in known:
        raise ValueError(
            f"split {split!r} of tfds data set {dataset!r} not found; there are: {', '.join(known)}"
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise FileNotFoundError(
            f"tfds data set {dataset!r} is prepared as {builder.info.file_format.value}, which has no "
            f"random access; run `{prepare}`, {with_tensorflow}"
        )
    keys = {field: key for field, key in keys.items() if key is not None}
    files = f"{known[split].shard_lengths} {known[split].num_bytes}"
    content = f"{builder.info.full_name} {split} {files} {sorted(keys.items())}"
    names = _object_names(builder.info.features, objects_key) if objects_key else []
    decoders = _undecoded(image_key) if _is_picture(_value(builder.info.features, image_key)) else None
    records = builder.as_data_source(split=split, decoders=decoders)
    return TfdsSource(dataset, split, records, keys, content, names)


def _is_picture(feature: Any) -> bool:
    """Whether the feature's bytes are those of a picture file; those of floating point are its bits in four
    channels."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Image) and feature.np_dtype != np.float32


def _object_names(features: Any, objects_key: str) -> list[str]:
    """The names of the labels below the feature `objects_key`; [] where it has none."""
    try:
        return list(getattr(_value(features, f"{objects_key}/label"), "names", None) or [])
    except (KeyError, TypeError):
        return []
