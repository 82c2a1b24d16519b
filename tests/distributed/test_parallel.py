"""The same losses however a run is sharded: 1 device, pmap on 8, fsdp on 4 x 2, 2 processes of 4 devices over loopback,
and across restarts on other numbers of devices. The runs are tests/distributed/parallel_runs.py's.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ldm_jax.distributed import parallel
from tests.distributed.test_hosts import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STEPS = 20
STAGES = {
    "kl": ("total_loss", "disc_loss", "d_weight"),
    "diffusion": ("loss", "loss_vlb", "loss_gamma", "loss_alignment"),
}
MESH = {"data": 4, "replicate_below": 64}


def start(task: dict) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.distributed.parallel_runs", json.dumps(task)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def said(*tasks: dict) -> list[dict]:
    """What each process wrote, started together."""
    processes = [start(task) for task in tasks]
    errors = [p.communicate(timeout=900)[1] for p in processes]
    assert [p.returncode for p in processes] == [0] * len(tasks), errors
    return [
        json.loads((pathlib.Path(t["folder"]) / f"said_{t.get('process', 0)}.json").read_text())
        for t in tasks
    ]


def assert_same(expected: dict, got: dict, stage: str, every: int = 1) -> None:
    """Metrics of all steps to 1e-5. Adam divides by the size of a gradient, so what is rounding at one step is not at
    the next: the learning rate is small enough for 20 steps of that."""
    names = [*STAGES[stage], "gradient_norm", "param_norm", "update_ratio", "ema_distance"]
    if every == 1:  # of several steps at once only the last one's examples are in them
        names += [name for name in expected if name.startswith("loss_by_timestep/")]
    for name in names:
        values = expected[name][every - 1 :: every]
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


class Chip(NamedTuple):
    coords: tuple[int, ...]
    core_on_chip: int = 0


SQUARE = [Chip((x, y, 0)) for x in (2, 3) for y in (4, 5, 6)]


@pytest.mark.parametrize(
    ("rows", "sides"),
    [
        ([SQUARE], (2, 3)),
        ([sorted(SQUARE, key=lambda chip: chip.coords[::-1])], (3, 2)),
        ([SQUARE[:3], SQUARE[3:]], (3,)),
        ([SQUARE[:3], [SQUARE[i] for i in (0, 1, 3)]], (3,)),  # a corner is no box
        ([[SQUARE[i] for i in (0, 1, 2, 5, 4, 3)]], (6,)),  # nor is a snake
        ([[Chip((x, 0, 0), core) for x in range(4) for core in range(2)]], (4, 2)),
        ([SQUARE[:1]], (1,)),
        ([["cpu:0", "cpu:1"]], (2,)),
    ],
)
def test_the_sides_of_a_box_of_chips(rows, sides):
    assert parallel.sides_of({tuple(row) for row in rows}) == sides


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """Both stages on one device."""
    folder = tmp_path_factory.mktemp("alone")
    runs = [[stage, stage, "pmap", 1, None, 1] for stage in STAGES]
    return said(dict(folder=str(folder), devices=1, steps=STEPS, runs=runs))[0]


@pytest.mark.slow
def test_eight_devices_both_ways(alone, tmp_path):
    """python -m pytest -m slow tests/distributed/test_parallel.py"""
    runs = [[f"{stage} pmap", stage, "pmap", 8, None, 1] for stage in STAGES]
    runs += [[f"{stage} fsdp", stage, "fsdp", 8, MESH, 1] for stage in STAGES]
    runs += [["at once", "diffusion", "fsdp", 8, MESH, 4]]
    (found,) = said(dict(folder=str(tmp_path), devices=8, steps=STEPS, runs=runs))
    for stage in STAGES:
        assert_same(alone[stage], found[f"{stage} pmap"], stage)
        assert_same(alone[stage], found[f"{stage} fsdp"], stage)
        assert found[f"{stage} pmap"]["split"] == 0
        assert found[f"{stage} fsdp"]["split"] > 0.9
    assert_same(alone["diffusion"], found["at once"], "diffusion", every=4)


@pytest.mark.slow
def test_two_processes_both_ways(alone, tmp_path):
    """python -m pytest -m slow tests/distributed/test_parallel.py"""
    slices = {"slices": 2, "replicate_below": 64}  # the state is split in each process, and whole in both
    runs = [["kl", "kl", "pmap", 8, None, 1], ["diffusion", "diffusion", "fsdp", 8, MESH, 1]]
    runs += [["slices", "diffusion", "fsdp", 8, slices, 1]]
    task = dict(
        folder=str(tmp_path), devices=4, steps=STEPS, runs=runs, coordinator=f"127.0.0.1:{free_port()}"
    )
    first, second = said(*(dict(task, process=i) for i in range(2)))
    assert first == second
    for stage in STAGES:
        assert_same(alone[stage], first[stage], stage)
    assert_same(alone["diffusion"], first["slices"], "diffusion")
    assert first["slices"]["split"] > 0.9


@pytest.mark.slow
def test_eight_then_four_then_one_device(alone, tmp_path):
    """Each goes on from the other's checkpoint, in another way of sharding too."""
    task, losses = dict(folder=str(tmp_path), devices=8), []
    for steps, placement in ((8, ["fsdp", 8, MESH, 1]), (8, ["pmap", 4, None, 1]), (4, ["pmap", 1, None, 1])):
        (found,) = said(task | dict(steps=steps, runs=[["one", "diffusion", *placement]]))
        losses += found["one"]["loss"]
    np.testing.assert_allclose(losses, alone["diffusion"]["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((3, 3, 64, 128), PartitionSpec(None, None, None, "fsdp")),
        ((3, 3, 128, 64), PartitionSpec(None, None, "fsdp")),
        ((128, 128), PartitionSpec(None, "fsdp")),  # of equal ones the last
        ((130, 128), PartitionSpec(None, "fsdp")),  # the largest is not divided
        ((1030, 62), PartitionSpec()),  # none is
        ((64, 63), PartitionSpec()),  # small
        ((), PartitionSpec()),
    ],
)
def test_a_leaf_is_split_by_its_shape(shape, spec):
    assert parallel.split_by_shape(shape, 4, 64 * 64) == spec
    assert parallel.split_by_shape(shape, 1, 0) == PartitionSpec()


@pytest.mark.parametrize(
    "way, mesh, message",
    [
        ("zero", None, "config.parallelism 'zero' not found; there are: pmap, fsdp"),
        (
            "fsdp",
            {"model": 2},
            "config.mesh has no option 'model'; it has: data, fsdp, slices, replicate_below, reduce_dtype",
        ),
        ("fsdp", {"data": 0}, "config.mesh.data is 0, expected a whole number of at least 1"),
        ("fsdp", {"data": 3}, "data 3 times fsdp 1 is 3, expected the number of devices, 1"),
        ("pmap", {"data": 1}, "config.mesh is for parallelism 'fsdp'"),
        (
            "fsdp",
            {"reduce_dtype": "fp16"},
            "config.mesh.reduce_dtype is 'fp16', expected float32 or bfloat16",
        ),
        ("fsdp", {"slices": 2}, "config.mesh.slices is 2, and the devices lie in slices of 1"),
    ],
)
def test_what_cannot_be_laid_out_is_said(way, mesh, message):
    with pytest.raises(ValueError, match=message):
        parallel.make(way, mesh)


class Device(NamedTuple):
    """Of Cloud TPU, which says in which slice it lies."""

    id: int
    slice_index: int


def test_devices_lie_in_the_slices_that_they_say_or_that_are_asked_for():
    mixed = [Device(i, i % 2) for i in range(8)]
    assert [[d.id for d in group] for group in parallel.in_slices(mixed)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert parallel.in_slices(mixed, 2) == parallel.in_slices(mixed)
    plain = list(range(8))  # of hosts that say nothing
    assert parallel.in_slices(plain) == [plain]
    assert parallel.in_slices(plain, 4) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match="config.mesh.slices is 4, and the devices lie in slices of 4, 4"):
        parallel.in_slices(mixed, 4)
    with pytest.raises(ValueError, match="config.mesh.slices is 3, and the devices lie in slices of 8"):
        parallel.in_slices(plain, 3)
    with pytest.raises(ValueError, match="the devices lie in slices of 4, 3"):
        parallel.in_slices(mixed[:7])


def test_state_is_split_within_a_slice_and_batches_over_all():
    """On eight devices, in a process of its own."""
    code = """
import jax, numpy as np
from ldm_jax.distributed import parallel
placement = parallel.make("fsdp", {"slices": 2, "replicate_below": 1})
ids = np.vectorize(lambda d: d.id)(placement.mesh.devices)
assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]], ids
leaf = placement.place({"w": np.arange(32.0)})["w"]
parts = {s.device.id: s.data.tolist() for s in leaf.addressable_shards}
assert all(parts[i] == parts[i + 4] for i in range(4)) and len(parts[0]) == 8, parts
batch = placement.place_batch({"x": np.arange(16)})["x"]
assert sorted(s.data.tolist()[0] for s in batch.addressable_shards) == list(range(0, 16, 2))
assert parallel.make("fsdp", {"slices": 2, "data": 4}).mesh.shape == {"data": 4, "fsdp": 2}
try:
    parallel.make("fsdp", {"slices": 4, "data": 2})
except ValueError as error:
    print(error)
"""
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "data is 2 over 4 slices, expected a multiple of them: fsdp lies within a slice" in done.stdout


def test_placed_leaves_own_their_memory():
    """A donated buffer must not be the caller's array."""
    placement, given = parallel.make(), np.arange(1024.0, dtype=np.float32)
    placed = placement.place({"x": given})
    given[:] = -1
    np.testing.assert_array_equal(parallel.fetch(placed)["x"], np.arange(1024.0))


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(
        ValueError, match="batch_size 12 is not divided by the 8 devices; the nearest that is: 8 or 16"
    ):
        parallel.check_batch_size(12, 8)
