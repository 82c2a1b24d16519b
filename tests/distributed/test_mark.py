"""One process in a folder: the second is told which host and process is at work; marks of the dead are recognized."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ldm_jax.distributed import mark


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Marks go on every 20 ms, and one that has not for 0.6 s is of a dead process."""
    monkeypatch.setattr(mark, "BEAT", 0.02)
    monkeypatch.setattr(mark, "SILENCE", 0.6)
    monkeypatch.setattr(mark, "COPY_SILENCE", 0.3)


def written(folder, **changes):
    """A mark of this process, or of another by what is changed, as nobody goes on with it."""
    path = folder / mark.NAME
    about = mark.this_process() | {"token": "other"}
    assert mark._create(path, about)
    told, count = path.read_text().split("\n", 1)
    path.write_text(json.dumps(json.loads(told) | changes) + "\n" + count)
    return path


def test_the_second_is_told_who_is_at_work_and_writes_nothing(tmp_path):
    with mark.held(tmp_path / "run"):
        before = {path: path.stat().st_ino for path in (tmp_path / "run").iterdir()}
        said = rf"^workdir {tmp_path}/run is in use: process {os.getpid()} on \S+ has trained in it since 2"
        with pytest.raises(ValueError, match=said), mark.held(tmp_path / "run"):
            raise AssertionError("let in")
        assert {path: path.stat().st_ino for path in (tmp_path / "run").iterdir()} == before
    assert os.listdir(tmp_path / "run") == []
    with mark.held(tmp_path / "run"):
        pass


def come_at_once(number: int, hold) -> tuple[list[int], list[str]]:
    """(how many were inside as each came in, what was said to those that were not let in). hold: () -> a mark."""
    begin, inside, most, refused = threading.Barrier(number), [], [], []

    def come():
        begin.wait()
        try:
            with hold():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.5)
                inside.pop()
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most, refused


def test_only_one_of_many_that_come_at_once_is_let_in(tmp_path):
    written(tmp_path, began="1")  # a dead one's, which all of them would take over
    most, refused = come_at_once(8, lambda: mark.held(tmp_path))
    assert most == [1] and len(refused) == 7 and all("is in use" in said for said in refused)


SLEEPER = """
import pathlib, sys, time
from ldm_jax.distributed import mark
with mark.held(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(100)
"""


def test_a_process_that_was_killed_is_recognized_at_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mark, "SILENCE", 100.0)
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match=f"is in use: process {process.pid} on "), mark.held(tmp_path):
        pass
    process.send_signal(signal.SIGSTOP)  # it gives no sign of life, and is none of the dead
    with pytest.raises(ValueError, match="is in use"), mark.held(tmp_path):
        pass
    process.kill()
    process.wait()
    assert (tmp_path / mark.NAME).exists()
    since = time.monotonic()
    with caplog.at_level(logging.INFO), mark.held(tmp_path):
        assert json.loads((tmp_path / mark.NAME).read_text().split("\n")[0])["process"] == os.getpid()
    assert time.monotonic() - since < 5
    assert (
        f"was of process {process.pid} on " in caplog.text
        and "is gone: this run takes its place" in caplog.text
    )


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have no /proc, and signs of life are waited for"
)
def test_another_process_of_the_same_number_is_not_taken_for_the_dead_one(tmp_path, monkeypatch):
    """Numbers are given again, most of all after a restart of the machine or of a container."""
    monkeypatch.setattr(mark, "SILENCE", 100.0)
    written(tmp_path, began="1")
    with mark.held(tmp_path):
        pass


ELSEWHERE = {
    "another host": {"host": "n7", "process": 12},
    "another host of the same name": {"boot": "other"},
    "another container": {"numbers": "pid:[1]"},
    "another user": {"user": 12345},
}


@pytest.mark.parametrize("changes", ELSEWHERE.values(), ids=ELSEWHERE)
def test_elsewhere_it_is_signs_of_life_that_count(tmp_path, changes, caplog):
    path = written(tmp_path, **changes)
    over = threading.Event()

    def live():
        for beats in range(1, 1000):
            with path.open("r+b") as file:
                file.seek(len(path.read_text().split("\n")[0]) + 1)
                file.write(mark._count(beats))
            if over.wait(0.3):
                return

    alive = threading.Thread(target=live)
    alive.start()
    process = changes.get("process", os.getpid())
    with pytest.raises(ValueError, match=f"is in use: process {process} on {changes.get('host', '')}"):
        with mark.held(tmp_path):
            pass
    over.set()
    alive.join()
    since = time.monotonic()
    with mark.held(tmp_path):  # the host was lost
        assert time.monotonic() - since >= 0.6
    assert f"is of process {process} on" in caplog.text and "a sign of life" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00" * 100, "[" * 4000, '{"process": "x"}'])
def test_a_damaged_mark_is_taken_over_unless_it_goes_on(tmp_path, text):
    (tmp_path / mark.NAME).write_text(text)
    with mark.held(tmp_path):
        assert mark.parsed((tmp_path / mark.NAME).read_text())["process"] == os.getpid()


def test_the_mark_of_a_copied_folder_is_of_no_process(tmp_path):
    """It says what the original's does, whose process lives, and goes on with the original's alone."""
    (tmp_path / "copy").mkdir()
    with mark.held(tmp_path / "run"):
        (tmp_path / "copy" / mark.NAME).write_text((tmp_path / "run" / mark.NAME).read_text())
        with mark.held(tmp_path / "copy"):
            pass


def test_a_link_is_not_followed_and_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "victim").write_text("mine")
    path = tmp_path / mark.NAME
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(
        ValueError, match="running.json cannot be read .*expected the mark of a run and no link"
    ):
        with mark.held(tmp_path):
            pass
    assert (tmp_path / "victim").read_text() == "mine"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="running.json is no file"), mark.held(tmp_path):
        pass


def test_one_that_was_away_too_long_learns_of_it_before_it_writes(tmp_path):
    with mark.held(tmp_path) as check:
        check()
        path = tmp_path / mark.NAME
        path.unlink()
        written(tmp_path, host="n7", process=12)
        with pytest.raises(
            RuntimeError, match="was taken over by process 12 on n7 while .*saves nothing more"
        ):
            check()
    assert path.exists(), "the other's mark stays"


def test_a_mark_that_somebody_takes_away_is_put_back(tmp_path):
    with mark.held(tmp_path) as check:
        (tmp_path / mark.NAME).unlink()
        check()
        end = time.monotonic() + 5
        while not (tmp_path / mark.NAME).exists() and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="is in use"), mark.held(tmp_path):
            pass
    assert os.listdir(tmp_path) == []
