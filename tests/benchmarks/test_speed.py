"""benchmarks/speed.py with tiny models: both backends answer the same to every question, take turns, and their lines
make a table.

The other questions and models, and torch.compile: python -m pytest -m slow tests/benchmarks/test_speed.py
"""

import json

import numpy as np
import pytest

from benchmarks import report, speed, speed_models, speed_turns

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder in which runs of this file leave a model's weights for the next."""
    return tmp_path_factory.mktemp("weights")


def needs_torch():
    for name in ("torch", "diffusers", "transformers"):
        pytest.importorskip(name)


QUESTIONS = [
    *[
        pytest.param("tiny", q, marks=slow)
        for q in ("forward", "gradients", "train_step", "sampling", "decode")
    ],
    *[pytest.param(m, q, marks=slow) for m in ("tiny_sdxl", "tiny_ldm4") for q in speed_models.QUESTIONS],
]


@pytest.mark.parametrize(("model", "question"), QUESTIONS)
def test_both_backends_answer_the_same(weights, tmp_path, model, question):
    """In this process: what takes turns is tested below."""
    needs_torch()
    from benchmarks import speed_jax, speed_torch

    request = speed.request_of(
        speed.parse([question, "--model", model, "--steps", "3", "--device", "cpu", "--batch_size", "2"]),
        weights / model,
        tmp_path,
    )
    speed_models.prepare(request)
    for name, side in (("jax", speed_jax), ("torch", speed_torch)):
        call, shown = side.answer(request)
        np.savez(tmp_path / f"{name}.npz", **shown(call()))
    found = speed.compare(request, ("jax", "torch"))  # raises if they differ
    assert found and all(np.isfinite(list(found.values())))
    picture = np.load(tmp_path / "torch.npz")
    assert all(np.std(picture[name]) > 0.01 for name in picture if np.ndim(picture[name]) == 4), "one gray"


@slow
def test_they_take_turns_and_a_line_says_what_was_timed(weights, tmp_path, capsys):
    needs_torch()
    results = tmp_path / "speed.jsonl"
    options = ["--rounds", "2", "--device", "cpu", "--results", str(results), "--weights", str(weights)]
    speed.main(["sampling", "--model", "tiny", "--steps", "2", *options])
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert [line["backend"] for line in lines] == ["jax", "torch"]
    for line in lines:
        times = line["seconds"]
        assert 0 < times["min"] <= times["median"] <= times["max"] and line["first_call_seconds"] > 0
        assert line["difference"]["pictures"] <= speed.PICTURE_TOLERANCE
        assert line["hardware"]["kind"] == "cpu" and line["hardware"]["cores"] >= 1
        assert line["run"] == lines[0]["run"] and (line["steps"], line["rounds"]) == (2, 2)
    assert {"jax", "jaxlib"} <= lines[0]["versions"].keys() and {"torch", "diffusers"} <= lines[1][
        "versions"
    ].keys()
    assert lines[1]["torch"] == "channels_last" and "torch" not in lines[0]


@slow
def test_the_first_image_from_the_start_of_a_process(weights, tmp_path):
    needs_torch()
    results = tmp_path / "speed.jsonl"
    options = ["--rounds", "1", "--device", "cpu", "--results", str(results), "--weights", str(weights)]
    speed.main(["first_image", "--model", "tiny", "--steps", "2", *options])
    for line in report.read(results):
        assert line["seconds"]["cold"]["median"] > 0.5 and line["seconds"]["warm"]["median"] > 0.5
        assert "first_call_seconds" not in line


@slow
def test_torch_compile(weights, tmp_path):
    needs_torch()
    results = tmp_path / "speed.jsonl"
    options = ["--rounds", "1", "--device", "cpu", "--results", str(results), "--weights", str(weights)]
    speed.main(["forward", "--model", "tiny", "--torch", "compile", *options])
    assert report.read(results)[1]["compile_mode"] == "default"


def test_a_missing_torch_is_one_sentence(monkeypatch, tmp_path):
    found = speed.importlib.util.find_spec
    monkeypatch.setattr(
        speed.importlib.util, "find_spec", lambda name: None if name == "diffusers" else found(name)
    )
    with pytest.raises(SystemExit, match=r"needs diffusers, which pip install 'ldm_jax\[test\]' brings"):
        speed.main(["forward", "--model", "tiny", "--results", str(tmp_path / "x.jsonl")])
    assert not (tmp_path / "x.jsonl").exists()


def test_a_side_that_fails_says_why(tmp_path):
    request = dict(run=str(tmp_path), question="nothing")
    child = speed_turns.Child("jax", request, speed_turns.environment(JAX_PLATFORMS="cpu"))
    try:
        with pytest.raises(RuntimeError, match="(?s)the jax side ended with exit code 1: .*KeyError"):
            child.read()
    finally:
        child.close()


def answers(tmp_path, ours, theirs, dtype="float32"):
    np.savez(tmp_path / "jax.npz", **ours)
    np.savez(tmp_path / "torch.npz", **theirs)
    return speed.compare(dict(run=tmp_path, dtype=dtype), ("jax", "torch"))


def test_answers_that_differ_end_a_run_in_float32(tmp_path):
    one = np.ones((2, 3), np.float32)
    assert answers(tmp_path, dict(x=one), dict(x=one * 1.0001))["x"] == pytest.approx(1e-4, rel=0.01)
    with pytest.raises(
        RuntimeError, match="x of the two backends: got a difference of 0.0099, expected at most 0.001"
    ):
        answers(tmp_path, dict(x=one), dict(x=one * 1.01))
    assert answers(tmp_path, dict(x=one), dict(x=one * 1.01), "bfloat16")["x"] == pytest.approx(
        0.0099, rel=0.01
    )
    with pytest.raises(RuntimeError, match="finite"):
        answers(tmp_path, dict(x=one * np.nan), dict(x=one), "bfloat16")
    bytes_ = np.full((1, 2, 2, 3), 100, np.uint8)
    assert answers(tmp_path, dict(pictures=bytes_), dict(pictures=bytes_ + 2)) == dict(pictures=2.0)
    with pytest.raises(RuntimeError, match="at most 2"):
        answers(tmp_path, dict(pictures=bytes_), dict(pictures=bytes_ + 3))
    assert speed.compare(dict(run=tmp_path, dtype="float32"), ("jax",)) is None


def test_what_a_gpu_could_have_done():
    result = dict(hardware=dict(kind="NVIDIA H200"), model_flops=790e12, seconds=dict(median=2.0))
    said = speed.utilization("train_step", result, None)
    assert (said["floor_seconds"], said["times_floor"]) == (1.0, 2.0)
    assert said["mfu"] == pytest.approx(790 / 2 / 989.5)
    assert speed.utilization("train_step", result | dict(hardware=dict(kind="cpu")), None) == {}


def made_up(backend, run, median, question="forward", model="small", kind="cpu", **more):
    times = dict(median=median, min=median / 2, max=median * 2)
    seconds = dict(cold=times, warm=times) if question == "first_image" else times
    line = dict(
        question=question,
        backend=backend,
        run=run,
        model=model,
        batch_size=4,
        dtype="float32",
        seconds=seconds,
    )
    return line | dict(hardware=dict(kind=kind, cpu="Some CPU", cores=2)) | more


def test_the_report_pairs_lines_of_one_run():
    lines = [
        made_up("jax", "a", 9.0), made_up("torch", "a", 9.5, torch="eager"),
        made_up("jax", "b", 0.2), made_up("torch", "b", 0.4, torch="eager"),
        made_up("jax", "c", 0.3), made_up("torch", "c", 0.1, torch="compile"),
        made_up("jax", "d", 1.0, model="tiny"),
        made_up("jax", "e", 20.0, question="first_image", model="sd1", steps=50),
        made_up("jax", "f", 2.0, question="sampling", model="sd1", kind="NVIDIA H200", mfu=0.5, times_floor=1.6),
    ]  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.table(lines).splitlines()[2:]]
    assert all(len(row) == len(report.HEADER) for row in rows)
    forward = [row for row in rows if row[0] == "small, forward"]
    assert [row[4:8] for row in forward] == [
        ["200 ms (100 to 400)", "400 ms (200 to 800)", "eager", "0.50"],
        ["300 ms (150 to 600)", "100 ms (50 to 200)", "compile", "3.00"],
    ]
    assert ["small, gradients", "4", "", "cpu", "not measured"] in [row[:5] for row in rows]
    assert ["sd1, sampling", "16", "", "NVIDIA H200", "not measured: no device"] in [row[:5] for row in rows]
    (on_gpu,) = [row for row in rows if row[:4] == ["sd1, sampling", "4", "float32", "NVIDIA H200"]]
    assert on_gpu[-2:] == ["50%", "1.6"]
    assert [row[4] for row in rows if row[0].startswith("sd1, first image, 50 steps")] == [
        "20.0 s (10.0 to 40.0)"
    ] * 2
    assert not any("tiny" in row[0] for row in rows)


def test_the_report_replaces_what_is_between_its_markers(tmp_path):
    document = tmp_path / "x.md"
    start, end = "<!-- speed: begin -->", "<!-- speed: end -->"
    document.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    report.put(document, "speed", "new")
    assert document.read_text() == f"before\n{start}\nnew\n{end}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="no place for the table"):
        report.put(document, "speed", "new")


def test_the_table_of_attention_has_the_last_line_of_each_shape():
    line = dict(shape=[4, 1024, 8, 8], num_keys=77, dtype="float32", device="cpu", cores=2)
    times = dict(plain=dict(forward=2.0, gradients=5.0), attend=dict(forward=1.0, gradients=4.0))
    other = times | dict(attend=dict(forward=1.5, gradients=4.5))
    table = report.attention_table([dict(line, milliseconds=times), dict(line, milliseconds=other)])
    (row,) = table.splitlines()[2:]
    assert row == "| 4 | 1024 | 8 x 8 | 77 | 2 cores, float32 | 2.0 ms | 1.5 ms | 5.0 ms | 4.5 ms |"


def test_the_table_of_convolutions_has_the_last_line_of_each_shape():
    line = dict(shape=[32, 16, 64, 32, 3, 2], milliseconds=dict(derived=dict(alone=2.0, loop=1900.04)))
    first, last = (dict(alone=n, loop=n + 1) for n in (3.0, 1.0))
    lines = [line | dict(milliseconds=line["milliseconds"] | dict(convolve=times)) for times in (first, last)]
    (row,) = report.convolution_table(lines).splitlines()[2:]
    assert row == "| 32 | 16 x 16 | 64 to 32 | 3 x 3 | 2 | 2.0 ms | 1,900.0 ms | 1.0 ms | 2.0 ms |"


def test_the_yardstick_is_the_one_asked_for():
    """35 M parameters, as the UNet2DConditionModel of these widths."""
    system = speed_models.system_of(speed_models.read_config("small"))
    shapes = system.param_shapes()["unet"]
    number = sum(np.prod(leaf.shape) for leaf in speed_models.jax.tree.leaves(shapes))
    assert 34.5e6 < number < 35.5e6 and system.latent_shape == (32, 32, 4)
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(
            block_out_channels=(64, 128, 256, 256), layers_per_block=2, cross_attention_dim=256, attention_head_dim=8
        )  # fmt: skip
    assert number == sum(p.numel() for p in theirs.parameters())
