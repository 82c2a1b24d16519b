"""Text that people write, read in one way: captions, classes, prompts, vocabularies, layouts, jobs.

Decides encodings, where a line ends, and what a caption is. What a line says is its reader's to decide. It knows no
folder, no picture and no tokenizer.

Files are UTF-8, with or without a byte order mark, or UTF-16 with one, as some editors write on Windows; a mark is no
part of the text. Lines end with \\n, \\r\\n or \\r and with nothing else: U+2028, U+0085 and form feeds, which
str.splitlines takes for ends of lines, may stand inside the strings of JSON (RFC 8259, section 7) and inside captions.
"""

import codecs
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(path: str | Path, what: str) -> str:
    """The text of a file, its lines ended by \\n alone. what: its role, for messages.

    Raises: FileNotFoundError; ValueError for text in another encoding, which names the file.
    """
    data = Path(path).read_bytes()
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at position {error.start}" if data else "nothing"
        raise ValueError(
            f"{what} {path} is no UTF-8 text: {found} is none of it; save the file as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def all_lines(path: str | Path, what: str) -> list[str]:
    """Every line, empty ones too, as in a vocabulary, where a line's number counts. Raises: as `read`."""
    return read(path, what).removesuffix("\n").split("\n")


def lines(path: str | Path, what: str) -> list[tuple[int, str]]:
    """(number from 1, line) of the lines that are not blank. Raises: as `read`."""
    return [(number, line) for number, line in enumerate(all_lines(path, what), 1) if line.strip()]


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file holds. Raises: FileNotFoundError; ValueError that names the file, for no text or no JSON."""
    try:
        return json.loads(read(path, what))
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} {path} is no JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{what} {path} is no JSON that can be read: it is nested too deep") from None


def read_object(
    path: str | Path, what: str, fields: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any]:
    """The JSON object that a file holds. fields: types that its values have to have; it may have other fields.

    Raises: ValueError that names the file, also where it is not there, or holds something else."""
    if not Path(path).is_file():
        raise ValueError(f"{what} {path} is not there")
    try:
        value = read_json(path, what)
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} {path} holds {type(value).__name__}, expected an object")
    for name, expected in (fields or {}).items():
        if name not in value:
            raise ValueError(f"{what} {path} has no {name!r}: it was damaged, or is of something else")
        if not isinstance(value[name], expected) or isinstance(value[name], bool):
            got = type(value[name]).__name__
            kinds = expected if isinstance(expected, tuple) else (expected,)
            raise ValueError(
                f"{what} {path}: {name} is {got}, expected {' or '.join(kind.__name__ for kind in kinds)}"
            )
    return value


def caption(value: Any) -> str | None:
    """The caption that a data set states: a string, its blanks and line ends made single blanks; of several the first.

    value: str, UTF-8 bytes, a list or array of them, or what data sets have where there is none: None, NaN, an empty
    list.
    Returns: None for none; '' for an empty one. Raises: ValueError for anything else, and for half of a surrogate pair.
    """
    if isinstance(value, list | tuple | np.ndarray):
        several = [caption(one) for one in np.asarray(value, dtype=object).ravel()]
        return next((one for one in several if one is not None), None)
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"a caption is {value[:40]!r}, expected UTF-8") from None
    if not isinstance(value, str):
        said = str(value)[:40]
        raise ValueError(f"a caption is {said}, expected a string, a list of strings, or null for none")
    check_unicode(value, "a caption")
    return " ".join(value.split())


def check_unicode(value: str, what: str) -> None:
    """Raises: ValueError for half of a surrogate pair, which JSON can say and UTF-8 and tokenizers cannot."""
    if value.encode("utf-8", "ignore").decode() != value:
        raise ValueError(f"{what} is {value!r}, which is no Unicode text: half of a surrogate pair")
