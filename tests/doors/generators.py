"""Ways in which a file or a value is not what its reader expects, each of something good and a seed.

`of_bytes` know no format. `of_values` change plain data, as JSON and YAML hold it, at a place of their choosing. What
is made is small, even where it declares much, and is meant for the readers of this library alone.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

DEEP = "@deep@"  # stands in values where the text is made deep
Random = np.random.Generator


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.integers(len(data))] if data else data


def flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data or b" ")
    for at in rng.integers(len(changed), size=rng.integers(1, 9)):
        changed[at] = rng.integers(256)
    return bytes(changed)


def empty(data: bytes, rng: Random) -> bytes:
    return [b"", b"\n", bytes(len(data)), b"\xef\xbb\xbf", b"\0"][rng.integers(5)]


def long(data: bytes, rng: Random) -> bytes:
    """A piece of it many times over, or more at its end."""
    start = rng.integers(len(data) + 1)
    piece = data[start : start + rng.integers(1, 100)] or b"x"
    return [data[:start] + piece * 5000 + data[start:], data + bytes(4096)][rng.integers(2)]


OF_BYTES = {"cut": cut, "flip": flip, "empty": empty, "huge": long}

SWAPPED = (
    None, True, False, 0, 1, -1, 7, 0.5, "", "x", "1", [], [1], ["x"], [[1]], {}, {"x": 1}, {"name": "x"}, "linear",
)  # fmt: skip
HUGE = (2**31, -(2**63), 10**30, 10**400, 1e30, -1e30, "x" * 100_000, [1] * 10_000, ["x"] * 10_000)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))


def places(value: Any) -> list[tuple]:
    """The path to every value inside of one."""
    found, todo = [], [((), value)]
    while todo:
        path, one = todo.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, child in items:
            found.append((*path, key))
            todo.append(((*path, key), child))
    return found or [()]


def at(value: Any, path: tuple, new: Any, rng: Random) -> Any:
    """value with another in that place; the paths of one that is removed lead nowhere."""
    if not path:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if new is places:  # removed
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


def _one(rng: Random, values: tuple) -> Any:
    return values[rng.integers(len(values))]


def changed(value: Any, how: str, rng: Random) -> Any:
    """Plain data, changed in one place or in two."""
    for _ in range(rng.integers(1, 3)):
        there = places(value)
        new = {
            "types": _one(rng, SWAPPED),
            "huge": _one(rng, HUGE),
            "not finite": _one(rng, NOT_FINITE),
            "empty": places if there != [()] else None,
            "deep": DEEP,
        }[how]
        value = at(value, _one(rng, there), new, rng)
    return value


OF_VALUES = ("types", "huge", "not finite", "empty", "deep")


def _deepened(text: str, rng: Random) -> str:
    depth = int(_one(rng, (70, 1000, 20_000)))
    opened, closed = _one(rng, (("[", "]"), ('{"x":', "}")))
    return text.replace(f'"{DEEP}"', opened * depth + "1" + closed * depth)


def _dumped(value: Any) -> str:
    """JSON, of whole numbers of any length."""
    return json.dumps(value).replace('"10**400"', "1" + "0" * 400)


def json_text(data: bytes, how: str, rng: Random) -> bytes:
    return _deepened(_dumped(changed(json.loads(data), how, rng)), rng).encode()


def yaml_text(data: bytes, how: str, rng: Random) -> bytes:
    text = yaml.safe_dump(changed(yaml.safe_load(data), how, rng), default_style=None)
    return _deepened(text.replace(f"'{DEEP}'", f'"{DEEP}"'), rng).encode()


def json_lines(data: bytes, how: str, rng: Random) -> bytes:
    lines = data.splitlines()
    number = rng.integers(len(lines))
    lines[number] = json_text(lines[number], how, rng)
    return b"\n".join(lines) + b"\n"


def safetensors(data: bytes, how: str, rng: Random) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    if how == "not finite":
        numbers = np.frombuffer(body[: len(body) // 4 * 4], np.float32).copy()
        numbers[rng.integers(len(numbers), size=5)] = _one(rng, NOT_FINITE)
        return data[: 8 + length] + numbers.tobytes() + body[len(numbers) * 4 :]
    header = json_text(header, how, rng)
    return struct.pack("<Q", len(header)) + header + body


def npy(data: bytes, how: str, rng: Random) -> bytes:
    body = data[128:]
    if how == "not finite":
        numbers = np.frombuffer(body[: len(body) // 4 * 4], np.float32).copy()
        numbers[:] = _one(rng, NOT_FINITE)
        return data[:128] + numbers.tobytes()
    header = changed({"descr": "<f4", "fortran_order": False, "shape": [16, 16]}, how, rng)
    text = _deepened(repr(header).replace("[", "(").replace("]", ",)").replace("(,", "("), rng)[:9000]
    text = text.replace(f"'{DEEP}'", "(" * 90 + ")" * 90) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


FORMATS: dict[str, Callable[[bytes, str, Random], bytes]] = {
    ".json": json_text, ".yaml": yaml_text, ".jsonl": json_lines, ".safetensors": safetensors, ".npy": npy,
}  # fmt: skip


def broken(name: str, data: bytes, rng: Random) -> tuple[str, bytes]:
    """(which generator, what it makes) of a file: of all that its format has, each as often."""
    suffix = name[name.rfind(".") :]
    hows = [*OF_BYTES, *(OF_VALUES if suffix in FORMATS else ())]
    how = hows[rng.integers(len(hows))]
    if suffix in FORMATS and (how not in OF_BYTES or rng.random() < 0.5) and how in OF_VALUES:
        return how, FORMATS[suffix](data, how, rng)
    return how, OF_BYTES[how](data, rng)
