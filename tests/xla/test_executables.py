"""Programs that a second process finds on disk: the same pictures, and nothing is traced."""

import concurrent.futures
import logging
import threading

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ldm_jax.checkpoints import bundle
from ldm_jax.inference import pipeline
from ldm_jax.system import System, make_system
from ldm_jax.xla import executables
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

ASKED = dict(num_steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def opened():
    system = make_system(CONFIG)
    return bundle.Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer)


def refuse(*args, **kwargs):
    raise AssertionError("traced")


def test_a_second_start_traces_nothing_and_draws_the_same(opened, tmp_path, monkeypatch):
    plain = pipeline.from_bundle(opened).sample(["a red circle"], [3], **ASKED)
    first = pipeline.from_bundle(opened, tmp_path / "kept").sample(["a red circle"], [3], **ASKED)
    files = sorted(path.suffix for path in (tmp_path / "kept").iterdir())
    assert files == [
        ".executable",
        ".executable",
        ".shapes",
    ]  # the sampler, the decoder and the parameters' shapes
    monkeypatch.setattr(pipeline, "make_program", lambda *_: refuse)
    monkeypatch.setattr(pipeline, "make_decoder", lambda *_: refuse)
    monkeypatch.setattr(System, "param_shapes", refuse)
    again = pipeline.from_bundle(opened, tmp_path / "kept")
    np.testing.assert_array_equal(again.sample(["a red circle"], [3], **ASKED), first)
    np.testing.assert_array_equal(first, plain)
    other = again.sample(["a blue square"], [4], num_steps=2, guidance_scale=3.0)
    assert (other != first).any()
    with pytest.raises(AssertionError, match="traced"):  # another program
        again.sample(["a red circle"], [3], num_steps=3, guidance_scale=2.0)
    missing = dict(opened.params, unet={k: v for k, v in opened.params["unet"].items() if k != "conv_out"})
    with pytest.raises(
        ValueError, match="2 parameters of the checkpoint do not fit the config: unet/conv_out"
    ):
        pipeline.from_bundle(opened._replace(params=missing), tmp_path / "kept")


def double(x):
    return x * 2


def calls(folder, about, fn=double, x=None):
    """What a new process would get for fn(x), and whether it was traced."""
    traced = []

    def watched(x):
        traced.append(x)
        return fn(x)

    kept = executables.Executables(folder, about).kept("fn", jax.jit(watched))
    return np.asarray(kept(np.arange(3.0, dtype=np.float32) if x is None else x)), bool(traced)


def test_a_program_is_found_by_all_that_it_is_made_from(tmp_path, monkeypatch):
    def traced(about=None, **options):
        return calls(tmp_path, about or {"model": 1}, **options)[1]

    assert traced() and not traced()
    assert traced({"model": 2})
    assert traced(x=np.arange(4.0, dtype=np.float32)) and traced(x=np.arange(3))
    with jax.default_matmul_precision("highest"):
        assert traced() and not traced()
    assert not traced()
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
        assert traced()
    with monkeypatch.context() as patch:
        patch.setattr(executables, "source", lambda: "another source")
        assert traced()
    with monkeypatch.context() as patch:
        patch.setattr(executables, "_versions", lambda: dict(jax="0"))
        assert traced()
    with monkeypatch.context() as patch:
        patch.setattr(executables, "_machine", lambda device: ["cpu", "another processor"])
        assert traced()
    assert not traced()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]]
)
def test_a_damaged_file_is_said_and_written_anew(tmp_path, caplog, damage):
    calls(tmp_path, {})
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        out, traced = calls(tmp_path, {})
    assert traced and f"{path} cannot be used (it is damaged): made anew" in caplog.text
    np.testing.assert_array_equal(out, [0, 2, 4])
    assert not calls(tmp_path, {})[1]


def test_a_program_that_another_could_have_put_there_is_passed_over(tmp_path, caplog):
    own = tmp_path / "own"
    calls(own, {})
    (path,) = own.iterdir()
    assert (own.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    for open_to_others, kept in ((own, True), (path, False)):
        before = open_to_others.stat().st_mode
        open_to_others.chmod(0o777)
        out, traced = calls(own, {})
        np.testing.assert_array_equal(out, [0, 2, 4])
        assert (
            traced
            and f"{path} cannot be used (others may write to {open_to_others}: chmod go-w" in caplog.text
        )
        if kept:  # nothing was written into it either
            open_to_others.chmod(before)
    assert not calls(own, {})[1]  # the file was written anew


def test_descriptions_are_checked_as_programs_are(tmp_path, caplog):
    def shapes():
        asked.append(1)
        return {"a": jax.ShapeDtypeStruct((2,), np.float32)}

    asked, kept = [], executables.Executables(tmp_path / "own", {})
    first = kept.shapes("parameters", shapes)
    assert kept.shapes("parameters", shapes) == first and len(asked) == 1
    (path,) = (tmp_path / "own").iterdir()
    whole = path.read_bytes()
    for data, said in ((whole.replace(b"[2]", b"[3]"), "it is damaged"), (b"[]", "it is damaged")):
        path.write_bytes(data)
        assert kept.shapes("parameters", shapes) == first
        assert f"{path} cannot be used ({said})" in caplog.text
    path.chmod(0o606)
    assert kept.shapes("parameters", shapes) == first and len(asked) == 4
    assert f"others may write to {path}" in caplog.text


def test_threads_that_compile_at_once_leave_jax_s_cache_as_it_was():
    def off() -> bool:
        return not jax.config.jax_enable_compilation_cache

    before = jax.config.jax_enable_compilation_cache
    inside, leave = threading.Event(), threading.Event()

    def other():
        with executables.without_compilation_cache():
            inside.set()
            leave.wait(10)

    jax.config.update("jax_enable_compilation_cache", True)
    try:
        thread = threading.Thread(target=other)
        with executables.without_compilation_cache():
            thread.start()
            assert inside.wait(10) and off()
        assert off()  # the other thread is still inside
        leave.set()
        thread.join()
        assert not off()
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def test_threads_that_share_a_model_draw_what_each_draws_alone(opened, tmp_path):
    """Two sizes of program and four sets of seeds at once, none of them compiled before."""
    model = pipeline.from_bundle(opened, tmp_path / "kept")
    asked = [(["a red circle"], [seed], dict(ASKED, num_steps=1 + seed % 2)) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda a: model.sample(a[0], a[1], **a[2]), asked))
    assert (
        len(list((tmp_path / "kept").glob("*.executable"))) == 3
    )  # two samplers and the decoder, each compiled once
    for drawn, (prompts, seeds, options) in zip(together, asked, strict=True):
        np.testing.assert_array_equal(model.sample(prompts, seeds, **options), drawn)


def test_inside_of_without_compilation_cache_jax_writes_no_file(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}

    def number_after(c):
        jax.jit(lambda x: x * c)(1.0)
        return sum(path.name.endswith("-cache") for path in tmp_path.iterdir())

    try:
        for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        assert number_after(2.0) == 1
        with executables.without_compilation_cache():
            assert number_after(3.0) == 1
        assert number_after(4.0) == 2
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_where_nothing_can_be_written_it_is_compiled(tmp_path):
    folder = tmp_path / "file"
    folder.write_text("in the way")
    np.testing.assert_array_equal(calls(folder, {})[0], [0, 2, 4])


def test_arrays_of_other_devices_and_traced_ones_are_the_jitted_functions_own(tmp_path, monkeypatch):
    kept = executables.Executables(tmp_path, {}).kept("fn", jax.jit(double))
    np.testing.assert_array_equal(jax.jit(kept)(np.arange(3.0)), [0, 2, 4])
    array = jax.device_put(np.arange(3.0, dtype=np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: ["another device"])
        np.testing.assert_array_equal(kept(array), [0, 2, 4])
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(kept(array), [0, 2, 4])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_program_of_several_results_is_refused(tmp_path):
    kept = executables.Executables(tmp_path, {}).kept("fn", jax.jit(lambda x: (x, x)))
    with pytest.raises(ValueError, match="a kept program gives one array, got"):
        kept(np.arange(3.0))
