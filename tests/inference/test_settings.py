"""What settings cost before they are refused."""

import tracemalloc

import pytest

from ldm_jax.inference import settings


def test_a_long_text_among_seeds_is_refused_without_an_array_of_texts_as_long():
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="seeds: got .*expected integers"):
            settings.check_seeds([0] * 1000 + ["x" * 100_000])
        assert tracemalloc.get_traced_memory()[1] < 10e6  # as an array it is 400 MB
    finally:
        tracemalloc.stop()
