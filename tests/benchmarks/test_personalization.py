"""The tables of what adapters learn, and that they are the document's."""

import argparse

from benchmarks import domain, personalization, report
from ldm_jax.personalization import base


def line(probe, **more):
    made = dict(
        thing="mulberry",
        method="lora",
        pictures=6,
        steps=150,
        samples=24,
        seconds=61.6,
        bytes=4096,
        drift=3.0,
    )
    return made | dict(probe=probe, before=0.0, right=0.5, right_before=0.625) | more


def test_the_last_line_of_a_thing_and_a_way_counts():
    found = personalization.table(
        [line(0.5), line(0.75, composition=0.25, diversity=0.9, base_fingerprint="abc")]
    )
    row = (
        "| mulberry | lora | 6 | 150 | 62 | 4,096 | 0.75 (0.00) |  | 0.25 | 0.50 (0.62) | 3.0 | 0.90 | abc |"
    )
    assert found.splitlines()[2:3] == [row] and found.splitlines()[3] == ""


def test_a_row_of_other_pictures_is_another_row():
    """Without them in the comparison, --pictures_beside 0 was passed over where a row of both was there."""

    class Base:
        fingerprint = "abc"

    made = line(0.5, pictures=12, base_fingerprint="abc", batch_size=8)
    args = argparse.Namespace(pictures=6, pictures_beside=6, steps=150, batch_size=8, samples=24)
    assert personalization.is_there(made, args, "mulberry", "lora", Base())
    args.pictures_beside = 0
    assert not personalization.is_there(made, args, "mulberry", "lora", Base())


def test_every_way_of_a_row_is_there():
    for section, _ in personalization.METHODS.values():
        options = section | ({"sites": 4} if section["name"] == "extended_textual_inversion" else {})
        base.new_words(options)  # raises for an unknown way or option


def test_the_tables_are_in_the_document():
    document = personalization.DOCUMENT.read_text()
    assert personalization.table(report.read(personalization.RESULTS)) in document
    assert domain.table(report.read(domain.RESULTS)) in document
