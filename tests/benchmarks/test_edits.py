"""The table of what editing methods cost, and that it is the document's."""

from benchmarks import edits, report
from ldm_jax.find import find


def line(method, ratio):
    return dict(model="small", method=method, rows=2, temporaries=int(ratio * 1e8), plain=10**8, ratio=ratio)


def test_the_last_line_of_a_method_counts():
    rows = report.edits_table([line("a", 3.0), line("b", 1.5), line("a", 1.0)]).splitlines()[2:]
    assert rows == [
        "| a | small | 2 | 100 MB | 100 MB | 1.00 |",
        "| b | small | 2 | 150 MB | 100 MB | 1.50 |",
    ]


def test_the_table_is_in_the_document():
    assert report.edits_table(report.read(report.EDITS)) in report.DOCUMENT.read_text()


def test_what_is_measured_is_there():
    for method in edits.OPTIONS:
        assert find("editing", method)
