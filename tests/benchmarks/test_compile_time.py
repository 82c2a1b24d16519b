"""benchmarks/compile_time.py on a small config: nothing is compiled unless that is asked."""

import json
from pathlib import Path

import pytest

from benchmarks import compile_time, report

CONFIG = str(Path(__file__).resolve().parents[1] / "tiny_diffusion.py")


def test_the_line_and_its_row(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    compile_time.main(["--config", CONFIG, "--batch_size", "2", "--steps", "3", "--results", str(results)])
    (line,) = report.read(results)
    assert json.loads(capsys.readouterr().out) == line
    assert line["config"] == "tiny_diffusion" and line["settings"]["num_steps"] == 3
    for part in ("sampler", "unet"):
        assert line[part].keys() == {"trace", "lower", "lines"} and line[part]["lines"] > 100
        assert line[part]["trace"]["cpu"] > 0
    times = dict(trace=dict(cpu=1.24), lower=dict(cpu=0.5), lines=1234)
    other = dict(line, sampler=times | dict(compile=dict(cpu=71.0)))
    (row,) = report.start_table([line, other]).splitlines()[2:]
    assert row == f"| tiny_diffusion | 2 | {line['cores']} cores | 1.2 s | 0.5 s | 1,234 | 71.0 s |"


def test_several_devices_have_a_row_of_their_own():
    times = dict(trace=dict(cpu=1.2), lower=dict(cpu=0.5), lines=1234)
    line = dict(config="sd1", batch_size=8, device="cpu", cores=2, sampler=times)
    alone, shared = report.start_table([line, line | dict(devices=8)]).splitlines()[2:]
    assert "| 2 cores |" in alone and "| 8 devices of 2 cores |" in shared


def test_the_document_has_the_table_of_the_results():
    assert report.start_table(report.read(report.START)) in report.DOCUMENT.read_text()


def test_a_config_that_is_not_there():
    with pytest.raises(ValueError, match="config nowhere.py: no such file and no such name"):
        compile_time.main(["--config", "nowhere.py"])
