"""The tables of docs/editing.md: what is measured is there, and what was measured is what they say."""

import json

import pytest

from benchmarks import editing_quality as quality
from benchmarks.editing_quality import Composed
from benchmarks.report import put
from ldm_jax.evaluation.shapes import command, composition
from ldm_jax.find import find, names
from ldm_jax.inference import methods, pipeline
from ldm_jax.shapes_world import edits


def test_what_is_measured_can_be_asked_for():
    assert sorted(quality.INVERSIONS) == names("inversion") and quality.KINDS == edits.KINDS
    for told in (quality.DRAWN, quality.RENDERED):
        for method, one in told.items():
            known = {"strength", *methods.options_of("editing", method)}
            assert {*one.options} <= known and {*one.kinds} <= {*edits.KINDS}
            assert one.inversion is None or find("inversion", one.inversion)
    for method, options, prompts in quality.COMPOSED:
        assert {*prompts.split(",")} <= {*composition.KINDS}
        assert {*options} <= {*methods.options_of("editing", method)}
    for task, _, number, argv in quality.plan([4]):
        assert number == 4 and command.parser().parse_args([task, "--num_samples", "4", *argv]).task == task


def test_all_methods_come_before_more_pictures():
    rounds = [number for task, _, number, _ in quality.plan([4, 8]) if task != "inversion"]
    assert rounds == sorted(rounds) and rounds.count(4) == rounds.count(8)


def test_a_model_is_loaded_once_also_with_lists_among_its_options():
    loaded = []
    load = quality.kept(lambda name, **options: loaded.append(name) or object())
    first = load("shapes", adapters=[], dtype=None)
    assert load("shapes", dtype=None, adapters=[]) is first
    assert load("shapes", dtype=None, adapters=["a"]) is not first and loaded == ["shapes"] * 2


def test_a_command_goes_on_where_it_stopped_and_begins_anew_with_other_settings(tmp_path, monkeypatch):
    asked = []

    def run(argv):
        asked.append(argv[:1] + argv[argv.index("--methods") + 1 :][:1])
        return {"num_samples": 4}

    monkeypatch.setattr(quality, "RESULTS", tmp_path / "lines.jsonl")
    monkeypatch.setattr(quality, "COMPOSED", [Composed("structured"), Composed("llm_grounded")])
    monkeypatch.setattr(command, "run", run)
    load = pipeline.load
    quality.measure(tmp_path, 0.0, "composition", [4])  # out of time after the first
    assert pipeline.load is load  # which takes lists of adapters, as a cached one does not
    quality.measure(tmp_path, 1.0, "composition", [4])
    quality.measure(tmp_path, 1.0, "composition", [4])
    assert asked == [["composition", "structured"], ["composition", "llm_grounded"]]
    monkeypatch.setattr(
        quality, "COMPOSED", [Composed("structured", dict(weight=0.5)), Composed("llm_grounded")]
    )
    quality.measure(tmp_path, 1.0, "composition", [4])
    assert asked[2:] == [["composition", "structured"]]
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 3


def test_the_tables_are_in_the_document():
    written = (quality.ROOT / "docs" / "editing.md").read_text()
    for rows in quality.tables().values():
        for row in rows:
            assert f"| {' | '.join(row)} |" in written


def test_a_line_of_a_round_trip():
    found = {"ddim": dict(psnr=None, least=float("inf"), num_steps=5, guidance_scale=1.0), "num_samples": 4}
    found = json.loads(json.dumps(found))
    assert quality._inversion("ddim, drawn", found) == ("`ddim, drawn`", "1", "5", "4", "exact", "exact")


def test_a_document_without_a_place_is_refused(tmp_path):
    (tmp_path / "x.md").write_text("nothing")
    with pytest.raises(ValueError, match="has no place for the table"):
        put(tmp_path / "x.md", "quality edits", "x")
