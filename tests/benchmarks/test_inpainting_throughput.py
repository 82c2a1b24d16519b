"""The table of throughput: what is timed, that nothing is measured twice, and what stands beside what was published.
Models are stand-ins: the configs' own tests train and sample them."""

import json

import numpy as np
import pytest

from benchmarks import inpainting_throughput as throughput


def test_the_median_of_the_rounds_counts_and_the_first_is_left_out(monkeypatch):
    clock = iter([0.0, 2.0, 10.0, 14.0, 20.0, 29.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    runs = []
    assert throughput.rate(lambda: runs.append(0), 8, 3) == 2.0 and len(runs) == 4


def test_arrays_of_shapes_are_zeros_or_normal():
    import jax

    shapes = dict(w=jax.ShapeDtypeStruct((50, 40), np.float32), n=jax.ShapeDtypeStruct((3,), np.int32))
    drawn = throughput.filled(shapes, 0.5)
    assert drawn["w"].std() == pytest.approx(0.5, rel=0.1) and drawn["w"].dtype == np.float32
    assert not drawn["n"].any() and not throughput.filled(shapes)["w"].any()


def test_a_model_is_measured_once_on_a_machine(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(name, args):
        asked.append(name)
        figures = dict(training=2.0, hours_an_epoch=5.0, sampling=[3.0, 1.0])
        return dict(model=name, small=args.small, batch_size=args.batch_size, steps=args.steps) | figures

    monkeypatch.setattr(throughput, "measured", measured)
    results = tmp_path / "lines.jsonl"
    argv = ["--models", "inpainting_vq4,inpainting_ldm1", "--small", "--results", str(results)]
    throughput.main(argv)
    throughput.main([*argv, "--batch_size", "8"])
    assert asked == ["inpainting_vq4", "inpainting_ldm1"]
    table = capsys.readouterr().out
    assert "| inpainting_vq4 | 2 | 3 | 1 | 5 | 0.33, 0.97, 0.34, 7.04 h, FID 14.99 |" in table
    assert "| inpainting_kl4 | not measured |" in table
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["model"] for line in lines] == asked and all(line["device"] for line in lines)
    throughput.main([*argv, "--batch_size", "4"])
    assert len(asked) == 4  # of another size they are others
    with pytest.raises(ValueError, match="--models has 'inpainting', expected some of inpainting_ldm1"):
        throughput.main(["--models", "inpainting", "--results", str(results)])
