"""The small UNet costs what benchmarks/results/cost_guard.json says, by XLA's own count; about half a minute of
compiling."""

import json
import platform

import jax
import jaxlib
import pytest

from benchmarks import cost_guard


def expected() -> dict:
    return json.loads(cost_guard.TABLE.read_text())


def test_the_small_unet_costs_what_the_table_says():
    here = dict(jax=jax.__version__, jaxlib=jaxlib.__version__, machine=platform.machine())
    if reason := cost_guard.incomparable(here, expected()):
        pytest.skip(reason)
    said = cost_guard.complaints(cost_guard.measure(), expected())
    assert not said, "; ".join(said)


def test_what_is_dearer_or_cheaper_is_named():
    table = expected()
    assert cost_guard.complaints(table, table) == []
    forward = table["forward"]
    near = table | dict(forward=forward | dict(bytes=int(forward["bytes"] * 1.02)))
    assert cost_guard.complaints(near, table) == []
    for factor in (1.05, 0.95):
        got = table | dict(forward=forward | dict(bytes=int(forward["bytes"] * factor)))
        (said,) = cost_guard.complaints(got, table)
        assert "bytes of the small UNet's forward" in said and cost_guard.REWRITE in said
        assert f"{forward['bytes']:,}" in said and f"{int(forward['bytes'] * factor):,}" in said


def test_a_table_of_another_jax_or_machine_says_nothing():
    table = expected()
    here = {name: table[name] for name in ("jax", "jaxlib", "machine")}
    assert cost_guard.incomparable(here, table) is None
    assert "0.0.1" in cost_guard.incomparable(here | dict(jax="0.0.1"), table)
    assert "riscv" in cost_guard.incomparable(here | dict(machine="riscv"), table)
