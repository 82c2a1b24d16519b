"""How often samplers call the network, and what is made of the lines that were measured."""

import collections

import jax
import jax.numpy as jnp
import pytest

from benchmarks import report, sampler_quality
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.find import find
from ldm_jax.samplers.base import sample
from tests.samplers.gaussian import SCHEDULE, eps_fn


@pytest.mark.parametrize("name", sampler_quality.samplers())
def test_how_often_a_sampler_calls_the_network(name):
    calls = collections.Counter()

    def counted(x, t, control=None):
        jax.debug.callback(lambda: calls.update([name]))
        return eps_fn()(x, t)

    made, steps = find("samplers", name).sampler(SCHEDULE), make_timesteps("uniform", 1000, 4)
    jax.jit(lambda x: sample(counted, made, x, steps, jax.random.key(0))[0])(jnp.ones((1, 1)))
    jax.effects_barrier()
    assert calls[name] == sampler_quality.evaluations(name, 4)


LINE = dict(
    fingerprint="f", sampler="ddim", steps=5, num_images=64, guidance_scale=3.0, evaluations=5, shapes_fid=9.5,
    accuracy=0.5,
)  # fmt: skip


def test_the_table_is_of_the_model_that_was_measured_last(tmp_path, monkeypatch):
    lines = [
        LINE | {"fingerprint": "earlier", "shapes_fid": 1.0},
        LINE,
        LINE | {"sampler": "heun", "steps": 10, "evaluations": 19, "accuracy": 0.25},
    ]
    assert sampler_quality.latest(lines) == lines[1:]
    table = sampler_quality.markdown(lines[1:]).splitlines()
    assert table == [
        "| sampler | 5 steps | 10 steps |",
        "|---|---|---|",
        "| `ddim` | 9.5, 50% |  |",
        "| `heun` |  | 9.5, 25% |",
    ]
    document = tmp_path / "samplers.md"
    document.write_text("<!-- sampler_quality: begin -->\nx\n<!-- sampler_quality: end -->\n")
    monkeypatch.setattr(report, "read", lambda path: lines)
    sampler_quality.report(document)
    assert "| `heun` |" in document.read_text() and "\nx\n" not in document.read_text()
    assert (tmp_path / "sampler_shapes_fid.svg").read_text().startswith("<svg")
