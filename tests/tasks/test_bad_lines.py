"""One bad line of a jobs file, or one bad file that it names, fails alone and in one sentence: the others are drawn."""

import io
import json
import struct
import tracemalloc

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.tasks import jobs, run
from tests.tasks.test_run import HOLE, PHOTO, FakeModel, save

GOOD = '{"prompt": "a", "name": "good"}'


def drawn(path, model=None):
    """{name: picture} of the jobs of a file that were drawn, and the sentences on the others."""
    found, failures = jobs.of_lines(path)
    pictures, sentences = {}, [failure.error for failure in failures]
    for job, result in run.run(model or FakeModel("prompts"), found):
        if isinstance(result, ValueError):
            sentences.append(str(result))
        else:
            pictures[job.name] = result
    return pictures, sentences


@pytest.mark.parametrize(
    "bad, said",
    [
        (json.dumps(dict(prompt="a", name="x\0y")), "name is 'x\\x00y', expected the name of a file"),
        (json.dumps(dict(prompt="a", name="x\ny")), "expected the name of a file"),
        (json.dumps(dict(prompt="a", name="n" * 300)), "of 300 bytes, expected at most 200"),
        (json.dumps(dict(prompt="a", name="é" * 150)), "of 300 bytes"),
        (json.dumps(dict(prompt="a", image="x\0.png")), "expected a file"),
        (json.dumps(dict(prompt="a", image="n" * 300 + ".png")), "File name too long"),
        (json.dumps(dict(prompt="a", image="n/" * 5000)), "File name too long"),
        ('{"prompt": "a", "edit": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper than 64"),
        ('{"prompt": "a", "guidance": ' + '{"a":' * 200 + "1" + "}" * 200 + "}", "nested deeper than 64"),
        ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "no JSON: Exceeds the limit"),
        ('{"prompt": "a", "seed": ' + "9" * 4000 + "}", "seed is 9"),
        (json.dumps(dict(prompt="a", size="99999x99999")), "LDM_JAX_MAX_PIXELS"),
        (json.dumps(dict(prompt="a", image=[1, [2]])), ""),
        (json.dumps(dict(prompt="a", image={"a": 1})), "image is object"),
        ("\udc80 no text", "no JSON"),
    ],
)
def test_a_bad_line_fails_alone(tmp_path, bad, said):
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(f"{GOOD}\n{bad.encode('utf-8', 'replace').decode()}\n{GOOD}\n".encode())
    pictures, sentences = drawn(path)
    assert sorted(pictures) == ["good", "good_2"]
    (sentence,) = sentences
    assert said in sentence and len(sentence) < 500 and "\n" not in sentence


def header(text: str, body: bytes = b"") -> bytes:
    """A .npy file of this header."""
    text = text.ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


def stored(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        stored(np.array([{"a": 1}], object)),
        stored(np.array([("a", 1)], [("x", "U1"), ("y", int)])),
        stored(np.array(["a", "b"])),
        stored(np.array(["2020-01-01"], "datetime64[D]")),
        stored(np.zeros((16, 16), complex)),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-4, -4)}", bytes(128)),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 40),
        header("{'descr': [('a', '<f8')] * 4, 'fortran_order': False, 'shape': (2, 2)}"),
        header("{'descr': '<f999', 'fortran_order': False, 'shape': (2, 2)}", bytes(64)),
        header("[" * 50),
        b"\x93NUMPY\x09\x00",
        b"PK\x05\x06" + bytes(18),  # an empty .npz
        b"",
    ],
)
@pytest.mark.parametrize("field", ["depth", "map", "mask", "embeddings"])
def test_an_odd_npy_fails_alone(tmp_path, content, field):
    (tmp_path / "odd.npy").write_bytes(content)
    Image.fromarray(PHOTO).save(tmp_path / "x.png")
    takes = dict(depth="depths", map="segmentations", mask="masks", embeddings="embeddings")[field]
    names, given = [takes], {field: "odd.npy"}
    if field == "mask":
        names, given = ["images", "masks"], given | dict(image="x.png")
        save(tmp_path / "good.png", HOLE)
        good = dict(image="x.png", mask="good.png")
    else:
        np.save(tmp_path / "good.npy", np.ones((16, 16), np.int64 if field == "map" else np.float32))
        good = {field: "good.npy"}
    lines = [dict(good, name="good"), given, dict(good, name="last")]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pictures, (sentence,) = drawn(tmp_path / "jobs.jsonl", FakeModel(*names))
    assert sorted(pictures) == ["good", "last"]
    assert "odd.npy" in sentence and len(sentence) < 400 and "\n" not in sentence


def test_arrays_of_every_number_are_read(tmp_path):
    for dtype in ("<f4", ">f4", "<f2", "<f8", "u1", ">u2", "<i8"):
        np.save(tmp_path / "x.npy", np.arange(6).reshape(2, 3).astype(dtype))
        np.testing.assert_array_equal(
            run.pictures.read_depth(tmp_path / "x.npy"), np.arange(6.0).reshape(2, 3)
        )


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])  # while it is computed, or fetched
def test_memory_that_is_too_small_for_one_size_is_no_matter_of_the_others(kind):
    class Small(FakeModel):
        def sample(self, seeds, image_shape=None, **arguments):
            if image_shape == (4096, 4096):
                raise kind("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
            return super().sample(seeds, image_shape=image_shape, **arguments)

    given = [dict(prompt="a", size=16), dict(prompt="b", size=4096), dict(prompt="c", size=16)]
    results = [result for _, result in run.run(Small("prompts"), given, batch_size=1)]
    assert [isinstance(result, ValueError) for result in results] == [False, True, False]
    assert "RESOURCE_EXHAUSTED" in str(results[1])


def test_a_picture_of_more_pixels_than_allowed_is_not_decoded(tmp_path, monkeypatch):
    Image.new("1", (30_000, 20_000)).save(tmp_path / "large.png")  # 0.1 MB in the file, 1.8 GB decoded
    Image.new("1", (9_000, 9_000)).save(tmp_path / "x.png")
    for name in ("large.png", "x.png"):
        for read in (
            run.pictures.read_picture,
            run.pictures.read_mask,
            run.pictures.read_map,
            run.pictures.read_depth,
        ):
            with pytest.raises(ValueError, match=f"{name} cannot be read.*LDM_JAX_MAX_PIXELS"):
                read(tmp_path / name)
        with pytest.raises(ValueError, match="LDM_JAX_MAX_PIXELS"):
            run.pictures.decode(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back at the end
    monkeypatch.setenv("LDM_JAX_MAX_PIXELS", str(81_000_000))
    assert run.pictures.read_map(tmp_path / "x.png").shape == (9_000, 9_000)
    monkeypatch.setenv("LDM_JAX_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="LDM_JAX_MAX_PIXELS is 'many', expected a whole number"):
        run.pictures.decode(tmp_path / "x.png")


def test_a_long_text_among_the_sides_is_refused_without_an_array_of_texts_as_long():
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="size is .*expected height x width"):
            run._size([64] * 1000 + ["x" * 100_000])
        assert tracemalloc.get_traced_memory()[1] < 10e6  # as an array it is 400 MB
    finally:
        tracemalloc.stop()
