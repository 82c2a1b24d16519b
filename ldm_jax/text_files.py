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
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import paths

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SHOWN = 100  # characters of a value, or of another library's error, that messages show
LARGEST = 16 * 2**20  # bytes of a JSON file: 20 times CLIP's vocabulary
LARGEST_YAML, MOST_NODES = 2**20, 100_000  # bytes, values: the longest of the original's has 5,000 bytes
DEEPEST = 64  # lists and objects inside each other: no config has ten

_repr = reprlib.Repr()
_repr.maxlevel = 4
_repr.maxstring = _repr.maxlong = _repr.maxother = 2 * SHOWN


def cut(text: Any, most: int = SHOWN) -> str:
    """Text for a message: in one line, of at most that many characters."""
    line = " ".join(str(text)[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def cut_path(path: str | Path) -> str:
    """A path for a message: its end, where it is too long for any file."""
    text = str(path).replace("\0", "\\0")
    return text if len(text) <= 4096 else f"…{text[-SHOWN:]}"


def shown(value: Any) -> str:
    """The repr of a value for a message, as `cut`, which for one that is large or deep is not made in full."""
    try:
        return cut(_repr.repr(value))
    except ValueError:  # whole numbers of more than 4300 digits
        return f"{type(value).__name__} that is too large to show"


def read(path: str | Path, what: str) -> str:
    """The text of a file, its lines ended by \\n alone. what: its role, for messages.

    Raises: FileNotFoundError; ValueError for text in another encoding, which names the file.
    """
    return decode(paths.of(path).read_bytes(), what, path)


def decode(data: bytes, what: str, path: str | Path) -> str:
    """The text of a file's bytes, as `read`. path: where they are from. Raises: ValueError as `read`."""
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


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises: ValueError, without its place, for no JSON, and for one nested deeper than
    DEEPEST."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"no JSON: {error.msg} at {at}") from None
    except RecursionError:
        raise ValueError(
            f"no JSON that is read here: it is nested deeper than {DEEPEST} lists and objects"
        ) from None
    except ValueError as error:  # of a number of thousands of digits
        raise ValueError(f"no JSON: {cut(error)}") from None
    level = [value]
    for _ in range(DEEPEST + 1):
        inside = [
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        ]
        level = [child for children in inside for child in children]
        if not level:
            return value
    raise ValueError(f"no JSON that is read here: it is nested deeper than {DEEPEST} lists and objects")


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file holds. Raises: FileNotFoundError; ValueError that names the file, for one larger than LARGEST,
    for no text and as `parse_json`."""
    check_size(path, what, LARGEST)
    try:
        return parse_json(read(path, what))
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(what) else f"{what} {path} is {said}") from None


def read_yaml(path: str | Path, what: str) -> Any:
    """What a YAML file holds, made of plain values alone.

    Raises: FileNotFoundError; ValueError that names the file, for no text and no YAML, for one larger than LARGEST_YAML
    or nested deeper than DEEPEST, and for aliases that stand for more than MOST_NODES values.
    """
    import yaml

    check_size(path, what, LARGEST_YAML)
    text = read(path, what)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_nodes(yaml.parse(text, loader))
        return yaml.load(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" at line {mark.line + 1}" if mark else ""
        raise ValueError(f"{what} {path} is not YAML: {cut(error.problem or error.context)}{at}") from None
    except Exception as error:  # noqa: BLE001 - of dates and numbers that are none, the library raises nearly anything
        raise ValueError(f"{what} {path} is not YAML: {cut(error)}") from None


def _check_nodes(events: Iterable) -> None:
    """Raises: ValueError for YAML that is too deep, refers to itself, or is too many values once its aliases are what
    they stand for."""
    inside, sizes = (
        [(None, 0)],
        {},
    )  # (anchor, values so far) of each collection that is open; values by anchor
    for event in events:
        name, anchor = type(event).__name__, getattr(event, "anchor", None)
        if name in ("SequenceStartEvent", "MappingStartEvent"):
            inside.append((anchor, 1))
            size = 0
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            anchor, size = inside.pop()
        elif name == "AliasEvent":
            if anchor in (opened for opened, _ in inside):
                raise ValueError(f"{shown(anchor)} stands for what it is inside of")
            size = sizes.get(anchor, 1)
        else:
            size = int(name == "ScalarEvent")
        if name != "AliasEvent" and anchor is not None and size:
            sizes[anchor] = size
        last, number = inside[-1]
        inside[-1] = (last, number + size)
        if len(inside) > DEEPEST + 1:
            raise ValueError(f"it is nested deeper than {DEEPEST} lists and mappings")
        if number + size > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES} values")


def check_size(path: str | Path, what: str, largest: int) -> None:
    """Raises: FileNotFoundError; ValueError for a file of more bytes."""
    size = paths.size(path)
    if size > largest:
        raise ValueError(f"{what} {path} has {size} bytes, expected at most {largest}")


def read_object(
    path: str | Path, what: str, fields: Mapping[str, type | tuple[type, ...]] | None = None
) -> dict[str, Any]:
    """The JSON object that a file holds. fields: types that its values have to have; it may have other fields.

    Raises: ValueError that names the file, also where it is not there, or holds something else."""
    try:
        if not paths.of(path).is_file():
            raise ValueError(f"{what} {cut_path(path)} is not there")
        value = read_json(path, what)
    except OSError as error:
        raise ValueError(f"{what} {cut_path(path)} cannot be read: {error.strerror or error}") from None
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


def captions(value: Any) -> list[str]:
    """Every caption that a data set states in a value, as `caption`: of a list each, but those that are none. Raises:
    as `caption`."""
    if isinstance(value, list | tuple | np.ndarray):
        return [said for one in np.asarray(value, dtype=object).ravel() for said in captions(one)]
    said = caption(value)
    return [] if said is None else [said]


def caption(value: Any) -> str | None:
    """The caption that a data set states: a string, its blanks and line ends made single blanks; of several the first.

    value: str, UTF-8 bytes, a list or array of them, or what data sets have where there is none: None, NaN, an empty
    list.
    Returns: None for none; '' for an empty one. Raises: ValueError for anything else, and for half of a surrogate pair.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return next(iter(captions(value)), None)
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"a caption is {value[:40]!r}, expected UTF-8") from None
    if not isinstance(value, str):
        said = shown(value)[:40]
        raise ValueError(f"a caption is {said}, expected a string, a list of strings, or null for none")
    check_unicode(value, "a caption")
    return " ".join(value.split())


def check_unicode(value: str, what: str) -> None:
    """Raises: ValueError for half of a surrogate pair, which JSON can say and UTF-8 and tokenizers cannot."""
    if value.encode("utf-8", "ignore").decode() != value:
        raise ValueError(f"{what} is {shown(value)}, which is no Unicode text: half of a surrogate pair")
