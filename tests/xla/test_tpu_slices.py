import importlib.util

import pytest

from ldm_jax.xla import topology
from ldm_jax.xla.tpu_slices import CHIPS, GIB, Slice, find_slice


@pytest.mark.parametrize(
    "name, slice_, chips",
    [
        ("v5e:4x4", "v5e:4x4", 16),
        ("v5e-16", "v5e:4x4", 16),
        ("v5litepod-256", "v5e:16x16", 256),
        ("V6E:2x4", "v6e:2x4", 8),
        ("v4-8", "v4:2x2x1", 4),  # v4 and v5p are named by cores
        ("v5p-64", "v5p:2x4x4", 32),
        ("2xv5e:4x4", "2xv5e:4x4", 32),
        ("4xv5litepod-256", "4xv5e:16x16", 1024),
    ],
)
def test_names_of_slices(name, slice_, chips):
    found = find_slice(name)
    assert (found.name, found.num_chips) == (slice_, chips)


@pytest.mark.parametrize("name", ["v5e:3x3", "v9:2x2", "v5e", "banana", "", "0xv5e:4x4", "2xv5e:3x3"])
def test_an_unknown_slice_lists_those_there_are(name):
    with pytest.raises(
        ValueError, match="does not exist; there are v4:2x2x1, .*; v5e:1x1, 2x2, .*16x16; v5p:"
    ) as e:
        find_slice(name)
    assert "\n" not in str(e.value)


def test_memory_is_what_the_pages_say_but_for_what_is_reserved():
    nominal = dict(v4=32, v5e=16, v5p=96, v6e=32)
    for name, chip in CHIPS.items():
        assert 0.95 * nominal[name] < chip.hbm / GIB < nominal[name]


@pytest.mark.parametrize(
    "name, links",
    [
        ("v5e:1x1", 0),
        ("v5e:2x2", 2),
        ("v5e:4x4", 2),
        ("v5e:8x16", 3),
        ("v5e:16x16", 4),
        ("v5p:2x4x4", 3),
        ("v4:4x4x4", 6),
    ],
)
def test_links_of_the_worst_placed_chip(name, links):
    slice_ = find_slice(name)
    assert slice_.interconnect == links * slice_.chip.link_bandwidth


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("generation", CHIPS)
def test_libtpu_knows_the_slices(generation):
    for shape in (CHIPS[generation].shapes[0], CHIPS[generation].shapes[3], CHIPS[generation].shapes[7]):
        slice_, devices = topology.open_slice(f"{generation}:{shape}")
        assert len(devices) == slice_.num_chips == Slice(generation, slice_.shape).num_chips
