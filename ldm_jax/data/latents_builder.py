"""Writes the folders that the source `latents` reads, with the writers of TensorFlow Datasets: shard by shard, each
whole or not there.

Decides how a field is stored, and when a folder is finished. A shard's file comes first and the small file that says so
second, so that a run which was stopped goes on at the first missing shard, and any number of hosts can write shards
side by side. It knows neither networks nor where examples come from. tensorflow_datasets is imported when it is called.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import atomic, grid, paths, text_files
from ldm_jax.data.latents import (
    MOMENTS,
    NAME,
    RECORD,
    TEXT,
    MadeOf,
    missing_shards,
    read_record,
)

DTYPES = ("float32", "float16")
SHARD = {"number": int, "num_bytes": int}  # what the record of a shard says beside what its writer was told
FILE_FORMATS = ("array_record", "tfrecord")


def storable(name: str, value: Any) -> Any:
    """A field of an example as it is stored: str, or an array of uint8, int64, float32 or bool, or a dict of such.

    Raises: ValueError for anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: storable(f"{name}/{key}", inner) for key, inner in value.items()}
    array = np.asarray(value)
    if array.dtype in (np.uint8, np.bool_):
        return array
    if array.dtype.kind in "iuf":
        return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    raise ValueError(
        f"the examples' {name} is of type {type(value).__name__} ({array.dtype}), expected text, numbers or arrays: "
        "leave it out of --fields"
    )


def features(made: MadeOf, example: Mapping[str, Any]) -> Any:
    """The tfds.features.FeaturesDict of a folder. example: one that is to be stored, as `storable` gives its fields.

    Arrays of the data set may have any length along their first axis; an image has the one size.
    """
    import tensorflow_datasets as tfds

    def of(name: str, value: Any) -> Any:
        if name in MOMENTS + TEXT:
            dtype = np.dtype(made.dtype).type
            return tfds.features.Tensor(shape=np.shape(value), dtype=dtype, encoding="bytes")
        if isinstance(value, str):
            return tfds.features.Text()
        if isinstance(value, Mapping):
            return {key: of(f"{name}/{key}", inner) for key, inner in value.items()}
        if name == "image":
            return tfds.features.Image(shape=value.shape, encoding_format="png")
        if value.ndim == 0:
            return tfds.features.Scalar(dtype=value.dtype.type)
        return tfds.features.Tensor(shape=(None, *value.shape[1:]), dtype=value.dtype.type)

    return tfds.features.FeaturesDict({name: of(name, value) for name, value in example.items()})


def begin(root: Path, made: MadeOf) -> list[int]:
    """Makes the folder, or goes on in it. Returns the shards that are missing.

    Raises: ValueError that names the first thing that differs, if the folder holds other latents, and for tfrecord
    files where tensorflow, which writes them, is not installed.
    """
    if made.file_format == "tfrecord" and importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"latents folder {root}: tfrecord files are written by tensorflow, which is not installed, expected "
            "`pip install 'ldm_jax[tensorflow]'` or --file_format array_record"
        )
    before, now = read_record(root), json.loads(json.dumps(made._asdict()))
    differing = [key for key in now if before is not None and before[key] != now[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"latents folder {root} holds others: {key} is {before[key]!r} there and {now[key]!r} here; "
            "take another --out"
        )
    if before is None:
        # Another host may be writing the record at this moment.
        if any(not name.endswith(".partial") for name in paths.names(root)):
            raise ValueError(f"folder {root} holds something else than latents; take another --out")
        _write_json(root / RECORD, now)
    return missing_shards(root, made)


def write_shard(
    root: Path,
    made: MadeOf,
    shard: int,
    examples: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    like: Mapping[str, Any],
) -> None:
    """One shard: its examples, in the order of their indices.

    Each example holds the moments [h, w, 2c], as floats, and the fields, as `storable` gives them. about: plain data
    that
    `done` gives back. like: an example of the same structure, the same for all shards.
    Raises: ValueError for numbers that are not finite in the dtype that they are stored in, which names the example.
    """
    from tensorflow_datasets.core import example_serializer, file_adapters

    spec = features(made, like)
    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
    num_bytes = 0

    def serialized() -> Iterable[tuple[int, bytes]]:
        nonlocal num_bytes
        for index, example in zip(made.examples(shard), examples, strict=True):
            text = serializer.serialize_example(spec.encode_example(_in_dtype(made, index, example)))
            num_bytes += len(text)
            yield index, text

    adapter = file_adapters.ADAPTER_FOR_FORMAT[file_adapters.FileFormat.from_value(made.file_format)]
    with atomic.writing(made.path(root, shard)) as partial:
        adapter.write_examples(partial, serialized())
    _write_json(
        made.done_path(root, shard),
        dict(number=len(examples), num_bytes=num_bytes, **about),
    )


def _in_dtype(made: MadeOf, index: int, example: Mapping[str, Any]) -> dict[str, Any]:
    """The example as it is stored: its numbers of networks in their dtype, its image as a picture."""
    out = dict(example)
    for name in MOMENTS + TEXT:
        if name in out:
            with np.errstate(over="ignore"):
                out[name] = np.asarray(out[name]).astype(made.dtype)
            if not np.isfinite(out[name]).all():
                raise ValueError(
                    f"the {name} of example {index} are not finite in {made.dtype}; expected numbers that are"
                )
    if isinstance(
        out.get("image"), np.ndarray
    ):  # which tfds encodes by tensorflow, and a picture of Pillow without
        out["image"] = grid.to_pil(out["image"])
    return out


def done(root: Path, made: MadeOf) -> list[dict]:
    """What is known of each shard: number, num_bytes, and what `write_shard` was told. All must be there."""
    paths = (made.done_path(root, shard) for shard in range(made.num_shards))
    return [text_files.read_object(path, "record of a shard", SHARD) for path in paths]


def finish(root: Path, made: MadeOf, example: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
    """Makes the shards a data set that TFDS can read, and writes `statistics` into the record, which says that all is
    there.

    Several hosts may do it at the same time: they write the same. example: one that is stored, for its structure.
    """
    import tensorflow_datasets as tfds

    identity = tfds.core.dataset_info.DatasetIdentity(
        name=NAME, version=tfds.core.Version("1.0.0"), data_dir=str(root), module_name=__name__
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=features(made, example),
        description=f"What the first stage {made.first_stage[:12]} makes of {made.source}.",
        disable_shuffling=True,
    )
    info.set_file_format(made.file_format)
    shards = done(root, made)
    template = tfds.core.ShardedFileTemplate(
        dataset_name=NAME, data_dir=root, split=made.split_name, filetype_suffix=made.file_format
    )
    lengths, num_bytes = [s["number"] for s in shards], sum(s["num_bytes"] for s in shards)
    split = tfds.core.SplitInfo(
        name=made.split_name, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    beside = None if paths.in_bucket(root) else root  # where a file can be renamed into the folder
    with tempfile.TemporaryDirectory(dir=beside, prefix=".info") as partial:
        info.write_to_directory(partial)
        for file in Path(partial).iterdir():
            atomic.put(file, root / file.name)
    for litter in [] if beside is None else root.glob(f"{NAME}-*.partial"):  # of runs that were killed
        litter.unlink(missing_ok=True)
    _write_json(root / RECORD, dict(made._asdict(), **statistics))


def check_space(root: Path, made: MadeOf, missing: int) -> None:
    """Raises: OSError if what is missing will not fit on the disk, going by the moments alone. missing: shards."""
    each = int(np.prod(made.moments)) * np.dtype(made.dtype).itemsize * (2 if made.flip else 1)
    if paths.in_bucket(root):  # which has room
        return
    needed, free = missing * made.examples_per_shard * each, shutil.disk_usage(root).free
    needed = min(needed, made.number * each)
    if needed > free:
        raise OSError(
            f"no space left: {root} needs {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
        )


def _write_json(path: Path, value: Any) -> None:
    atomic.write_text(path, json.dumps(value, indent=2) + "\n")
