"""The source `latents`: what a first stage made of a data set, in a folder that `ldm-precompute-latents` wrote.

Decides what the record of such a folder says, which folders may be trained on, and that a picture and its mirror image
are
equally likely. It compares fingerprints and computes none: networks are unknown here. latents_builder.py writes what
this reads; any other reader of TensorFlow Datasets can read it too (`tfds.builder_from_directory`). tensorflow_datasets
is imported when a source is opened, not before.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import paths, text_files

MOMENTS = ("moments", "moments_flipped")
# What a text encoder made of the caption: the context, and of some the vector, and the vector without the caption.
TEXT = ("text_context", "text_vector", "text_vector_null")
RECORD = "latents.json"
NAME = "latents"  # of the TFDS data set
RANDOM_ACCESS = "array_record"
OWN_FEATURES = "tensorflow_datasets.core.features."
CLASS_KEYS = ("pythonClassName", "python_class_name")  # the two spellings of JSON that protocol buffers read
LONGEST = 100_000  # letters of what a data set was
MOST_SHARDS = 100_000
COMMAND = "ldm-precompute-latents"
AGAIN = f"write another with {COMMAND}, or name the one that made it"


class MadeOf(NamedTuple):
    """All that decides what lies in a folder of latents.

    first_stage: fingerprint of its parameters (bundle.fingerprint). data: of the data set. source, split: what the data
    set
    was. number: of examples. image_size: in pixels. recipe: that cut them. flip: whether the mirror images are there
    too.
    moments: shape [h, w, 2c] of a KL first stage's moments, or [h, w, c] of another's latents. has_variance: which of
    the two.
    dtype: 'float32' or 'float16', of what is stored. computed_in: dtype of the networks. fields: of the examples beside
    the
    moments. text_encoder: fingerprint of its parameters where its outputs are there too. file_format: 'array_record' or
    'tfrecord'. examples_per_shard: of all shards but the last.
    """

    first_stage: str
    data: str
    source: str
    split: str
    number: int
    image_size: int
    recipe: str
    flip: bool
    moments: list[int]
    has_variance: bool
    dtype: str
    computed_in: str
    fields: list[str]
    text_encoder: str | None
    file_format: str
    examples_per_shard: int

    @property
    def split_name(self) -> str:
        """'train' of 'train[:90%]': TFDS names splits by a word."""
        return re.match(r"\w*", self.split).group() or "all"

    @property
    def num_shards(self) -> int:
        return -(-self.number // self.examples_per_shard)

    def examples(self, shard: int) -> range:
        """The indices of a shard's examples, one after the other."""
        start = shard * self.examples_per_shard
        return range(start, min(start + self.examples_per_shard, self.number))

    def path(self, root: Path, shard: int) -> Path:
        """The file of a shard, named as TFDS names it."""
        numbers = f"{shard:05d}-of-{self.num_shards:05d}"
        return root / f"{NAME}-{self.split_name}.{self.file_format}-{numbers}"

    def done_path(self, root: Path, shard: int) -> Path:
        """A small file that is there once the shard is: its length, its bytes, the statistics of its latents."""
        return root / "shards" / f"{shard:05d}.json"


def read_record(root: Path) -> dict | None:
    """What the folder's record says: the fields of MadeOf and, once every shard is there, the statistics of the latents
    (training/latents.py). None where there is no record. Raises: ValueError if it cannot be read."""
    path = root / RECORD
    if not path.is_file():
        return None
    try:
        record = text_files.read_object(path, "record")
        _check(made_of(record))
    except (ValueError, KeyError) as error:
        missing = "a field is missing: " if isinstance(error, KeyError) else ""
        raise ValueError(f"{path} is no record of {COMMAND}: {missing}{text_files.cut(error, 500)}") from None
    return record


def _check(made: MadeOf) -> None:
    """Raises: ValueError for a field of another kind, or numbers that no folder has."""
    for field in ("first_stage", "data", "source", "split", "recipe", "dtype", "computed_in", "file_format"):
        if not isinstance(getattr(made, field), str) or len(getattr(made, field)) > LONGEST:
            raise ValueError(
                f"{field} is {text_files.shown(getattr(made, field))}, expected a string of at most {LONGEST} letters"
            )
    for field in ("moments", "fields"):
        if not isinstance(getattr(made, field), list):
            raise ValueError(f"{field} is {text_files.shown(getattr(made, field))}, expected a list")
    if len(made.split_name) > 100 or made.file_format not in (RANDOM_ACCESS, "tfrecord"):
        raise ValueError(f"no files are named after {text_files.shown((made.split, made.file_format))}")
    if not isinstance(made.text_encoder, str | None):
        raise ValueError(f"text_encoder is {text_files.shown(made.text_encoder)}, expected a string or null")
    for field, most in dict(number=10**10, image_size=2**16, examples_per_shard=10**10).items():
        value = getattr(made, field)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(
                f"{field} is {text_files.shown(value)}, expected a whole number from 1 to {most}"
            )
    if made.num_shards > MOST_SHARDS:
        raise ValueError(f"it is of {made.num_shards} shards, expected at most {MOST_SHARDS}")


def check_features(root: Path) -> None:
    """Whether the folder's features.json names TFDS' own classes alone: TFDS imports the module of whatever it names.

    Raises: ValueError for another name, or a file that is not there or no JSON.
    """
    path = root / "features.json"
    level = [text_files.read_object(path, "description of features")]
    while level:
        inside = [one.items() if isinstance(one, dict) else enumerate(one) for one in level]
        level = []
        for key, value in (pair for pairs in inside for pair in pairs):
            if key in CLASS_KEYS and not str(value).startswith(OWN_FEATURES):
                raise ValueError(
                    f"{path} names {text_files.shown(value)}, expected classes of {OWN_FEATURES}*: not followed"
                )
            level += [value] if isinstance(value, dict | list) else []


def made_of(record: dict) -> MadeOf:
    """The record without its statistics. Raises: KeyError for a field that is missing."""
    return MadeOf(**{field: record[field] for field in MadeOf._fields})


def missing_shards(root: Path, made: MadeOf) -> list[int]:
    """The numbers of the shards that are not there, or not whole."""
    there, done = paths.names(root), paths.names(made.done_path(root, 0).parent)
    return [
        shard
        for shard in range(made.num_shards)
        if made.path(root, shard).name not in there or made.done_path(root, shard).name not in done
    ]


class LatentsSource:
    """Random access to stored latents.

    An example holds `moments` [h, w, 2c] float32 (latents [h, w, c] of a first stage without a variance), where the
    folder has them `moments_flipped`, those of the mirror image, `text_context` [L, D], `text_vector` [P] and
    `text_vector_null` [P] float32 (training/stored_text.py), and the fields that the data set's examples had: `caption`
    (str), `class_label` (int), `image` [H, W, 3] uint8 as it was encoded, ….

    record: what the folder's record says; `scale_factor`, `mean` and `std` are of the latents of the whole data set.
    """

    def __init__(self, root: Path, record: dict, records: Any):
        self.root, self.record, self.records = root, record, records

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"latents({str(self.root)!r}, {self.record['split']!r})"

    def __getitem__(self, index: int) -> dict:
        return {name: _plain(value) for name, value in self.records[index].items()}

    @property
    def statistics(self) -> dict[str, Any]:
        """scale_factor, mean, std and number of examples, as training/latents.py measures them."""
        return {name: self.record[name] for name in ("scale_factor", "mean", "std", "number")}

    def pick(self, example: dict, rng: np.random.Generator) -> dict:
        """The example with its own moments, or with those of the mirror image where they are stored, equally likely."""
        example = dict(example)
        mirrored = example.pop("moments_flipped", None)
        if mirrored is not None and rng.random() < 0.5:
            example["moments"] = mirrored
        return example

    def fingerprint(self) -> str:
        """Hex digest of the record."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()

    def check(self, *, first_stage: str, image_size: int) -> None:
        """Whether these are the latents that a model is to be trained in.

        first_stage: fingerprint of the parameters that will decode (bundle.fingerprint). image_size: in pixels.
        Raises: ValueError that says what differs.
        """
        if self.record["first_stage"] != first_stage:
            raise ValueError(
                f"latents folder {self.root} was made by the first stage {self.record['first_stage'][:12]}, expected "
                f"{first_stage[:12]}, which the config names: {AGAIN}"
            )
        if self.record["image_size"] != image_size:
            raise ValueError(
                f"latents folder {self.root} is of pictures of {self.record['image_size']} pixels, expected "
                f"{image_size}"
            )

    @property
    def has_text(self) -> bool:
        return self.record["text_encoder"] is not None

    def check_text(self, text_encoder: str | None) -> None:
        """Whether the text that is stored, if any, is what a model would make of the captions.

        text_encoder: training.precompute.text_encoder_fingerprint of the model's; None if it trains it.
        Raises: ValueError if not.
        """
        stored = self.record["text_encoder"]
        if stored is not None and stored != text_encoder:
            raise ValueError(
                f"latents folder {self.root} holds the outputs of the text encoder {stored[:12]}, expected "
                f"{'none, for the model trains its own' if text_encoder is None else text_encoder[:12]}: {AGAIN}"
            )


def _plain(value: Any) -> Any:
    """A value as TFDS gives it, as a source of this room gives it: str, int, float, float32 arrays for float16 ones."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    value = np.asarray(value)
    if value.ndim == 0:
        return value.item()
    return value.astype(np.float32) if value.dtype == np.float16 else value


def instead_of(data: Mapping[str, Any], root: str | Path) -> dict[str, Any]:
    """The config's section `data` that trains on the folder `root`, for one that names the pictures it was made of."""
    kept = {key: data[key] for key in ("split", "derive") if key in data}
    return dict(kept, name="latents", root=str(root))


def source(split: str, *, root: str | Path) -> LatentsSource:
    """The latents in a folder.

    split: the one that they are of. root: the folder that was --out; of one in a bucket a copy is read.

    Raises: ValueError for a folder that is not there, holds no latents, is not finished, has no random access, is of
    another split, or names other classes of features than TFDS' own.
    """
    root = paths.of(root).expanduser()
    paths.check(root)
    record = read_record(root)
    if not str(root) or record is None:
        raise ValueError(f"{str(root)!r} holds no {RECORD}, expected a folder that {COMMAND} wrote")
    made = made_of(record)
    if split not in (made.split, made.split_name):
        raise ValueError(f"split {split!r} of latents {str(root)!r} not found; there are: {made.split}")
    missing = missing_shards(root, made)
    if missing or "scale_factor" not in record:
        raise ValueError(
            f"latents folder {root} is not finished: {len(missing)} of {made.num_shards} shards are missing; "
            f"run the same {COMMAND} again"
        )
    if made.file_format != RANDOM_ACCESS:
        raise ValueError(
            f"latents folder {root} is in {made.file_format} files, which have no random access, expected "
            f"{RANDOM_ACCESS}"
        )
    here = paths.local(root)  # random access to a file is that of a disk
    check_features(here)
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(here)
    return LatentsSource(root, record, builder.as_data_source(split=made.split_name))
