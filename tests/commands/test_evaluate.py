"""ldm-evaluate as a user runs it, with a small network in Inception's place, whose file nobody has here."""

import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints import open as checkpoints
from ldm_jax.checkpoints.base import Options
from ldm_jax.commands import evaluate
from ldm_jax.evaluation import networks, store
from ldm_jax.evaluation import prompts as evaluation_prompts
from ldm_jax.evaluation import run as evaluation_run
from ldm_jax.first_stage import make_first_stage
from ldm_jax.metrics import features, moments
from ldm_jax.metrics.features import Extractor
from ldm_jax.metrics.fid import frechet_distance
from ldm_jax.metrics.inception_score import inception_score
from ldm_jax.metrics.kid import kid
from ldm_jax.metrics.precision_recall import precision_recall
from ldm_jax.shapes_world import prompts as shapes_prompts
from ldm_jax.shapes_world.oracle import score
from tests import tiny_models, tiny_shapes

ROOT = pathlib.Path(__file__).resolve().parents[2]


def extractor(scale: float = 1.0) -> Extractor:
    """Means of quarters of the image, per channel; the layers are called what Inception's are."""
    params = {"scale": np.float32(scale)}

    def apply(params, batch):
        b, h, w, c = batch.shape
        x = batch.astype(jnp.float32).reshape(b, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(b, -1)
        x = x * params["scale"] / 255.0
        return {"pool": x, "spatial": x[:, :6], "logits": 3.0 * x[:, :5]}

    return Extractor("quarters", features.params_hash(params), "tf1", params, lambda image: image, apply)


def by_hand(images: np.ndarray) -> np.ndarray:
    """The pooled features in float64, straight from the definition."""
    halves = [slice(0, images.shape[1] // 2), slice(images.shape[1] // 2, None)]
    return np.concatenate([images[:, a, b].mean((1, 2)) / 255.0 for a in halves for b in halves], axis=1)


@pytest.fixture(autouse=True)
def small_inception(monkeypatch):
    monkeypatch.setattr(networks, "inception", lambda path=None, resize="tf1": extractor())


def write(folder: pathlib.Path, images: np.ndarray) -> str:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return str(folder)


def pixels(count: int, seed: int, low: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return write(root / "a", pixels(40, 0)), write(root / "b", pixels(30, 1, low=60))


def run(capsys, *argv: str) -> dict:
    """The last line that the command prints."""
    evaluate.main(list(argv))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


ALL = "fid,sfid,is,kid,precision,recall"


def test_images_against_images_are_measured_as_defined(folders, tmp_path, capsys):
    a, b = folders
    found = run(
        capsys, "--images", a, "--reference", b, "--metrics", ALL, "--out", str(tmp_path), "--allow_few",
        "--kid_size", "20", "--bootstrap", "5", "--batch_size", "7",
    )  # fmt: skip
    x, y = by_hand(pixels(40, 0)), by_hand(pixels(30, 1, low=60))
    gaussians = [moments.of(z).gaussian() for z in (x, y)]
    assert found["fid"] == pytest.approx(frechet_distance(*gaussians), rel=1e-4)
    parts = [moments.of(z[:, :6]).gaussian() for z in (x, y)]
    assert found["sfid"] == pytest.approx(frechet_distance(*parts), rel=1e-4)
    assert found["is"] == pytest.approx(inception_score(3 * x[:, :5])[0], rel=1e-5)
    assert found["kid"] == pytest.approx(kid(x, y, subset_size=20)[0], rel=1e-4)
    assert (found["precision"], found["recall"]) == pytest.approx(precision_recall(x, y))
    assert found["num_images"] == 40 and "fid of 40 images" in found["warnings"][0].lower()

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["values"]["fid"]["low"] < result["values"]["fid"]["high"]
    assert result["repeat"]["recipes"]["inception"]["extractor_hash"] == extractor().hash
    assert {"versions", "devices", "command", "settings", "reference"} <= set(result["repeat"])
    page = (tmp_path / "index.html").read_text()
    assert f"{found['fid']:.5g}" in page and "biased upwards" in page and "data:image/png" in page


def test_a_set_against_itself_and_against_its_statistics_file(folders, tmp_path, capsys):
    a, _ = folders
    out = ["--metrics", "fid", "--allow_few", "--bootstrap", "0"]
    assert abs(run(capsys, "--images", a, "--reference", a, "--out", str(tmp_path / "1"), *out)["fid"]) < 1e-6
    stats = str(tmp_path / "a.npz")
    assert run(capsys, "--images", a, "--write_stats", stats)["num_images"] == 40
    found = run(capsys, "--images", a, "--reference", stats, "--out", str(tmp_path / "2"), *out)
    assert abs(found["fid"]) < 1e-6


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A text model that knows the words of the shapes world, its parameters random."""
    config = tiny_shapes.config() | dict(scale_factor=1.0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bundle.save(folder, tiny_models.random_bundle(config))
    return str(folder)


SAMPLES = [
    "--metrics",
    "fid,is,shapes_fid,accuracy",
    "--allow_few",
    "--num_images",
    "10",
    "--batch_size",
    "4",
]
SAMPLES += ["--steps", "2", "--bootstrap", "3", "--splits", "2", "--save_images"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_gives_the_same_numbers(checkpoint, tmp_path, capsys, monkeypatch):
    reference = write(tmp_path / "reference", pixels(20, 3, size=64))
    argv = ["--checkpoint", checkpoint, "--reference", reference, *SAMPLES]
    whole = run(capsys, *argv, "--out", str(tmp_path / "whole"))

    put, seeds, draw = store.Store.put, [], evaluation_prompts.draw

    def stop(self, start, rows):
        if start == 4:
            raise KeyboardInterrupt
        put(self, start, rows)

    def counted(model, given, drawn, rows, **options):
        seeds.extend(drawn)
        return draw(model, given, drawn, rows, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main([*argv, "--out", str(tmp_path / "stopped")])
    monkeypatch.setattr(evaluation_prompts, "draw", counted)
    again = run(capsys, *argv, "--out", str(tmp_path / "stopped"))
    assert seeds == list(range(4, 10))
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "stopped")]
    assert results[0]["values"] == results[1]["values"]
    for key in ("seconds", "out"):
        whole.pop(key), again.pop(key)
    assert whole == again and any("shapes_fid of 10 images" in text for text in whole["warnings"])

    # what is drawn is what the model draws, told the prompts in turn, and is kept
    prompts = shapes_prompts.mixed_prompts(10)
    images = np.stack(
        [np.asarray(Image.open(tmp_path / "stopped" / "images" / f"{i}.png")) for i in range(10)]
    )
    from ldm_jax.inference import pipeline

    alone = pipeline.load(checkpoint).sample(prompts[7:8], [7], num_steps=2)
    assert np.abs(images[7].astype(int) - alone[0]).max() <= 1
    right = np.mean([score(image, prompt).right for image, prompt in zip(images, prompts, strict=True)])
    assert whole["accuracy"] == pytest.approx(right)
    assert results[0]["repeat"]["seeds"] == [0, 9] and results[0]["repeat"]["guidance_scale"] == 2.0

    # a folder of another run is never mixed into this one
    with pytest.raises(ValueError, match="holds another evaluation: first_seed is 0 there and 5 here"):
        evaluate.main([*argv, "--first_seed", "5", "--out", str(tmp_path / "whole")])


DEVICES = """
import sys, jax, numpy as np
from ldm_jax.checkpoints import bundle
from ldm_jax.evaluation import prompts
from ldm_jax.inference import pipeline
opened = bundle.read(sys.argv[1])
assert len(jax.local_devices()) == 2
one, two = (
    prompts.draw(model, prompts.conditions(model, 4), range(3, 6), 4, num_steps=1)
    for model in (pipeline.from_bundle(opened, devices=jax.local_devices()[:n]) for n in (1, 2))
)
assert one.shape == (3, 64, 64, 3), one.shape
assert np.abs(one.astype(int) - two).max() <= 1, np.abs(one.astype(int) - two).max()
assert np.abs(one[0].astype(int) - one[1]).max() > 1
"""


@pytest.mark.slow
def test_two_devices_draw_what_one_draws(checkpoint):
    import os

    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    subprocess.run([sys.executable, "-c", DEVICES, checkpoint], check=True, cwd=ROOT, env=env)


def test_first_stages_in_one_table_that_goes_on_where_it_was_stopped(folders, tmp_path, capsys, monkeypatch):
    config = dict(
        task="first_stage",
        image_size=16,
        first_stage=tiny_models.FIRST_STAGE | dict(channels=8, num_groups=4),
    )
    first_stage = make_first_stage(config["first_stage"])
    template = jax.eval_shape(first_stage.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.1, size=leaf.shape).astype(np.float32), template)
    bundle.save(tmp_path / "first", bundle.Bundle(config, {"first_stage": params}))
    pixels_themselves = dict(config, first_stage=dict(name="identity"))
    bundle.save(tmp_path / "pixels", bundle.Bundle(pixels_themselves, {}))
    a, _ = folders
    two = [str(tmp_path / name) for name in ("pixels", "first")]
    argv = ["--images", a, "--metrics", "psnr,ssim,rfid,ris", "--allow_few", "--batch_size", "8"]
    put = store.Store.put

    def stop(self, start, rows):
        if self.folder.parent.name == "first" and start == 16:
            raise KeyboardInterrupt
        put(self, start, rows)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(["--first_stage", *two, *argv, "--out", str(tmp_path / "table")])
    done = []
    monkeypatch.setattr(store.Store, "put", lambda *given: done.append(given[:2]) or put(*given))
    table = run(capsys, "--first_stage", *two, *argv, "--out", str(tmp_path / "table"))["first_stages"]
    assert {one.folder.parent.name for one, _ in done} == {"first"} and [s for _, s in done] == [16, 24, 32]
    rows = (tmp_path / "table" / "table.md").read_text().splitlines()
    assert rows[0] == "| first stage | psnr | ssim | rfid | ris |" and rows[2].startswith("| pixels | 54.")
    assert 0 <= table["pixels"]["rfid"] < 1e-4  # which lose what is cut off behind the point alone
    found = run(capsys, "--first_stage", two[1], *argv, "--out", str(tmp_path / "out"))
    assert {name: found[name] for name in table["first"]} == table["first"]
    originals = pixels(40, 0)
    rebuild = jax.jit(lambda p, x: first_stage.decode(p, first_stage.mode(p, x)))
    out = np.clip((np.asarray(rebuild(params, originals.astype(np.float32) / 127.5 - 1)) + 1) / 2, 0, 1) * 255
    out = out.astype(np.uint8)
    expected = np.mean(
        [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(originals, out, strict=True)]
    )
    assert found["psnr"] == pytest.approx(expected, abs=0.02)
    gaussians = [moments.of(by_hand(images)).gaussian() for images in (out, originals)]
    assert found["rfid"] == pytest.approx(frechet_distance(*gaussians), rel=0.02)
    assert found["ris"] == pytest.approx(inception_score(3 * by_hand(out)[:, :5])[0], rel=1e-3)
    assert -1 <= found["ssim"] < 1 and (tmp_path / "out" / "grid.png").exists()
    bundle.save(tmp_path / "other" / "first", bundle.Bundle(config, {"first_stage": params}))
    with pytest.raises(ValueError, match="names 'first' twice"):
        again = [two[1], str(tmp_path / "other" / "first")]
        evaluate.main(["--first_stage", *again, *argv, "--out", str(tmp_path / "again")])


def test_an_unreadable_image_and_one_whose_features_are_not_finite_are_named(tmp_path, monkeypatch):
    folder = pathlib.Path(write(tmp_path / "a", pixels(6, 0)))
    argv = [
        "--images",
        str(folder),
        "--reference",
        str(folder),
        "--allow_few",
        "--out",
        str(tmp_path / "out"),
    ]

    def poisoned(path=None, resize="tf1"):
        plain = extractor()

        def apply(params, batch):
            bad = (batch == 7).all((1, 2, 3))[:, None]
            return {k: jnp.where(bad, jnp.nan, v) for k, v in plain.apply(params, batch).items()}

        return plain._replace(apply=apply)

    monkeypatch.setattr(networks, "inception", poisoned)
    Image.fromarray(np.full((16, 16, 3), 7, np.uint8)).save(folder / "004.png")
    with pytest.raises(ValueError, match=r"of .*004\.png are not finite"):
        evaluate.main(argv)
    (folder / "004.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ValueError, match=r"1 of 6 images cannot be opened: .*004\.png"):
        evaluate.main(argv)


def test_statistics_of_another_extractor(folders, tmp_path, capsys, monkeypatch):
    a, _ = folders
    stats = str(tmp_path / "other.npz")
    monkeypatch.setattr(networks, "inception", lambda path=None, resize="tf1": extractor(2.0))
    run(capsys, "--images", a, "--write_stats", stats)
    monkeypatch.setattr(networks, "inception", lambda path=None, resize="tf1": extractor())
    argv = ["--images", a, "--allow_few", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="different recipes cannot be compared.*extractor_hash"):
        evaluate.main([*argv, "--reference", stats])
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="12 features against 5, the reference's statistics are of another"):
        evaluate.main([*argv, "--reference", str(foreign)])
    with pytest.raises(ValueError, match="'kid' needs the reference's images.*foreign.npz is a file of stat"):
        evaluate.main([*argv, "--reference", str(foreign), "--metrics", "kid"])


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "expected --checkpoint, --images, or --first_stage with --images, got none"),
        (["nothing"], "task 'nothing' not found; there are: beside, bias, class, colorize, composition"),
        (["--checkpoint", "x", "--images", "y", "--out", "z"], "got --checkpoint and --images"),
        (["--images", "A"], "--out is missing"),
        (["--images", "A", "--out", "OUT", "--metrics", "fidd"], "metric 'fidd' not found; there are: fid, sfid"),
        (["--images", "A", "--reference", "A", "--out", "OUT"], "40 generated images for 2048 features, 2009 too few"),
        (["--images", "A", "--out", "OUT", "--allow_few"], "metric 'fid' compares with a reference"),
        (["--images", "EMPTY", "--out", "OUT"], "holds no images"),
        (["--images", "MIXED", "--out", "OUT"], "images of 2 sizes"),
        (["--images", "DEEP", "--reference", "A", "--metrics", "is", "--out", "OUT"], "more than 8 bits a channel"),
        (["--images", "A", "--reference", "B.npz", "--out", "OUT", "--allow_few"], "B.npz.* is not there"),
        (["--images", "A", "--metrics", "accuracy", "--out", "OUT"], "needs the captions of the images"),
        (["--images", "A", "--bootstrap", "1", "--out", "OUT"], "--bootstrap is 1"),
        (["--images", "A", "--write_stats", "x.json"], "ends in .npz"),
        (["--first_stage", "x", "--images", "A", "--metrics", "fid", "--out", "OUT"], "of a first stage not found"),
        (["--checkpoint", "no", "--allow_few", "--out", "OUT"], "checkpoint 'no' not found"),
        (["--checkpoint", "x", "--num_images", "64", "--metrics", "shapes_fid", "--out", "OUT"], "1 too few"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_in_one_sentence(argv, said, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "mixed", pixels(1, 0))
    Image.fromarray(pixels(1, 0, size=8)[0]).save(tmp_path / "mixed" / "b.png")
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "deep" / "a.png")
    places = {"A": folders[0], "OUT": str(tmp_path / "out"), "EMPTY": str(tmp_path / "empty")}
    places |= {
        "MIXED": str(tmp_path / "mixed"),
        "DEEP": str(tmp_path / "deep"),
        "B.npz": str(tmp_path / "B.npz"),
    }
    with pytest.raises(ValueError, match=said) as error:
        evaluate.main([places.get(part, part) for part in argv])
    assert "\n" not in str(error.value)


def test_what_a_checkpoint_does_not_say_can_be_said(monkeypatch):
    """With the flags of every command; but --first_stage is what is measured here, not a part of the checkpoint."""
    evaluation_prompts = []
    monkeypatch.setattr(
        checkpoints,
        "open_checkpoint",
        lambda name, options: evaluation_prompts.append((name, options)) or SimpleNamespace(bundle=dict),
    )
    flags = ["--raw", "--variant", "fp16", "--prediction_type", "v", "--tokenizer", "words.json"]
    args = evaluate.parser().parse_args(["--first_stage", "vae", "--images", "photos", *flags])
    evaluation_run.open_bundle(args, args.first_stage[0])
    options = Options(ema=False, variant="fp16", prediction_type="v", tokenizer="words.json")
    assert evaluation_prompts == [("vae", options)]


def test_weights_that_are_not_there(monkeypatch, tmp_path, folders):
    monkeypatch.undo()
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    argv = ["--images", folders[0], "--reference", folders[1], "--allow_few", "--out", str(tmp_path / "out")]
    for metric, missing in {"fid": "InceptionV3 of FID", "clip_score": "CLIP"}.items():
        with pytest.raises(ValueError, match=f"{missing}.*found no weights; name the file, or put"):
            evaluate.main([*argv, "--metrics", metric])
