"""benchmarks/tpu_cost.py keeps each row as soon as it is known; what the compiler says is
tests/commands/test_dry_run.py's.
"""

import jax
import pytest

from benchmarks import report, tpu_cost

ROW = tpu_cost.train("celebahq_ldm4", "v5e:4x4", 48)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Results and document of a table without rows; the row's cost is known, every other one cannot be compiled."""
    (found,) = (line for line in tpu_cost.read_results() if tpu_cost.asked(line) == tpu_cost.asked(ROW))

    def run(row):
        if row != ROW:
            raise RuntimeError("no such program")
        return found["report"]

    monkeypatch.setattr(tpu_cost, "run", run)
    monkeypatch.setattr(tpu_cost, "libtpu_version", lambda: "1")
    monkeypatch.setattr(tpu_cost, "RESULTS", tmp_path / "tpu_cost.jsonl")
    monkeypatch.setattr(tpu_cost, "DOCUMENT", tmp_path / "benchmarks.md")
    (tmp_path / "benchmarks.md").write_text("<!-- tpu_cost: begin -->\n<!-- tpu_cost: end -->\n")
    return tmp_path


def test_rows_that_can_be_compiled_are_kept_and_the_others_are_said(folder, capsys, monkeypatch):
    monkeypatch.setattr(tpu_cost, "ROWS", [tpu_cost.train("sd1", "v5e:1x1", 1), ROW])
    with pytest.raises(SystemExit, match="error: 1 rows failed"):
        tpu_cost.main([])
    assert "no such program" in capsys.readouterr().err
    (line,) = report.read(folder / "tpu_cost.jsonl")
    assert tpu_cost.asked(line) == tpu_cost.asked(ROW) and line["libtpu"] == "1"
    assert "| celebahq_ldm4, training | v5e:4x4 | 48 | pmap |" in (folder / "benchmarks.md").read_text()


def test_a_row_that_is_there_is_not_compiled_again(folder, monkeypatch):
    monkeypatch.setattr(tpu_cost, "ROWS", [ROW])
    for _ in range(2):
        tpu_cost.main(["--only", "celebahq_ldm4"])
    assert len(report.read(folder / "tpu_cost.jsonl")) == 1


def test_an_unknown_row_is_one_sentence():
    with pytest.raises(SystemExit, match="error: --only 'sd9' is no row; there are .*celebahq_ldm4"):
        tpu_cost.main(["--only", "sd9"])


def test_the_document_has_the_table_of_the_results():
    table = tpu_cost.table(tpu_cost.read_results())
    assert table in tpu_cost.DOCUMENT.read_text() and table.count("\n") > 5
    for program in ("latents", "decode"):  # of which a sampler has one each
        assert f"| sd1, sample, {program} |" in table


def test_a_row_of_an_adapter_is_stable_diffusion_1_that_is_taught_it(monkeypatch):
    monkeypatch.setattr(tpu_cost.dry_run, "training", lambda config, slice_: dict(config, slice=slice_))
    effort = (
        jax.config.jax_exec_time_optimization_effort
    )  # which a row sets, and which stays as it is for other tests
    row = tpu_cost.adapter("sd1_lora", "v5e:1x1", 4) | dict(effort=effort)
    asked = tpu_cost.run(row)
    assert asked["personalization"] == dict(name="lora", rank=4, text_rank=4) and asked["slice"] == "v5e:1x1"
    assert (asked["batch_size"], asked["dtype"], asked["model"]["context_dim"]) == (4, "bfloat16", 768)
