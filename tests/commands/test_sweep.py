"""ldm-sweep: every point is the evaluation that it names, and a point that is done is not drawn again."""

import json
import pathlib

import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import evaluate, sweep
from ldm_jax.evaluation import prompts, store
from tests import tiny_models, tiny_shapes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    config = tiny_shapes.config() | dict(scale_factor=1.0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    bundle.save(folder, tiny_models.random_bundle(config))
    return str(folder)


FEW = ["--num_images", "4", "--batch_size", "4", "--allow_few", "--bootstrap", "0"]


@pytest.mark.slow
def test_a_sweep_draws_the_trade_off_and_goes_on(checkpoint, tmp_path, capsys, monkeypatch):
    argv = [
        "--checkpoint",
        checkpoint,
        "--scales",
        "1,3",
        "--steps",
        "1,2",
        "--out",
        str(tmp_path / "sweep"),
        *FEW,
    ]
    drawn, draw, put = [], prompts.draw, store.Store.put

    def counted(model, given, seeds, rows, **options):
        drawn.append((options["guidance_scale"], options["num_steps"]))
        return draw(model, given, seeds, rows, **options)

    def stop(self, start, rows):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        put(self, start, rows)

    monkeypatch.setattr(prompts, "draw", counted)
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "put", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep.main(argv)
    sweep.main(argv)
    assert drawn == [(1.0, 1), (3.0, 1), (1.0, 2), (1.0, 2), (3.0, 2)]
    points = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    assert [(p["scale"], p["steps"]) for p in points] == [(1.0, 1), (3.0, 1), (1.0, 2), (3.0, 2)]
    assert len({p["shapes_fid"] for p in points}) == 4

    figure = (tmp_path / "sweep" / "tradeoff.svg").read_text()
    assert figure.count("<polyline") == 2 and ">3</text>" in figure and "2 steps" in figure
    assert "shapes_fid" in figure and "accuracy" in figure
    page = (tmp_path / "sweep" / "index.html").read_text()
    assert page.count("<svg") == 3

    evaluate.main(
        ["--checkpoint", checkpoint, "--metrics", "shapes_fid", "--guidance_scale", "3", "--steps", "2",
         "--out", str(tmp_path / "one"), *FEW]
    )  # fmt: skip
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert alone["shapes_fid"] == points[3]["shapes_fid"]
    kept = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert kept["points"][3]["values"]["accuracy"]["value"] == points[3]["accuracy"]


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--scales", "1,x"], "--scales '1,x', expected numbers such as 1,2,5"),
        (["--scales", "2,2"], "expected different numbers"),
        (["--steps", "0"], "--steps '0', expected different numbers"),
        (["--num_images", "64", "--metrics", "shapes_fid"], "64 generated images for 64 features, 1 too few"),
    ],
)
def test_what_cannot_be_swept(argv, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        sweep.main([*argv, "--out", str(tmp_path / "out")])
    assert not pathlib.Path(tmp_path / "out").exists()
