"""Columns of Apache Arrow, in which Hugging Face's data sets lie: which are the picture, its caption and its class.

Decides that a picture is a struct of bytes and path (datasets.Image), or bytes, and what of a schema says so. It opens
no file; pyarrow is imported by those who do (parquet.py, arrow.py), where they are asked for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax.data.captions import COLUMNS
from ldm_jax.data.shards import Record, choose_key, no_pictures

IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "pixel_values")  # where there are several
LABELS = ("label", "labels", "class_label")


class Keys(NamedTuple):
    """Names of columns; several: whether the caption's is of lists. class_names: of the label's, if known."""

    image: str
    caption: str | None
    label: str | None
    several: bool
    class_names: list[str]

    @property
    def all(self) -> list[str]:
        return [name for name in (self.image, self.caption, self.label) if name]


def pyarrow(what: str) -> Any:
    """Raises: ValueError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise ValueError(f"{what} needs pyarrow to be read: pip install 'ldm_jax[data]'") from None
    return pyarrow


def keys_of(
    schema: Any, what: str, image_key: str | None, caption_key: str | None, label_key: str | None
) -> Keys:
    """The columns of a pyarrow schema that are meant. None: of pictures the only one, or the first of IMAGES; `text` or
    `caption`; a label whose classes the data set names.

    Raises: ValueError in one sentence, naming the columns there are, for one that is not there, or none or several that
    may be the picture.
    """
    kinds = {field.name: field.type for field in schema}
    said = {name: str(kind) for name, kind in kinds.items()}
    pictures = [name for name, kind in kinds.items() if _is_picture(kind)]
    image = choose_key(image_key, list(kinds), IMAGES, "image_key", what)
    if image is None or (image not in pictures and image_key is None):
        if len(pictures) > 1:
            raise ValueError(f"{what} has the pictures {', '.join(pictures)}, expected image_key to name one")
        image = pictures[0] if pictures else None
    if image is None:
        raise no_pictures(what, said)
    if image not in pictures:
        raise ValueError(f"{what}: {image!r} is {said[image]}, expected bytes of pictures' files")
    caption = choose_key(caption_key, list(kinds), COLUMNS, "caption_key", what)
    if caption and "string" not in said[caption] and "null" not in said[caption]:
        raise ValueError(f"{what}: {caption!r} is {said[caption]}, expected strings, or lists of them")
    features = _features(schema)
    classes = {
        name: list(f.get("names") or ()) for name, f in features.items() if f.get("_type") == "ClassLabel"
    }
    named = [name for name in kinds if name in classes]
    label = choose_key(label_key, list(kinds), [n for n in LABELS if n in named], "label_key", what)
    if label and "int" not in said[label]:
        raise ValueError(f"{what}: {label!r} is {said[label]}, expected whole numbers")
    several = bool(caption) and "list" in said[caption]
    return Keys(image, caption, label, several, classes.get(label, []))


def _is_picture(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        names = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return "bytes" in names and _is_bytes(names["bytes"])
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _features(schema: Any) -> dict[str, dict]:
    """What `datasets` says of the columns in the schema's metadata."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in said.items() if isinstance(feature, Mapping)}
    except (KeyError, ValueError, TypeError):
        return {}


def record(values: Mapping[str, Any], keys: Keys, beside: Path) -> Record:
    """values: of a row, by column, as python has them. beside: the folder that paths of pictures are relative to.
    Raises: ValueError for a picture that is null."""
    image = values[keys.image]
    if isinstance(image, Mapping):
        path = image.get("path")
        image = image["bytes"] if image["bytes"] is not None else path and beside / path
    if image is None:
        raise ValueError("its picture is null")
    label = values.get(keys.label) if keys.label else None
    if keys.label and label is None:
        raise ValueError("its label is null")
    return Record(image, values.get(keys.caption) if keys.caption else None, label)
