"""Counted work of a run with caching: the mean of what its whole and its shallow steps cost, each counted by itself."""

import json

import jax.numpy as jnp
import pytest

from benchmarks import faster
from ldm_jax.editing.feature_caching import Trunk
from ldm_jax.models.unet import apply_unet
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from ldm_jax.xla import flops
from tests.inference.test_pipeline import CONFIG


def test_what_is_left_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(faster, "load_config", lambda name: CONFIG)
    monkeypatch.setattr(faster, "WAYS", ({}, {"cache": {"interval": 3}}))
    faster.main(["--config", "configs/tiny.py", "--steps", "5", "--results", str(tmp_path / "lines.jsonl")])
    plain, cached = map(json.loads, capsys.readouterr().out.splitlines())
    assert json.loads((tmp_path / "lines.jsonl").read_text().splitlines()[1]) == cached
    assert plain["share"] == 1 and cached["share"] == cached["flops"] / plain["flops"]

    system = make_system(CONFIG)
    params = system.param_shapes()["unet"]
    x = jnp.zeros((2, 4, 4, 2))  # with and without the condition

    def call(control):
        cond = Cond(context=jnp.zeros((2, 6, 8)))
        answer = lambda params: apply_unet(system.unet, params, x, jnp.zeros(2, jnp.int32), cond, control)[0]  # noqa: E731
        return flops.count(answer, params)

    whole, shallow = call(None), call(Trunk(jnp.zeros((2, 4, 4, 8)), "up_0.trunk_1"))
    saved = plain["flops"] - cached["flops"]
    assert saved == pytest.approx(3 * (whole - shallow))  # 2 of 5 steps are whole
    assert saved > 0
    assert faster.table([plain, cached]).count("tiny") == 2
