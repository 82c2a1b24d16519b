"""What is saved is the state at the time of saving, and is given back in any layout; half a checkpoint is none."""

import json
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import train_state
from ldm_jax.distributed import parallel
from tests.distributed.test_hosts import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def test_a_state_may_be_donated_while_it_is_being_saved(tmp_path):
    """Orbax writes in the background, and on a CPU from the very memory that the next step is given to write to."""
    placement = parallel.make()
    step = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    state = step(placement.place({"x": np.zeros((1024, 4096), np.float32)}))
    checkpoints = train_state.manager(tmp_path)
    train_state.save(checkpoints, 1, state)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait_until_finished()
    like = placement.abstract({"x": jnp.zeros((1024, 4096))})
    restored, at = train_state.restore(checkpoints, like)
    checkpoints.close()
    assert at == 1
    np.testing.assert_array_equal(restored["x"], 1.0)
    np.testing.assert_array_equal(state["x"], 21.0)


def test_a_reader_changes_nothing(tmp_path):
    placement = parallel.make()
    checkpoints = train_state.manager(tmp_path)
    train_state.save(checkpoints, 3, placement.place({"x": np.arange(3.0)}), wait=True)
    checkpoints.close()
    reader = train_state.manager(tmp_path, only_reading=True)
    state, step = train_state.restore(reader)
    reader.close()
    assert step == 3
    np.testing.assert_array_equal(state["x"], np.arange(3.0))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """Two checkpoints, 3 and 6, of a state whose numbers say the step."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints, placement = train_state.manager(folder), parallel.make()
    rng = np.random.default_rng(0)
    for step in (3, 6):
        state = {"step": np.int32(step), "params": {"x": rng.normal(size=(64, 64)) + step, "y": np.zeros(3)}}
        train_state.save(checkpoints, step, placement.place(state), wait=True)
    checkpoints.close()
    return folder


def files(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def newest(folder: pathlib.Path) -> int:
    """The step that a run would go on from, which has to be what its numbers say."""
    checkpoints, placement = train_state.manager(folder), parallel.make()
    like = {"step": jnp.int32(0), "params": {"x": jnp.zeros((64, 64)), "y": jnp.zeros(3)}}
    state, step = train_state.restore(checkpoints, placement.abstract(like))
    checkpoints.close()
    assert step == state["step"] and abs(state["params"]["x"].mean() - step) < 0.1
    return step


def test_whole_checkpoints_are_taken(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    assert newest(tmp_path / "run") == 6


def test_a_save_that_lost_or_cut_any_one_file_is_passed_over(saved, tmp_path):
    """Either the step before is taken, or the file was none of those that matter, and all numbers are right."""
    names, passed_over = files(saved / "checkpoints" / "6"), set()
    assert len(names) > 5
    for number, name in enumerate(names):
        for how in ("lost", "cut", "empty"):
            run = tmp_path / f"{how}{number}"
            shutil.copytree(saved, run)
            file = run / "checkpoints" / "6" / name
            whole = file.read_bytes()
            if how == "lost":
                file.unlink()
            else:
                file.write_bytes(whole[: len(whole) // 2] if how == "cut" else b"")
            if newest(run) == 3:
                passed_over.add((pathlib.Path(name).name, how))
    assert {("_METADATA", "cut"), ("manifest.ocdbt", "cut"), ("manifest.ocdbt", "lost")} <= passed_over


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_a_copy_that_was_stopped_is_passed_over(saved, tmp_path, number):
    """The first `number` files of a checkpoint, as a copy from another machine leaves them."""
    source = saved / "checkpoints" / "6"
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    shutil.copytree(saved / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    for name in files(source)[:number]:
        target = tmp_path / "checkpoints" / "6" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)
    assert newest(tmp_path) == 3


def test_a_folder_that_was_not_renamed_yet_is_no_checkpoint(saved, tmp_path):
    shutil.copytree(saved / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    unfinished = "6.orbax-checkpoint-tmp-12"
    shutil.copytree(saved / "checkpoints" / "6", tmp_path / "checkpoints" / unfinished)
    assert newest(tmp_path) == 3


READERS = """
import json, sys
import numpy as np
from ldm_jax.checkpoints import train_state
from ldm_jax.distributed import hosts

address, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
hosts.initialize(address, 2, process, timeout=100)
found = []
for _ in range(1 + process):  # as often as each likes, and alone
    reader = train_state.manager(folder, only_reading=True)
    state, step = train_state.restore(reader)
    reader.close()
    found.append([step, float(np.asarray(state["params"]["x"]).mean())])
open(f"{folder}/read_{process}.json", "w").write(json.dumps(found))
hosts.barrier("the end", 100)
"""


def test_processes_read_each_on_its_own(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    address = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, "-c", READERS, address, str(i), str(tmp_path / "run")] for i in range(2)]
    processes = [subprocess.Popen(c, cwd=ROOT, stderr=subprocess.PIPE, text=True) for c in commands]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    first, second = (json.loads((tmp_path / "run" / f"read_{i}.json").read_text()) for i in range(2))
    assert first[0][0] == 6 and abs(first[0][1] - 6) < 0.1
    assert second == first * 2


@pytest.fixture
def slow_then(monkeypatch):
    """(seconds, error or None): what writing the arrays of a save takes, and what it ends in."""
    how = {"seconds": 0.0, "error": None}
    result = train_state._Told.result

    def slowly(self, timeout=None):
        time.sleep(how["seconds"])
        if how["error"] is not None:
            raise how["error"]
        return result(self, timeout)

    monkeypatch.setattr(train_state._Told, "result", slowly)
    return how


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def begun(folder: pathlib.Path, *steps: int, keep: int = 3):
    """A manager with `steps` saved, the last of which is under way."""
    checkpoints, state = train_state.manager(folder, keep), parallel.make().place({"x": np.arange(3.0)})
    for step in steps:
        train_state.save(checkpoints, step, state, wait=step != steps[-1])
    return checkpoints


@pytest.mark.parametrize("error", [ValueError("elsewhere"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_error_elsewhere_waits_for_the_save_under_way(tmp_path, slow_then, error):
    slow_then["seconds"] = 1.0
    checkpoints = begun(tmp_path, 3)
    with pytest.raises(type(error)), train_state.closing(checkpoints):
        assert names(tmp_path) != ["3"]
        raise error
    assert names(tmp_path) == ["3"]


def test_a_save_that_does_not_end_is_not_waited_for_for_ever(tmp_path, slow_then, caplog, monkeypatch):
    monkeypatch.setattr(train_state, "PATIENCE", 0.5)
    slow_then["seconds"] = 3.0
    checkpoints, since = begun(tmp_path, 3), time.monotonic()
    with pytest.raises(ValueError, match="elsewhere"), train_state.closing(checkpoints):
        raise ValueError("elsewhere")
    assert time.monotonic() - since < 2.5
    assert f"the save under way in {tmp_path}/checkpoints did not end" in caplog.text


def test_a_save_that_fails_at_the_end_is_said_in_one_sentence(tmp_path, slow_then, caplog):
    slow_then["error"] = OSError("disk on fire")
    with pytest.raises(OSError, match="disk on fire"), train_state.closing(begun(tmp_path, 3)):
        pass
    with pytest.raises(ValueError, match="elsewhere"), train_state.closing(begun(tmp_path, 6)):
        raise ValueError("elsewhere")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("ldm_jax")]
    assert said == ["the save under way failed too: disk on fire"]


def test_a_save_that_failed_is_known_before_the_next(tmp_path, slow_then):
    slow_then["seconds"] = 0.5
    checkpoints = begun(tmp_path, 3)
    slow_then["error"], since = OSError("disk on fire"), time.monotonic()
    train_state.check(checkpoints)
    assert time.monotonic() - since < 0.4, "waited for"
    with pytest.raises(OSError, match="disk on fire"), train_state.closing(checkpoints):
        while time.monotonic() - since < 20:
            train_state.check(checkpoints)


def test_a_save_that_fails_takes_no_earlier_checkpoint_with_it(tmp_path, slow_then):
    """Whatever orbax's own list says of them: it drops, before a save has ended, those that go when it has."""
    checkpoints = begun(tmp_path, 3, 6, 9, keep=2)
    checkpoints.wait_until_finished()
    before = [name for name in names(tmp_path) if name.isdigit()]
    assert before == ["6", "9"]
    slow_then["error"] = OSError("disk on fire")
    train_state.save(checkpoints, 12, parallel.make().place({"x": np.arange(3.0)}))
    with pytest.raises(OSError, match="disk on fire"):
        checkpoints.wait_until_finished()
    assert [name for name in names(tmp_path) if name.isdigit()] == before
    slow_then["error"] = None
    again = train_state.manager(tmp_path, 2)
    assert list(again.all_steps()) == [6, 9]
    state, step = train_state.restore(again, parallel.make().abstract({"x": np.zeros(3)}))
    assert step == 9 and list(state["x"]) == [0, 1, 2]
    train_state.save(again, 12, state, wait=True)
    assert names(tmp_path) == ["12", "9"]
    again.close()
