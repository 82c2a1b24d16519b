"""The rooms, and who may import whom: docs/architecture.md, enforced."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "ldm_jax").rglob("*.py"))
EVERYONE = {"types", "control", "atomic"}
ROOMS = {  # room: the rooms that it may import from, besides itself and EVERYONE
    "diffusion": set(),
    "samplers": {"diffusion"},
    "guidance": {"diffusion"},
    "editing": {"diffusion", "samplers", "guidance"},
    "analysis": set(),
    "models": set(),
    "conditioning": {"models"},
    "data": set(),
    "training": {"diffusion", "models"},
    "evaluation": {"models", "data"},
    "convert": set(),
}
PURE = ("diffusion", "samplers", "guidance", "editing", "analysis")


def imported(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, at any depth of nesting, with names imported from a package spelled out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room_of(path: pathlib.Path) -> str:
    """'' for what stands above the rooms: the modules of the package itself, and the commands (`python -m ldm_jax.convert`)."""
    parts = path.relative_to(ROOT / "ldm_jax").parts
    return parts[0] if len(parts) > 1 and path.name != "__main__.py" else ""


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    room = room_of(path)
    assert room in ROOMS, f"{room} is a new room: give it its place in docs/architecture.md and in this table"
    for module in imported(path):
        if module.startswith("ldm_jax."):
            target = module.split(".")[1]
            assert target == room or target in ROOMS[room] | EVERYONE, f"{path.name} imports {module}"
        if room in PURE:
            assert not module.startswith("flax.linen") and module != "flax.nnx", (
                f"{path.name} is pure, and imports {module}"
            )


def test_editing_sees_of_the_samplers_the_seam_alone():
    for path in FILES:
        if room_of(path) in ("editing", "analysis"):
            inside = {m for m in imported(path) if m.startswith("ldm_jax.samplers.")}
            assert all(m.startswith("ldm_jax.samplers.base") for m in inside), f"{path.name} imports {inside}"


def test_nothing_inside_imports_the_scripts_or_configs():
    for path in FILES:
        outside = {m.split(".")[0] for m in imported(path)} & {"train", "sample", "configs", "tests"}
        assert not outside, f"{path} imports {outside}"


def test_no_drawer_for_odds_and_ends():
    assert not [p for p in FILES if p.stem in ("utils", "util", "helpers", "common", "misc")]


def test_files_and_functions_can_be_held_in_the_head():
    for path in [*FILES, ROOT / "train.py", ROOT / "sample.py"]:
        text = path.read_text()
        assert len(text.splitlines()) <= 500, f"{path} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 90, f"{path.name}: {node.name}"


def test_jobs_know_no_model():
    code = (
        "import sys, ldm_jax.jobs; assert not {'ldm_jax.models', 'ldm_jax.conditioning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_package_brings_no_tensorflow_and_no_torch():
    code = (
        "import sys, ldm_jax; assert not {'jax', 'flax', 'numpy'} & set(sys.modules); "
        "import sample, ldm_jax.pipeline, ldm_jax.exported_sampler; assert 'scipy.ndimage' not in sys.modules; "
        "import ldm_jax.evaluate; "
        "bad = {'tensorflow', 'tensorflow_datasets', 'torch', 'transformers', 'clu', 'orbax'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
