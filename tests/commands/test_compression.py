"""The compression study: networks that fit their latents and are about as large for every factor, figures from what was
measured, and a run that goes on. Training and drawing are stand-ins: test_configs trains such networks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands import compression
from ldm_jax.evaluation import plot, samples
from ldm_jax.evaluation import run as evaluation_run
from ldm_jax.system import make_system
from ldm_jax.training.workdir import check_config

OPTIONS = [
    "--steps",
    "20",
    "--every",
    "10",
    "--factors",
    "1,4",
    "--sampling_steps",
    "10,50",
    "--num_images",
    "66",
]


def arguments(**changes):
    return SimpleNamespace(
        **dict(
            out="out",
            images=None,
            num_scenes=8,
            first_stage_steps=10,
            steps=20,
            batch_size=4,
            narrow=16,
            training_steps=5,
            draw=4,
        )
        | changes
    )


def test_networks_fit_their_latents_and_are_about_as_large():
    sizes = {}
    for factor in compression.UNET:
        args = arguments()
        config = compression.diffusion_config(args, factor, 10)
        first = dict(name="identity")
        if factor > 1:
            trained = compression.first_stage_config(args, factor)
            check_config(trained)
            first = trained["first_stage"]
        check_config(config)
        system = make_system(dict(config, first_stage=first, first_stage_from=None))
        assert system.first_stage.factor == factor and system.latent_shape[-1] == compression.LATENT[factor]
        sizes[factor] = sum(
            int(np.prod(leaf.shape)) for leaf in compression.jax.tree.leaves(system.param_shapes()["unet"])
        )
    assert max(sizes.values()) < 1.4 * min(sizes.values())
    with_photos = compression.first_stage_config(arguments(images="PHOTOS"), 4)
    assert with_photos["data"]["root"] == "PHOTOS" and "lpips" in with_photos


@pytest.fixture
def stood_in(monkeypatch):
    """{what was done}: 'trained' [(workdir, steps)], 'drawn' [(steps, folder)]."""
    done = dict(trained=[], drawn=[])

    def train(config, workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        done["trained"].append((f"{workdir.parent.name}/{workdir.name}", config["total_steps"]))
        return SimpleNamespace(step=config["total_steps"])

    def outcome(one, argv, model, nets, reference):
        done["drawn"].append((one.steps, one.out.rsplit("/", 1)[1]))
        return evaluation_run.Evaluation({"shapes_fid": {"value": 1000 / one.steps}}, [], {}), one.num_images

    monkeypatch.setattr(compression.train, "train", train)
    monkeypatch.setattr(samples, "open_model", lambda args: SimpleNamespace(sampler=None))
    monkeypatch.setattr(samples, "sampling_options", lambda args, model: {})
    monkeypatch.setattr(samples, "outcome_of", outcome)
    monkeypatch.setattr(evaluation_run, "networks", lambda *given: None)
    monkeypatch.setattr(compression.prompts, "draw", lambda *given, **options: None)
    opened = SimpleNamespace(params={"unet": {"a": np.zeros(7)}})
    monkeypatch.setattr(evaluation_run, "open_bundle", lambda args, name: opened)
    return done


def test_a_study_measures_every_part_and_goes_on(stood_in, tmp_path, capsys):
    compression.main([*OPTIONS, "--out", str(tmp_path)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["factors"]
    assert stood_in["trained"] == [
        ("f1/diffusion", 10), ("f1/diffusion", 20),
        ("f4/first_stage", 1000), ("f4/diffusion", 10), ("f4/diffusion", 20),
    ]  # fmt: skip
    drawn = [(50, "step10"), (50, "step20"), (10, "steps10"), (50, "steps50")]
    assert stood_in["drawn"] == [*drawn, *drawn]
    assert found[1]["training"] == [[10, 20.0], [20, 20.0]]
    assert [row[:2] for row in found[1]["sampling"]] == [[10, 100.0], [50, 20.0]]
    assert all(row[2] > 0 for row in found[1]["sampling"]) and found[1]["parameters"] == 7
    assert np.asarray(Image.open(tmp_path / "compression.png")).shape == (plot.HEIGHT, 2 * plot.WIDTH, 3)
    assert "| LDM-4 | 7 | 20 | 100 at " in (tmp_path / "table.md").read_text()

    (tmp_path / "f4" / "steps50" / "point.json").unlink()
    stood_in["trained"].clear(), stood_in["drawn"].clear()
    compression.main([*OPTIONS, "--out", str(tmp_path)])
    assert stood_in["trained"] == [] and stood_in["drawn"] == [(50, "steps50")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--factors", "3"], "--factors has 3, expected some of 1, 2, 4, 8, 16, 32"),
        (["--every", "7"], "--steps is 20, expected a multiple of --every, which is 7"),
        (["--narrow", "3"], "--narrow is 3"),
        (["--draw", "0"], "--draw is 0"),
    ],
)
def test_what_cannot_be_asked_is_said(changed, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        compression.main([*OPTIONS, *changed, "--out", str(tmp_path)])


def test_points_are_where_they_belong():
    panel = plot.Panel({"a": [(1, 1), (100, 10)], "b": [(10, 1)]}, "x", "y", log_x=True)
    picture = plot.draw(panel)
    color = [int(plot.COLORS[1][i : i + 2], 16) for i in (1, 3, 5)]
    ys, xs = np.nonzero((picture[40:] == color).all(-1))  # below the names of the lines
    low = picture.shape[1] - 1.6 * plot.MARGIN
    assert abs(xs.mean() - (plot.MARGIN + low / 2)) < 3  # 10 is the middle of 1 to 100
    assert abs(ys.mean() + 40 - (plot.HEIGHT - plot.MARGIN)) < 3
    with pytest.raises(ValueError, match="positive on logarithmic axes"):
        plot.draw(plot.Panel({"a": [(0, 1)]}, "x", "y", log_x=True))
    with pytest.raises(ValueError, match="0 points"):
        plot.draw(plot.Panel({"a": []}, "x", "y"))
