"""The command writes what the first stage makes of each picture, once, however often it is stopped and however many
hosts share it; the statistics are those of all together.
"""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import precompute_latents
from ldm_jax.data import latents, latents_builder, pipeline
from ldm_jax.params import fingerprint
from ldm_jax.system import make_system
from ldm_jax.training.examples import conditions_of
from ldm_jax.training.latents import LatentStatistics, measure
from ldm_jax.training.precompute import (
    PrecomputeOptions,
    pooled,
    precompute,
    shards_of,
    text_encoder_fingerprint,
)
from tests import tiny_shapes
from tests.tiny_models import random_bundle

NUMBER = 7
OPTIONS = PrecomputeOptions(examples_per_shard=3, batch_size=2, num_threads=2)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A text model whose first stage and text encoder are in a bundle."""
    config = tiny_shapes.config()
    config["data"] = dict(name="shapes", split="train", num_scenes=NUMBER, annotations=False)
    config["freeze"] = ["conditioner"]
    model = random_bundle(dict(config))
    folder = tmp_path_factory.mktemp("model")
    bundle.save(folder / "model", model)
    return dict(config, first_stage_from=str(folder / "model"), init_from=str(folder / "model"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A folder that one host wrote without a stop, mirror images and text too, and the statistics."""
    root = tmp_path_factory.mktemp("latents") / "whole"
    return root, precompute(config, root, OPTIONS._replace(flip=True, text=True))


def examples(root) -> list[dict]:
    source = latents.source("train", root=root)
    return [source[i] for i in range(len(source))]


def first_stage_of(config):
    system = make_system(config)
    params = bundle.read(config["first_stage_from"]).params
    encode = jax.jit(lambda x: system.first_stage.encode(params["first_stage"], x))
    return system, params, encode


def pictures() -> np.ndarray:
    scenes = pipeline.open_source("shapes", "train", num_scenes=NUMBER)
    return np.stack([scenes[i]["image"] for i in range(NUMBER)]) / np.float32(127.5) - 1


def test_each_example_is_what_the_first_stage_makes_of_its_picture(config, whole):
    _, _, encode = first_stage_of(config)
    scenes = pipeline.open_source("shapes", "train", num_scenes=NUMBER)
    expected = np.asarray(encode(pictures()))
    mirrored = np.asarray(encode(pictures()[:, :, ::-1]))
    assert not np.allclose(expected, mirrored, atol=1e-2)
    for i, example in enumerate(examples(whole[0])):
        np.testing.assert_allclose(example["moments"], expected[i], atol=1e-5)
        np.testing.assert_allclose(example["moments_flipped"], mirrored[i], atol=1e-5)
        assert example["caption"] == scenes[i]["caption"]
        assert example["class_label"] == scenes[i]["class_label"]


def test_statistics_are_those_of_all_pictures_and_their_mirror_images(config, whole):
    stored = examples(whole[0])
    encoded = np.stack([e[k] for e in stored for k in latents.MOMENTS]).astype(np.float64)
    mean, logvar = np.split(encoded, 2, axis=-1)
    # A draw z of the posterior has E[z] = mean and E[z^2] = mean^2 + var.
    second = (mean**2 + np.exp(logvar)).mean()
    assert whole[1]["scale_factor"] == pytest.approx(1 / np.sqrt(second - mean.mean() ** 2), rel=1e-6)
    np.testing.assert_allclose(whole[1]["mean"], mean.mean((0, 1, 2)), rtol=1e-6)


def test_text_is_what_the_conditioner_says(config, whole):
    system, params, _ = first_stage_of(config)
    stored = examples(whole[0])
    inputs = system.inputs({"prompts": [e["caption"] for e in stored]})
    context = jax.jit(lambda p, x: system.condition(p, x).context)(params, inputs)
    np.testing.assert_allclose([e["text_context"] for e in stored], context, atol=1e-5)
    source = latents.source("train", root=whole[0])
    source.check(first_stage=fingerprint({"first_stage": params["first_stage"]}), image_size=64)
    source.check_text(text_encoder_fingerprint(params["conditioner"]))
    # folders that were made before parameters were called by their kind of conditioning
    source.check_text(fingerprint({"conditioner": params["conditioner"]["text"]}))


def test_training_is_shown_the_moments_and_the_words(config, whole):
    source = latents.source("train", root=whole[0])
    on_latents = dict(config, data=latents.instead_of(config["data"], whole[0]))
    conditions = conditions_of(on_latents, make_system(on_latents), source, crop=None)
    example = {"index": 1, **source[1]}
    drawn = [conditions(example, np.random.default_rng(seed)) for seed in range(8)]
    for shown, given in drawn:
        assert set(shown) == {"moments", "text_context"} and given == {"prompts": example["caption"]}
    either = [example[name].tobytes() for name in latents.MOMENTS]
    assert {shown["moments"].tobytes() for shown, _ in drawn} == set(either)


def test_a_stopped_run_goes_on_at_the_first_missing_shard(config, tmp_path, monkeypatch):
    untouched = precompute(config, tmp_path / "untouched", OPTIONS)
    write, root = latents_builder.write_shard, tmp_path / "stopped"

    def stops(folder, made, shard, *rest):
        if shard == 1:
            raise KeyboardInterrupt
        write(folder, made, shard, *rest)

    monkeypatch.setattr(latents_builder, "write_shard", stops)
    with pytest.raises(KeyboardInterrupt):
        precompute(config, root, OPTIONS)
    monkeypatch.undo()
    first = next(root.glob("latents-train.array_record-00000-of-00003"))
    written = first.stat().st_mtime_ns
    with pytest.raises(ValueError, match="2 of 3 shards are missing"):
        latents.source("train", root=root)
    assert precompute(config, root, OPTIONS) == untouched
    assert first.stat().st_mtime_ns == written
    for one, other in zip(examples(root), examples(tmp_path / "untouched"), strict=True):
        np.testing.assert_array_equal(one["moments"], other["moments"])
    assert precompute(config, root, OPTIONS) == untouched  # once more: nothing is left to do


def test_hosts_share_the_shards(config, whole, tmp_path):
    assert precompute(config, tmp_path / "out", OPTIONS, host=(0, 2)) is None
    assert sorted(f.name for f in (tmp_path / "out" / "shards").iterdir()) == ["00000.json", "00002.json"]
    assert precompute(config, tmp_path / "out", OPTIONS, host=(1, 2)) is not None
    for one, other in zip(examples(tmp_path / "out"), examples(whole[0]), strict=True):
        np.testing.assert_allclose(one["moments"], other["moments"], atol=1e-5)
    with pytest.raises(ValueError, match="--shard is 2/2, expected i/n with 0 <= i < n"):
        precompute(config, tmp_path / "out", OPTIONS, host=(2, 2))


def test_every_shard_has_one_host():
    for count in (1, 3, 8):
        shared = [shards_of(i, count, range(20)) for i in range(count)]
        assert sorted(sum(shared, [])) == list(range(20))
        assert max(map(len, shared)) - min(map(len, shared)) <= 1


def test_beam_writes_the_same_folder(config, whole, tmp_path):
    """Runs where apache_beam is installed, which asks for older packages than ours: in a virtual environment of its
    own."""
    pytest.importorskip("apache_beam")
    from ldm_jax.training import precompute_beam

    options = OPTIONS._replace(flip=True, text=True)
    precompute(config, tmp_path / "out", options, host=(1, 3))  # begun without Beam
    statistics = precompute_beam.precompute(config, tmp_path / "out", options, ["--runner=DirectRunner"])
    assert statistics["scale_factor"] == pytest.approx(whole[1]["scale_factor"], rel=1e-6)
    for one, other in zip(examples(tmp_path / "out"), examples(whole[0]), strict=True):
        assert one.keys() == other.keys() and one["caption"] == other["caption"]
        np.testing.assert_allclose(one["moments"], other["moments"], atol=1e-5)


def test_parts_are_pooled_as_if_they_were_one():
    rng = np.random.default_rng(0)
    parts = [rng.normal(i, 1 + i, size=(n, 2, 2, 4)) for i, n in enumerate((5, 1, 3))]

    def of(values) -> LatentStatistics:
        return measure([{"image": values, "valid": np.ones(len(values), bool)}], lambda x: x, True)

    together, expected = pooled([of(p) for p in parts]), of(np.concatenate(parts))
    assert together.number == expected.number == 9
    for one, other in zip(together, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_pictures_are_stored_for_what_looks_at_them(config, tmp_path):
    options = OPTIONS._replace(fields=("image", "caption"), file_format="array_record")
    precompute(dict(config, data=dict(config["data"], num_scenes=2)), tmp_path / "out", options)
    scenes = pipeline.open_source("shapes", "train", num_scenes=2)
    for i, example in enumerate(examples(tmp_path / "out")):
        np.testing.assert_array_equal(example["image"], scenes[i]["image"])
        assert set(example) == {"moments", "image", "caption"}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (dict(task="first_stage"), {}, "config.task is 'first_stage', expected 'diffusion'"),
        (dict(first_stage_from=None), {}, "config.first_stage_from names no trained first stage"),
        ({}, dict(dtype="int8"), "--dtype 'int8' not found; there are: float32, float16"),
        ({}, dict(file_format="zip"), "--file_format 'zip' not found"),
        ({}, dict(examples_per_shard=0), "--examples_per_shard is 0, expected at least 1"),
        ({}, dict(fields=("captoin",)), "has no 'captoin'; it has: image, caption, class_label"),
        (
            {},
            dict(fields=("image",), flip=True),
            "--flip: image lies on the picture and would not be mirrored",
        ),
        (dict(freeze=[]), dict(text=True), "--text: the text encoder is trained with the model"),
        (dict(init_from=None), dict(text=True), "--text: config.init_from names no model"),
        (
            dict(data=dict(name="latents", root="x")),
            {},
            "config.data.name is 'latents', expected the pictures",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(config, tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        precompute(dict(config, **change), tmp_path / "out", OPTIONS._replace(**options))
    assert not (tmp_path / "out").exists()


def test_other_latents_in_the_folder_are_named(config, whole):
    with pytest.raises(
        ValueError, match="holds others: flip is True there and False here; take another --out"
    ):
        precompute(config, whole[0], OPTIONS)


def test_the_command_takes_a_config_and_its_changes(tmp_path, capsys):
    precompute_latents.main(
        ["--config", str(ROOT / "tests" / "tiny_diffusion.py"), "--config.data.num_scenes=3"]
        + ["--out", str(tmp_path / "out"), "--dtype=float16", "--shard=0/1"]
    )
    assert "scale factor" in capsys.readouterr().out
    stored = examples(tmp_path / "out")  # its first stage is the identity
    np.testing.assert_allclose(stored[2]["moments"], pictures()[2], atol=1e-3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config is missing"),
        (["--config", str(ROOT / "tests" / "tiny_diffusion.py"), "--sharp=1/2"], "Unknown command line flag"),
        (["--config", str(ROOT / "tests" / "tiny_diffusion.py"), "out"], "unexpected argument 'out'"),
        (["--config", str(ROOT / "tests" / "tiny_diffusion.py"), "--shard=2"], "expected i/n, such as 0/4"),
    ],
)
def test_bad_arguments_are_one_sentence(argv, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        precompute_latents.main(["--out", str(tmp_path / "out"), *argv])


def test_it_runs_by_the_name_of_its_room(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "ldm_jax.commands.precompute_latents", "--out", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 1 and run.stderr.startswith("error: --config is missing: a file, or one of ")
