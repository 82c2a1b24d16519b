"""Writes the tables of docs/benchmarks.md from the JSON lines in benchmarks/results/:

    python benchmarks/report.py

A number is there only if its line is. WANTED is what the document promises: a row of it without a line says so.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "speed.jsonl"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
ATTENTION = ROOT / "benchmarks" / "results" / "attention.jsonl"
CONVOLUTION = ROOT / "benchmarks" / "results" / "convolution.jsonl"
START = ROOT / "benchmarks" / "results" / "compile_time.jsonl"
EDITS = ROOT / "benchmarks" / "results" / "edits.jsonl"
RECOGNITION = ROOT / "benchmarks" / "results" / "recognition.jsonl"
FIRST_PATHS = ROOT / "benchmarks" / "results" / "first_paths.jsonl"
HEADER = (
    "",
    "batch",
    "dtype",
    "hardware",
    "ldm_jax",
    "PyTorch",
    "way",
    "ldm_jax : PyTorch",
    "MFU",
    "times the floor",
)


class Row(NamedTuple):
    """hardware: 'cpu', or a GPU's name."""

    question: str
    model: str
    batch_size: int
    hardware: str


H200 = "NVIDIA H200"
WANTED = (
    Row("forward", "small", 4, "cpu"),
    Row("gradients", "small", 4, "cpu"),
    Row("train_step", "small", 4, "cpu"),
    Row("train_step", "shapes", 32, "cpu"),
    Row("sampling", "sd1", 1, H200),
    Row("sampling", "sd1", 4, H200),
    Row("sampling", "sd1", 16, H200),
    Row("sampling", "sdxl", 1, H200),
    Row("train_step", "sd1", 16, H200),
    Row("sampling", "ldm4", 16, H200),
)


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, results: list[dict[str, Any]]) -> None:
    """Adds JSON lines to a file of results, for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for result in results:
            file.write(json.dumps(result) + "\n")
        file.flush()
        os.fsync(file.fileno())


def row_of(line: Mapping[str, Any]) -> Row:
    return Row(line["question"], line["model"], line["batch_size"], line["hardware"]["kind"])


def runs(lines: Iterable[Mapping[str, Any]]) -> dict[tuple, dict[str, Mapping[str, Any]]]:
    """{(row, dtype, steps, way of PyTorch): {backend: line}}: only lines of one run stand side by side; of several runs
    the last."""
    by_run: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        by_run.setdefault(line["run"], {})[line["backend"]] = line
    found = {}
    for sides in by_run.values():
        one = next(iter(sides.values()))
        way = sides["torch"]["torch"] if "torch" in sides else ""
        found[row_of(one), one["dtype"], one.get("steps"), way] = sides
    return found


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """In markdown: the rows of WANTED in their order, measured or not, then what else was measured; no tiny model."""
    measured = {key: sides for key, sides in runs(lines).items() if not key[0].model.startswith("tiny")}
    out = [HEADER, ("---",) * len(HEADER)]
    for row in WANTED:
        here = [cells(key, sides) for key, sides in measured.items() if key[0] == row]
        out += [line for lines in here for line in lines] or [not_measured(row)]
    for key, sides in measured.items():
        if key[0] not in WANTED:
            out += cells(key, sides)
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def label(row: Row, steps: int | None = None) -> str:
    return f"{row.model}, {row.question.replace('_', ' ')}" + (f", {steps} steps" if steps else "")


def not_measured(row: Row) -> tuple[str, ...]:
    said = "not measured" if row.hardware == "cpu" else "not measured: no device"
    return (label(row), str(row.batch_size), "", row.hardware, said, *[""] * 5)


def cells(key: tuple, sides: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One line of the table; of first_image two, without and with compiled programs on disk."""
    row, dtype, steps, way = key
    ours, theirs = (sides.get(backend) for backend in ("jax", "torch"))
    hardware = next(iter(sides.values()))["hardware"]
    where = row.hardware if row.hardware != "cpu" else f"{hardware['cores']} cores of {hardware['cpu']}"
    states = ("cold", "warm") if row.question == "first_image" else (None,)
    out = []
    for state in states:
        times = [
            None if one is None else one["seconds"][state] if state else one["seconds"]
            for one in (ours, theirs)
        ]
        name = label(row, steps) + (f", {state}" if state else "")
        ratio = "" if None in times else f"{times[0]['median'] / times[1]['median']:.2f}"
        part = [
            "" if one is None or name not in one else form.format(one[name])
            for one, name, form in ((ours, "mfu", "{:.0%}"), (ours, "times_floor", "{:.1f}"))
        ]
        out.append((name, str(row.batch_size), dtype, where, *map(spread, times), way, ratio, *part))
    return out


def spread(times: Mapping[str, float] | None) -> str:
    """'276 ms (270 to 290)': the median, the least and the most; seconds from ten on."""
    if times is None:
        return ""
    unit, scale = ("s", 1.0) if times["median"] >= 10 else ("ms", 1e3)
    median, least, most = (times[k] * scale for k in ("median", "min", "max"))
    digits = 1 if median < 100 else 0
    return f"{median:,.{digits}f} {unit} ({least:,.{digits}f} to {most:,.{digits}f})"


def attention_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/attention.py's lines, the last of each shape: plain XLA beside what `attend` takes, in
    milliseconds."""
    last = {(*line["shape"], line["num_keys"], line["dtype"], line["device"]): line for line in lines}
    out = [
        (
            "examples",
            "queries",
            "heads x channels",
            "keys",
            "device",
            "plain",
            "attend",
            "plain, gradients",
            "attend, gradients",
        )
    ]
    out.append(("---",) * len(out[0]))
    for (examples, queries, heads, channels, keys, dtype, device), line in last.items():
        times = [
            f"{line['milliseconds'][way][kind]:,.1f} ms"
            for kind in ("forward", "gradients")
            for way in ("plain", "attend")
        ]
        cores = f"{line['cores']} cores" if device == "cpu" else device
        out.append(
            (str(examples), str(queries), f"{heads} x {channels}", str(keys), f"{cores}, {dtype}", *times)
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def convolution_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/convolution.py's lines, the last of each shape, in milliseconds."""
    out = [
        "| examples | cells | channels | kernel | stride | jax | jax, in a loop | here | here, in a loop |"
    ]
    out.append("| --- " * 9 + "|")
    for shape, line in {tuple(line["shape"]): line for line in lines}.items():
        examples, side, channels, features, size, stride = shape
        times = [
            f"{line['milliseconds'][way][kind]:,.1f} ms"
            for way in ("derived", "convolve")
            for kind in ("alone", "loop")
        ]
        row = (examples, f"{side} x {side}", f"{channels} to {features}", f"{size} x {size}", stride, *times)
        out.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(out)


def start_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/compile_time.py's lines, the last of each kind: seconds that this process's processors took for the
    sampler."""
    last = {
        (line["config"], line["batch_size"], line["device"], line.get("devices", 1)): line for line in lines
    }
    out = [("", "batch", "device", "trace", "lower", "lines", "compile")]
    out.append(("---",) * len(out[0]))
    for (config, batch_size, device, number), line in last.items():
        found = line["sampler"]
        where = f"{line['cores']} cores" if device == "cpu" else device
        where = where if number == 1 else f"{number} devices of {where}"
        seconds = [
            f"{found[stage]['cpu']:.1f} s" if stage in found else ""
            for stage in ("trace", "lower", "compile")
        ]
        out.append((config, str(batch_size), where, *seconds[:2], f"{found['lines']:,}", seconds[2]))
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def edits_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/edits.py's lines, the last of each method and model: temporaries beside those of plain sampling."""
    last = {(line["model"], line["method"]): line for line in lines}
    out = [("method", "model", "rows", "temporaries", "plain sampling", "ratio")]
    out.append(("---",) * len(out[0]))
    for key, line in sorted(last.items()):
        sizes = (f"{line[name] / 1e6:,.0f} MB" for name in ("temporaries", "plain"))
        out.append((key[1], key[0], str(line["rows"]), *sizes, f"{line['ratio']:.2f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def recognition_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/recognition.py's lines, the last of each method and model: its temporaries and its seconds."""
    last = {(line["method"], line["model"], "temporaries" in line): line for line in lines}
    models = sorted({model for _, model, counts in last if counts}, reverse=True)
    out = [("method", *(f"temporaries, {model}" for model in models), "seconds a picture, shapes", "with")]
    out.append(("---",) * len(out[0]))
    for method in dict.fromkeys(method for method, _, _ in last):
        sizes = [last.get((method, model, True)) for model in models]
        took = next((line for (name, _, counts), line in last.items() if name == method and not counts), None)
        said = ", ".join(f"{k} {v}" for k, v in took["options"].items()) if took else ""
        cells = ["–" if one is None else f"{one['temporaries'] / 1e6:,.0f} MB" for one in sizes]
        out.append((method, *cells, "–" if took is None else f"{took['per_picture']:.2f}", said))
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def paths_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Of benchmarks/first_paths.py's lines, the last of each path: seconds of each command; – is not measured yet."""
    from benchmarks.first_paths import PATHS

    last = {line["path"]: {one["command"]: one for one in line["commands"]} for line in lines}
    out = [("from", "command", "seconds", "of processors"), ("---",) * 4]
    for name, commands in PATHS.items():
        for i, command in enumerate(commands):
            one = last.get(name, {}).get(command)
            took = (f"{one[key]:.0f}" if one and key in one else "–" for key in ("wall", "cpu"))
            out.append(("" if i else name, f"`{command}`", *took))
    return "\n".join(f"| {' | '.join(line)} |" for line in out)


def put(document: Path, name: str, content: str) -> None:
    """Content where a document has the place for the table `name`. Raises: ValueError if it has none."""
    from ldm_jax import atomic

    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, start, rest = document.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not (start and end):
        raise ValueError(f"{document} has no place for the table, between {first} and {last}")
    atomic.write_text(document, f"{before}{first}\n{content}\n{last}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from benchmarks import tpu_cost

    put(DOCUMENT, "speed", table(read()))
    put(DOCUMENT, "attention", attention_table(read(ATTENTION)))
    put(DOCUMENT, "convolution", convolution_table(read(CONVOLUTION)))
    put(DOCUMENT, "compile_time", start_table(read(START)))
    put(DOCUMENT, "first_paths", paths_table(read(FIRST_PATHS)))
    put(DOCUMENT, "edits", edits_table(read(EDITS)))
    put(ROOT / "docs" / "recognition.md", "recognition", recognition_table(read(RECOGNITION)))
    tpu_cost.write_table(tpu_cost.read_results())


if __name__ == "__main__":
    main()
