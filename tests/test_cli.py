"""Where commands keep what they compiled, and that they go on where they cannot."""

import argparse
import logging
import pwd
import re
import subprocess
import sys
import time
from pathlib import Path

import absl.logging
import jax
import pytest

from ldm_jax import cli
from ldm_jax.convert import cached_weights


@pytest.fixture
def plain(monkeypatch):
    """No folder is named by the environment, and what is set of jax's is set back."""
    of_ours = ("LDM_JAX_WEIGHTS", "LDM_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR")
    for name in (*of_ours, "XDG_CACHE_HOME", "TORCH_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    return set_to


def test_a_user_without_home_and_passwd_entry_goes_on_without_a_cache(plain, monkeypatch):
    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    cli.use_compilation_cache()
    assert plain == {} and cli.executables() is None
    with pytest.raises(ValueError, match="put weights.pth into a folder that LDM_JAX_WEIGHTS names"):
        cached_weights.find_cached("FID", ["weights.pth"])
    monkeypatch.setenv("TORCH_HOME", "/torch")
    assert [str(folder) for folder in cached_weights.folders()] == ["/torch/hub/checkpoints"]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/cache")
    assert str(cli.executables()) == "/cache/executables"


def test_the_default_cache_is_made_private_and_another_s_is_passed_over(plain, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "ldm_jax"
    cli.use_compilation_cache()
    assert (
        plain.pop("jax_compilation_cache_dir") == str(folder / "jax")
        and cli.executables() == folder / "executables"
    )
    assert (folder / "jax").stat().st_mode & 0o777 == 0o700 and not caplog.text
    (folder / "jax").chmod(0o777)
    cli.use_compilation_cache()
    assert "jax_compilation_cache_dir" not in plain
    assert f"compiled programs are not kept: others may write to {folder / 'jax'}" in caplog.text
    monkeypatch.setenv("HOME", "/dev/null")  # nothing can be made there
    cli.use_compilation_cache()
    assert "jax_compilation_cache_dir" not in plain and "Not a directory" in caplog.text


def test_a_bar_is_one_line_until_all_is_done(capfd):
    report = cli.progress("drawn", 4)
    for given in ((1,), (2, "step 3/50"), (3,)):
        report(*given)
    shown = capfd.readouterr().err
    assert "\n" not in shown and "drawn: 1/4" in shown and "drawn: 2/4" in shown and ", step 3/50" in shown
    report(4)
    assert capfd.readouterr().err.splitlines()[-1].startswith("[" + 30 * "#" + "] drawn: 4/4")


def test_a_line_of_the_log_begins_on_a_line_of_its_own(capfd):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    cli.set_up_logging()
    try:
        report = cli.progress("drawn", 4)
        report(1)
        logging.getLogger("ldm_jax").info("something")
        logging.getLogger("ldm_jax").info("else")
        report(2)
        absl.logging.warning("another's")
        report(4)
        logging.getLogger("ldm_jax").info("the end")
    finally:
        logging.basicConfig(handlers=before[0], level=before[1], force=True)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" ", 1)[-1] for line in lines if line[:2].isdigit()] == [
        "something",
        "else",
        "another's",
        "the end",
    ]


def test_what_orbax_logs_of_an_error_that_is_raised_is_not_said(monkeypatch):
    def record(path, raised):
        return logging.LogRecord("absl", logging.ERROR, path, 1, "failed", (), raised)

    raised = (ValueError, ValueError("x"), None)
    monkeypatch.delenv("LDM_JAX_TRACEBACK", raising=False)
    assert not cli._is_news(record("/site-packages/orbax/checkpoint/future.py", raised))
    assert cli._is_news(record("/site-packages/orbax/checkpoint/future.py", None))
    assert cli._is_news(record("/site-packages/grain/loader.py", raised))
    monkeypatch.setenv("LDM_JAX_TRACEBACK", "1")
    assert cli._is_news(record("/site-packages/orbax/checkpoint/future.py", raised))


HANGS = """
import sys, threading, time
from ldm_jax import cli
cli.GRACE = 0.5

def main():
    threading.Thread(target=time.sleep, args=(100,)).start()
    raise ValueError("this\\n is why")

cli.console(main)
"""


def test_a_command_that_failed_ends_though_a_thread_hangs():
    since = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: this is why")
    assert time.monotonic() - since < 50


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "--options is no JSON: "),
        ("[" * 100_000, "--options is no JSON that is read here: it is nested deeper than"),
        ("[3]", "--options is .3., expected {option: value}$"),
    ],
)
def test_options_that_are_no_object_are_one_sentence(text, said):
    assert cli.json_object("--options", '{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match=said):
        cli.json_object("--options", text)


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://bucket/run"])
def test_what_is_written_on_a_disk_alone_is_no_bucket_s(text):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--out", type=cli.on_disk)
    assert parser.parse_args(["--out", "runs/a"]).out == "runs/a"
    with pytest.raises(
        argparse.ArgumentError, match=f"{text} is in a bucket, expected a path on this machine's disk"
    ):
        parser.parse_args(["--out", text])


def test_each_command_that_writes_a_folder_says_whether_it_may_be_in_a_bucket():
    """Of --out in the commands, those that are neither kept from a bucket nor write through paths.py."""
    root = Path(cli.__file__).parent
    open_to_buckets = {"sample.py", "precompute_latents.py"}
    for path in [
        *(root / "commands").glob("*.py"),
        root / "evaluation/shapes/command.py",
        root / "inference/exported.py",
    ]:
        text = path.read_text()
        if re.search(r"add\(\s*\"--out\"", text) and path.name not in open_to_buckets:
            assert re.search(r"\"--out\",\s*type=cli\.on_disk", text), path
