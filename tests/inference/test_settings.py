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


@pytest.mark.parametrize(
    "own, platform, asked, chosen",
    [
        (None, "cpu", None, "float32"),
        (None, "gpu", None, "bfloat16"),
        ("float32", "tpu", None, "bfloat16"),
        ("float16", "gpu", None, "float16"),
        ("bfloat16", "cpu", None, "bfloat16"),
        ("bfloat16", "gpu", "float32", "float32"),
        (None, "cpu", "bfloat16", "bfloat16"),
    ],
)
def test_the_dtype_is_what_is_asked_for_or_the_model_s_or_the_platform_s(own, platform, asked, chosen):
    config = {} if own is None else {"dtype": own}
    assert settings.compute_dtype(config, platform, asked) == chosen
