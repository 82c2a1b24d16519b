"""The rooms, and who may import whom: docs/architecture.md, enforced.

`python tests/test_architecture.py` prints the figures of the structure: files in the root, rooms, floors, circles,
arrows back up.
"""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "ldm_jax").rglob("*.py"))
# Loose files of the package's root, the later may import the earlier.
LOOSE = (
    "__init__", "types", "find", "paths", "atomic", "private", "host_memory", "device_errors", "text_files", "cli",
    "grid", "params", "config", "first_stage", "system",
)  # fmt: skip
EVERYONE = {
    "types",
    "find",
    "paths",
    "atomic",
    "private",
    "host_memory",
    "device_errors",
    "cli",
    "grid",
    "params",
    "text_files",
    "__version__",
}
PARTS = {
    "models", "conditioning", "samplers", "guidance", "inversion", "editing", "recognition", "personalization",
    "convert",
    "data", "diffusion", "control", "shapes_world", "distributed", "xla",
}  # fmt: skip
SYSTEM = {"config", "first_stage", "system"}
ROOMS = {  # room: what it may import, besides itself and EVERYONE
    # ground
    "control": set(),
    "diffusion": set(),
    "shapes_world": set(),
    "distributed": set(),
    "data": {"shapes_world"},
    # parts
    "samplers": {"diffusion", "control"},
    "guidance": {"diffusion", "samplers", "control"},
    "inversion": {"diffusion", "samplers", "guidance", "control"},
    "editing": {"diffusion", "samplers", "guidance", "control"},
    "recognition": {"diffusion", "control"},
    "models": {"control"},
    "conditioning": {"models", "config"},
    "personalization": {"control", "models"},
    "convert": {"config"},
    "metrics": {"models", "data", "shapes_world"},
    "xla": {"models", "distributed"},
    # the root, which is what the parts make together
    "config": set(),
    "first_stage": {"config", "models"},
    "system": {"config", "first_stage", "models", "conditioning", "diffusion"},
    # uses
    "checkpoints": SYSTEM | {"convert", "conditioning", "diffusion", "distributed", "personalization"},
    "tasks": {"conditioning", "data"},
    "inference": SYSTEM | PARTS | {"checkpoints"},
    "training": SYSTEM | PARTS | {"checkpoints", "tasks", "inference"},
    "evaluation": SYSTEM | PARTS | {"checkpoints", "tasks", "inference", "training", "metrics"},
    "web": {"data", "personalization", "checkpoints", "tasks", "inference"},
    "commands": SYSTEM
    | PARTS
    | {"checkpoints", "tasks", "inference", "training", "evaluation", "metrics", "web"},
}
PURE = ("diffusion", "samplers", "guidance", "inversion", "editing", "recognition")


@functools.cache
def imported(path: pathlib.Path) -> frozenset[str]:
    """Every module that a file imports, at any depth of nesting, with names imported from a package spelled out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(found)


def room_of(path: pathlib.Path) -> str:
    """The folder of the package that a file lies in; a loose file is a room of its own."""
    parts = path.relative_to(ROOT / "ldm_jax").with_suffix("").parts
    return parts[0]


def neighbors(path: pathlib.Path) -> set[pathlib.Path]:
    """The files of this package that a file imports."""
    found = set()
    for module in imported(path):
        file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        if module.startswith("ldm_jax.") and file.is_file():
            found.add(file)
    return found


def circles(arrows: dict) -> list[list]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in arrows.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in arrows:
        if node not in index:
            visit(node)
    return found


def arrows_of_rooms() -> dict[str, set[str]]:
    """{room: the rooms that its files import}."""
    found = {}
    for path in FILES:
        found.setdefault(room_of(path), set()).update(
            room_of(other) for other in neighbors(path) if room_of(other) != room_of(path)
        )
    return found


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """{room: 1 more than the highest room that it imports, 0 for one that imports none}; arrows without a circle."""
    floor = functools.cache(lambda room: max((floor(other) + 1 for other in arrows.get(room, ())), default=0))
    return {room: floor(room) for room in arrows}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    room = room_of(path)
    if room == "__init__":  # the face of the package, which imports what it offers when that is asked for
        return
    assert room in set(ROOMS) | EVERYONE, (
        f"{room} is new: give it its place in docs/architecture.md and in this table"
    )
    allowed = ROOMS.get(room, set()) | EVERYONE | {room}
    for module in imported(path):
        if module.startswith("ldm_jax."):
            target = module.split(".")[1]
            assert target in allowed, f"{path.relative_to(ROOT)} imports {module}"
        if room in PURE:
            assert not module.startswith("flax.linen") and module != "flax.nnx", (
                f"{path.name} is pure, and imports {module}"
            )


def test_the_root_holds_few_files():
    assert {path.stem for path in (ROOT / "ldm_jax").glob("*.py")} == set(LOOSE)


def test_no_circle_of_files_or_rooms():
    assert circles({path: neighbors(path) for path in FILES}) == []
    assert circles(arrows_of_rooms()) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_arrow_of_the_table_points_down():
    assert circles({room: set(targets) for room, targets in ROOMS.items()}) == []


def test_methods_see_of_the_samplers_the_seam_alone():
    for path in FILES:
        if room_of(path) in ("inversion", "editing", "recognition", "guidance"):
            inside = {m for m in imported(path) if m.startswith("ldm_jax.samplers.")}
            assert all(m.startswith("ldm_jax.samplers.base") for m in inside), f"{path.name} imports {inside}"


def test_nothing_inside_imports_the_scripts_or_configs():
    for path in FILES:
        outside = {m.split(".")[0] for m in imported(path)} & {
            "train",
            "sample",
            "configs",
            "tests",
            "benchmarks",
        }
        assert not outside, f"{path} imports {outside}"


def test_no_drawer_for_odds_and_ends():
    assert not [p for p in FILES if p.stem in ("utils", "util", "helpers", "common", "misc")]


def test_files_and_functions_can_be_held_in_the_head():
    for path in [*FILES, ROOT / "train.py", ROOT / "sample.py"]:
        text = path.read_text()
        assert len(text.splitlines()) <= 500, f"{path} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"


def test_jobs_know_no_model():
    code = "import sys, ldm_jax.tasks.jobs; assert not {'ldm_jax.models', 'ldm_jax.conditioning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_package_brings_no_tensorflow_and_no_torch():
    code = (
        "import sys, ldm_jax; assert not {'jax', 'flax', 'numpy'} & set(sys.modules); "
        "import ldm_jax.commands.sample, ldm_jax.inference.pipeline, ldm_jax.inference.exported; "
        "assert 'scipy.ndimage' not in sys.modules; "
        "import ldm_jax.commands.evaluate; "
        "bad = {'tensorflow', 'tensorflow_datasets', 'torch', 'transformers', 'clu', 'orbax'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


if __name__ == "__main__":
    rooms = arrows_of_rooms()
    found = circles(rooms)
    allowed = {room: ROOMS.get(room, set()) | EVERYONE for room in rooms}
    up = [(a, b) for a, others in rooms.items() for b in others if a != "__init__" and b not in allowed[a]]
    print(f"files in the root: {sum(1 for _ in (ROOT / 'ldm_jax').glob('*.py'))}")
    print(f"rooms: {len(rooms)}, arrows between them: {sum(map(len, rooms.values()))}")
    print(
        f"circles of files: {len(circles({path: neighbors(path) for path in FILES}))}, of rooms: {len(found)}"
    )
    print(f"arrows that the table does not have: {len(up)} {sorted(up)}")
    if not found:
        print(f"floors: {max(floors(rooms).values()) + 1}")
