"""`import ldm_jax` offers what its docstring says, with the signatures of what it stands for, and costs nothing before
that."""

import inspect
import subprocess
import sys

import pytest

import ldm_jax
from ldm_jax.inference import pipeline


def test_what_it_offers_is_the_pipelines():
    assert ldm_jax.LatentDiffusion is pipeline.LatentDiffusion and ldm_jax.load is pipeline.load
    assert set(ldm_jax.__all__) <= set(dir(ldm_jax))
    assert list(inspect.signature(ldm_jax.load).parameters)[0] == "name"


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(AttributeError, match="no attribute 'laod'; it has: LatentDiffusion, load"):
        ldm_jax.laod  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys; before = set(sys.modules); import ldm_jax; print(*set(sys.modules) - before)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.partition(".")[0] for name in found} - sys.stdlib_module_names == {"ldm_jax"}
