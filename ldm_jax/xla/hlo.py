"""Reading the text of a compiled XLA program: its loops, its memory traffic, and its collectives.

Decides what counts as one collective and how many bytes it moves. It knows the text alone: no chip, no time, no model.
Source: the grammar is XLA's (openxla.org/xla/operation_semantics); the bytes on the wire are those of ring algorithms
(Thakur, Rabenseifner and Gropp 2005).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
MEGASCALE = "xla_megascale_runtime"  # what moves data between slices
_BITS = {"pred": 8, "token": 0, "opaque": 0}
# Nothing is read or written by these: they name a value, or run a computation that is counted by itself.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
_CALLED = re.compile(
    r"\b(calls|body|condition|branch_computations|called_computations|true_computation|false_computation)="
    r"(?:\{([^}]*)\}|%?([\w.\-]+))"
)


class Instruction(NamedTuple):
    """name = type opcode(arguments)rest, each as in the text."""

    name: str
    type: str
    opcode: str
    arguments: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.arguments)


class Program(NamedTuple):
    """computations: by name, in the order of the text. entry: the name of the first to run. num_devices: that share
    it."""

    computations: dict[str, dict[str, Instruction]]
    entry: str
    num_devices: int


class Collective(NamedTuple):
    """count: how often it runs. size: bytes of the whole array, what a group of chips holds together: the result of an
    all-gather, else the operands. sent: bytes that each chip sends in a ring of its group."""

    kind: str
    count: int
    size: int
    sent: float


class Traffic(NamedTuple):
    """Bytes that instructions read and write: `once` with every loop's body taken once, as XLA's cost analysis does,
    `full` with the loops run to their ends, `main` those of `full` that lie in the chip's main memory. The rest lies in
    a memory of its cores, where XLA has put it: on a TPU's, S(1) in a layout."""

    once: int
    full: int
    main: int


def num_bytes(shape: str, main: bool = False) -> int:
    """Of the type of an HLO value, such as 'bf16[8,128]{1,0}' or a tuple of such; layouts and their padding do not
    count. main: of what lies in the chip's main memory alone."""
    total = 0
    for element, dims, layout in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^{}]*\})?", shape):
        if main and re.search(r"S\([1-9]\d*\)", layout):
            continue
        digits = re.search(r"\d+", element)
        bits = _BITS.get(element, int(digits[0]) if digits else 8)
        size = math.prod(int(d.lstrip("<=")) for d in dims.split(",") if d)
        total += -(-bits * size // 8)
    return total


def parse(text: str) -> Program:
    """The text of `Compiled.as_text()`. Raises: ValueError if it has no entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry, _num_devices(text))


def _num_devices(text: str) -> int:
    counts = [
        int(n) for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    ]
    return math.prod(counts)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" = ")
    is_root = name.startswith("ROOT ")
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode = rest.partition("(")[0]
    close = _closing(rest[len(opcode) :]) + len(opcode)
    arguments, rest = rest[len(opcode) + 1 : close], rest[close + 1 :]
    return Instruction(name.removeprefix("ROOT ").lstrip("%"), shape, opcode, arguments, rest, is_root)


def _closing(text: str) -> int:
    """Where the parenthesis closes that opens text."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text) - 1


# ---------------------------------------------------------------------------------------------------- what runs how
# often


def _called(instruction: Instruction) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, several, one in _CALLED.findall(instruction.rest):
        found.setdefault(kind, []).extend(re.findall(r"[\w.\-]+", several) if several else [one])
    return found


def runs(program: Program) -> dict[str, int]:
    """How often each computation runs, those inside of fusions too. A loop whose end the text does not tell counts as
    one."""
    counts: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        counts[name] = counts.get(name, 0) + times
        for instruction in program.computations.get(name, {}).values():
            trips = trip_count(program, instruction) if instruction.opcode == "while" else 1
            for kind, names in _called(instruction).items():
                for called in names:
                    visit(called, times * (trips if kind in ("body", "condition") else 1))

    visit(program.entry, 1)
    return counts


def trip_count(program: Program, loop: Instruction) -> int:
    """How often the body of a `while` runs: what XLA knows of it, or else the one whole number that its condition
    compares with."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    bounds = set()
    for name in _called(loop).get("condition", []):
        bounds |= set(_integers(program, name))
    return bounds.pop() if len(bounds) == 1 else 1


def _integers(program: Program, name: str) -> Iterator[int]:
    for instruction in program.computations.get(name, {}).values():
        if instruction.opcode == "constant" and re.match(r"[su]\d+\[\]", instruction.type):
            yield int(instruction.arguments)
        for names in _called(instruction).values():
            for called in names:
                yield from _integers(program, called)


def traffic(program: Program) -> Traffic:
    """Bytes of operands and results of all that runs outside of fusions; see Traffic. An estimate for the ratio of its
    two: an operand of which only a slice is read counts in full."""
    fused = _fused(program)
    once = full = main = 0
    for name, times in runs(program).items():
        if name in fused:
            continue
        table = program.computations.get(name, {})
        for instruction in table.values():
            if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
                continue
            size, in_main = (_read_and_written(instruction, table, main) for main in (False, True))
            once, full, main = once + size, full + size * times, main + in_main * times
    return Traffic(once, full, main)


def _read_and_written(instruction: Instruction, table: Mapping[str, Instruction], main: bool) -> int:
    """Bytes of an instruction's operands and results. A copy that is begun names its operand in its result, too, and
    reads as much of it as it writes."""
    if instruction.opcode not in ("copy-start", "slice-start"):
        return num_bytes(instruction.type, main) + _operand_bytes(instruction, table, main)
    arrays = re.findall(r"\b[a-z]\w*\[[\d,<=]*\](?:\{[^{}]*\})?", instruction.type)
    into, out_of = arrays[:2] if instruction.opcode == "copy-start" else arrays[1::-1]
    return num_bytes(into, main) + (num_bytes(into) if num_bytes(out_of, main) else 0)


def _fused(program: Program) -> set[str]:
    """Computations inside of fusions, whose values never leave the registers, and what reductions apply."""
    found: set[str] = set()
    for table in program.computations.values():
        for instruction in table.values():
            if instruction.opcode == "fusion":
                found |= set(_called(instruction).get("calls", []))
    return found


def _operand_bytes(instruction: Instruction, table: Mapping[str, Instruction], main: bool = False) -> int:
    return sum(num_bytes(table[name].type, main) for name in instruction.operands if name in table)


# ------------------------------------------------------------------------------------------------------------
# collectives


def collectives(program: Program) -> list[Collective]:
    """Every collective of the program. An asynchronous one counts where it starts; one that the TPU compiler has spread
    over several fusions, to run beside their work, stands in each of them on the same channel, and counts in the
    first."""
    found, seen, fused = [], set(), _fused(program)
    for name, times in runs(program).items():
        table = program.computations.get(name, {})
        for instruction in table.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = re.search(r"\bchannel_id=(\d+)", instruction.rest)
            if channel and name in fused:
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
            found.append(_collective(kind, instruction, table, times, program.num_devices))
    return found


def _collective(kind: str, instruction: Instruction, table: Mapping, times: int, devices: int) -> Collective:
    size, group = _operand_bytes(instruction, table), group_size(instruction.rest, devices)
    size *= group if kind == "all-gather" else 1
    if kind == "all-reduce" and _is_scattered(instruction, table):
        kind = "reduce-scatter"
    passes = {"all-reduce": 2 * (group - 1) / group, "collective-permute": 1.0}.get(kind, (group - 1) / group)
    return Collective(kind, times, size, size * passes)


def _is_scattered(instruction: Instruction, table: Mapping[str, Instruction]) -> bool:
    """Whether a fusion keeps its own slice of an all-reduce alone: how the TPU compiler writes a reduce-scatter."""
    root = next((i for i in table.values() if i.is_root), None)
    return root is not None and root.opcode == "dynamic-slice" and instruction.name in root.operands


def group_size(rest: str, devices: int) -> int:
    """Chips in a group, of the `replica_groups` of a collective: lists, an iota, or axes of a mesh; none of them is
    all."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in named)
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest)
    if iota:
        return int(iota[2])
    lists = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(lists[1].split(",")) if lists else devices


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """{kind: {'count', 'bytes', 'sent_bytes'}} of those kinds that occur: how often, of what size, sent by each
    chip."""
    out: dict[str, dict[str, int]] = {}
    for one in found:
        row = out.setdefault(one.kind, dict(count=0, bytes=0, sent_bytes=0))
        row["count"] += one.count
        row["bytes"] += one.count * one.size
        row["sent_bytes"] += round(one.count * one.sent)
    return {kind: out[kind] for kind in KINDS if kind in out}


def between_slices(program: Program) -> int:
    """Bytes that each chip sends to chips of other slices. The TPU compiler sums over all slices in parts: within a
    slice by collectives, which `collectives` has, and between slices through the hosts, by a runtime of its own."""
    total = 0
    for name, times in runs(program).items():
        table = program.computations.get(name, {})
        for instruction in table.values():
            if instruction.opcode == "send" and MEGASCALE in instruction.rest:
                total += times * num_bytes(table[instruction.operands[0]].type)
    return total
