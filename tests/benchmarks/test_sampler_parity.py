"""The comparison with diffusers' schedulers: a part of it here, the whole as slow."""

import pytest

from benchmarks import sampler_parity

pytest.importorskip("diffusers")

ALL = list(sampler_parity.cases())
# one way of choosing levels for each class and its options: the last, a sigma schedule where there is one
PART = list({(case.name, case.options): case for case in ALL}.values())


def label(case):
    return "-".join([case.name, *(str(v) for _, v in case.options), case.prediction, case.spacing, case.kind])


@pytest.mark.parametrize("case", PART, ids=label)
def test_a_trajectory_of_each_class(case):
    error, _ = sampler_parity.difference(case, 10)
    assert error < sampler_parity.LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=label)
def test_all_trajectories(case):
    """python -m pytest -n 0 -m slow tests/benchmarks/test_sampler_parity.py"""
    for num_steps in sampler_parity.COUNTS:
        error, _ = sampler_parity.difference(case, num_steps)
        assert error < sampler_parity.LIMIT, num_steps


def test_the_table_has_a_line_for_each_way_of_choosing_levels():
    case = sampler_parity.Case("EulerDiscreteScheduler", (), "epsilon", "leading", "karras")
    table = sampler_parity.table({case: [(1e-7, 0.02), (3e-6, 0.0)]})
    assert table.splitlines()[-1] == "| EulerDiscrete | leading | karras | 3.0e-06 | 0.02 |"
