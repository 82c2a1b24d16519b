"""Every file of configs/: it builds, its shapes fit together, and it says what it must in its docstring."""

import importlib.util
import pathlib

import jax
import pytest

import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def get(path: pathlib.Path, arg: str = "") -> dict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert all(word in module.__doc__ for word in ("Run:", "Smoke:", "Source:")), path
    return module.get_config(*([arg] if arg else [])).to_dict()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shapes_and_counts_resolve(path, monkeypatch):
    config = get(path, "runlocal")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    resolved = train.dry_run(config)
    assert all(n > 0 for n in resolved["parameters"].values())
    assert set(get(path)) - set(config) <= {"first_stage", "first_stage_from"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_unknown_argument_is_refused(path):
    with pytest.raises(ValueError, match="runlocal"):
        get(path, "nonsense")
