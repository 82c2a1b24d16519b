"""What `pip install` gives away from a checkout: the package, its configs inside of it, its data, its commands; nothing
beside it.

python -m pytest -n 0 -m slow tests/test_wheel.py
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ("ldm_jax", "configs", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
LOAD = """
import importlib.util, os, sys
import ldm_jax
from ldm_jax.commands.config_flag import read_config
from ldm_jax.config import config_names, load_config
assert os.getcwd() not in ldm_jax.__file__ and importlib.util.find_spec("configs") is None
for name in config_names():
    assert load_config(name)["task"] in ("diffusion", "first_stage", "classifier"), name
assert read_config(["--config", "shapes_text:runlocal", "--config.model.channel_mult=1,2"])["total_steps"] == 2
print(len(config_names()), ldm_jax.load.__module__, ldm_jax.LatentDiffusion.__name__)
"""


def run(*command, cwd: pathlib.Path, **environment) -> str:
    known = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=known | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel of the source distribution of this checkout; a copy, since building leaves folders behind."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run("-c", SDIST, folder, cwd=source)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "sdist", filter="data")
    unpacked = next((folder / "sdist").iterdir())
    run("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", folder, cwd=unpacked)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_configs_and_nothing_beside(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if "/__pycache__/" not in name}
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entries).decode()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ldm_jax"}
    expected = {
        f"ldm_jax/{path.relative_to(ROOT / 'ldm_jax').as_posix()}"
        for path in (ROOT / "ldm_jax").rglob("*.py")
    }
    expected |= {f"ldm_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "ldm_jax" / "shipped").glob("*/*")}
    assert {name for name in names if name.startswith("ldm_jax/")} == expected | {"ldm_jax/py.typed"}
    for command in (
        "ldm-train",
        "ldm-sample",
        "ldm-evaluate",
        "ldm-convert",
        "ldm-protocol",
        "ldm-sweep",
        "ldm-precompute-latents",
    ):
        assert f"{command} = ldm_jax.commands." in commands


@pytest.mark.slow
def test_an_installed_package_finds_its_configs_from_anywhere(wheel, tmp_path):
    installed, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    said = run("-c", LOAD, cwd=elsewhere, PYTHONPATH=str(installed))
    number = len(list((ROOT / "configs").glob("*.py"))) - 2
    assert said.split() == [str(number), "ldm_jax.inference.pipeline", "LatentDiffusion"]
