"""sample.py with files: small random models end to end, what is written, and what becomes of bad jobs."""

import argparse
import json
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import grid
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import draw, sample
from ldm_jax.conditioning import layout as layout_conditioning
from ldm_jax.data import folder as folder_source
from ldm_jax.data.pictures import files_in
from ldm_jax.inference import pipeline
from ldm_jax.inference.callbacks import Step
from ldm_jax.metrics.images import open_images
from ldm_jax.tasks import run
from ldm_jax.tasks.jobs import Job
from tests import tiny_models

CONFIG = dict(
    task="diffusion",
    image_size=16,
    first_stage=dict(
        name="kl", channels=8, channel_mult=[1, 1], num_res_blocks=1, z_channels=2, embed_dim=2, num_groups=4
    ),
    model=dict(
        in_channels=2, out_channels=2, channels=8, channel_mult=[1], num_res_blocks=1, attention_levels=[0],
        num_heads=2, transformer_depth=1, context_dim=8, num_groups=4,
    ),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195),
    prediction_type="v",
    scale_factor=1.0,
    sampling=dict(num_steps=2),
)  # fmt: skip
WORDS = dict(name="word_level", words=["red", "circle"], max_length=4)
TEXT = dict(name="text", width=8, num_layers=1, max_length=4, num_heads=2, head_dim=4, tokenizer=WORDS)
LAYOUT = dict(name="layout", vocab_size=64, num_classes=2, width=8, num_layers=1, max_length=11)
LAYOUT |= dict(num_heads=2, head_dim=4)
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
HOLE = np.zeros((16, 24), bool)
HOLE[4:12, 6:12] = True


def save_model(path, **changes):
    model = CONFIG["model"] | changes.pop("model", {})
    made = tiny_models.random_bundle(CONFIG | changes | dict(model=model))
    bundle.save(path, made)
    return str(path)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return pipeline.load(save_model(tmp_path_factory.mktemp("text") / "model", conditioning=TEXT))


@pytest.fixture
def loaded(text_model, monkeypatch):
    """sample.py gets the text model, whatever --checkpoint says, so that it compiles each program once."""
    monkeypatch.setattr(pipeline, "load", lambda *args, **options: text_model)
    return text_model


@pytest.fixture(scope="module")
def layout_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "model"
    return pipeline.load(save_model(path, conditioning=LAYOUT, class_names=["ant", "bee"]))


def picture(path):
    return np.asarray(Image.open(path))


def test_lines_of_jobs_of_several_tasks(loaded, tmp_path, capsys):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(HOLE).save(tmp_path / "hole.png")
    lines = [
        json.dumps(dict(prompt="red circle", name="red")),
        json.dumps(dict(image="photo.png", strength=0.5)),
        "{",
        json.dumps(dict(image="photo.png", mask="hole.png", name="filled")),
        json.dumps(dict(image="away.png")),
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="2 of 5 jobs failed"):
        sample.main(["--jobs", str(tmp_path / "jobs.jsonl"), "--out", str(out)])
    assert sorted(p.name for p in out.iterdir()) == [
        "filled.png", "grid.png", "photo.png", "red.png",
    ]  # fmt: skip
    assert picture(out / "photo.png").shape == (16, 24, 3)
    assert picture(out / "red.png").shape == (16, 16, 3)
    filled = picture(out / "filled.png")
    np.testing.assert_array_equal(filled[~HOLE], PHOTO[~HOLE])
    assert (filled[HOLE] != PHOTO[HOLE]).any()
    text = Image.open(out / "photo.png").text
    assert text["image"].endswith("photo.png") and text["strength"] == "0.5" and text["seed"] == "0"
    shown = capsys.readouterr()
    assert "jobs.jsonl line 3: no JSON" in shown.err
    assert "jobs.jsonl line 5: image" in shown.err and "away.png is not there" in shown.err
    assert "3 pictures and grid.png" in shown.out

    # the same in python, one by one
    ((job, alone),) = run.run(loaded, [dict(image=PHOTO, strength=0.5, name="photo")], "img2img", num_steps=2)
    assert job.name == "photo"
    assert np.abs(alone.astype(int) - picture(out / "photo.png")).max() <= 1


def test_a_folder_of_pictures_and_masks(tmp_path, capsys):
    checkpoint = save_model(
        tmp_path / "model",
        conditioning=dict(name="inpaint"),
        model=dict(in_channels=2 + 3, attention_levels=[], context_dim=None),
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        Image.fromarray(PHOTO).save(folder / f"{name}.png")
    Image.fromarray(HOLE).save(folder / "a_mask.png")
    Image.fromarray(HOLE[:, :16]).save(folder / "b_mask.png")
    Image.fromarray(HOLE).save(folder / "d_mask.png")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="2 of 4 jobs failed"):
        sample.main(
            ["--checkpoint", checkpoint, "--image", str(folder), "--out", str(out), "--batch_size", "2"]
        )
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "d.png", "grid.png"]
    # What is measured, trained on and started from is the pictures, not the grid of them.
    trained = folder_source.source("train", root=out)
    trained = [trained.path(i) for i in range(len(trained))]
    for found in (open_images(out).files, trained, files_in(out)):
        assert [file.name for file in found] == ["a.png", "d.png"]
    np.testing.assert_array_equal(picture(out / "d.png")[~HOLE], PHOTO[~HOLE])
    said = capsys.readouterr().err
    assert "c.png: no mask for it" in said
    assert "b.png: the mask is 16 x 16 and its image 16 x 24" in said


def test_of_many_pictures_those_that_the_grid_shows_are_kept(tmp_path, monkeypatch):
    """Each is written when it comes, and let go of; the grid shows the first."""
    monkeypatch.setattr(draw, "GRID_PIXELS", 4 * 16 * 16)
    made = [Job(str(i), i, {}, f"seed {i}") for i in range(20)]
    alive = []

    def results():
        for job in made:
            assert sum(ref() is not None for ref in alive) <= 5 and len(list(tmp_path.iterdir())) == len(
                alive
            )
            image = np.full((16, 16, 3), job.seed, np.uint8)
            alive.append(weakref.ref(image))
            yield job, image

    asked = argparse.Namespace(out=str(tmp_path), seeds="0-19")
    assert draw.draw(results(), made, asked, {}, True, None, draw.Progress(20)) == (20, 0)
    assert len(list(tmp_path.glob("*.png"))) == 21 and picture(tmp_path / "grid.png").shape == (38, 38, 3)


def test_layouts_and_their_boxes(layout_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "load", lambda *args, **options: layout_model)
    (tmp_path / "good.json").write_text(
        json.dumps(dict(boxes=[[0, 0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]], labels=["bee", 0]))
    )
    (tmp_path / "bad.json").write_text(json.dumps(dict(boxes=[[0.9, 0, 0.5, 0.5]], labels=["bee"])))
    (tmp_path / "unknown.json").write_text(json.dumps(dict(boxes=[[0, 0, 1, 1]], labels=["cat"])))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="2 of 3 jobs failed"):
        sample.main(["--task", "layout", "--layout", str(tmp_path), "--out", str(out)])
    assert sorted(p.name for p in out.iterdir()) == ["good.png", "good_boxes.png", "grid.png"]
    assert [file.name for file in open_images(out).files] == ["good.png"]
    assert picture(out / "good_boxes.png").shape == (512, 512, 3)
    said = capsys.readouterr().err
    assert "bad.json: layout: box 0" in said and "unknown.json: class 'cat' not found" in said


def test_boxes_of_what_the_model_was_told(layout_model, tmp_path, monkeypatch, capsys):
    """Of five objects it has room for three; tokens are drawn as the layout that they say."""
    monkeypatch.setattr(pipeline, "load", lambda *args, **options: layout_model)
    kept = dict(boxes=[[0, 0, 0.5, 0.5]] * 3, labels=[0, 1, 0])
    many = dict(boxes=kept["boxes"] + [[0.5, 0.5, 0.5, 0.5]] * 2, labels=[0, 1, 0, 1, 1])
    tokens = layout_conditioning.tokens(kept, vocab_size=64, num_classes=2, max_length=11).tolist()
    lines = dict(many=many, kept=kept, tokens=tokens, none=[63] * 11)
    (tmp_path / "jobs.jsonl").write_text(
        "\n".join(json.dumps(dict(layout=layout, name=name)) for name, layout in lines.items())
    )
    out = tmp_path / "out"
    sample.main(["--batch_size", "1", "--jobs", str(tmp_path / "jobs.jsonl"), "--out", str(out)])
    np.testing.assert_array_equal(picture(out / "many_boxes.png"), picture(out / "kept_boxes.png"))
    assert (out / "tokens_boxes.png").exists()
    assert (out / "none.png").exists() and not (out / "none_boxes.png").exists()
    said = capsys.readouterr()
    assert "line 4: no none_boxes.png: layout: token 63 in the place of a point" in said.err
    assert "4 pictures" in said.out


def test_inputs_are_not_written_over(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run", lambda *args, **options: pytest.fail("something was drawn"))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    Image.fromarray(PHOTO).save(tmp_path / "grid.png")
    (tmp_path / "sub").mkdir()
    for image in ("photo.png", "grid.png", ""):
        with pytest.raises(ValueError, match=r"written over .*(photo|grid)\.png, the image of job") as error:
            sample.main(["--image", str(tmp_path / image), "--out", str(tmp_path / "sub" / "..")])
        assert "\n" not in str(error.value)
    assert (tmp_path / "photo.png").read_bytes() == before


def test_the_default_prompt_is_of_the_command_line_alone(loaded, tmp_path, monkeypatch):
    asked = []
    real = run.run
    monkeypatch.setattr(
        run, "run", lambda model, jobs, *a, **o: asked.extend(jobs) or real(model, [], *a, **o)
    )
    (tmp_path / "jobs.jsonl").write_text(json.dumps(dict(seed=5)))
    sample.main(["--jobs", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out")])
    sample.main(["--seeds", "1", "--out", str(tmp_path / "out")])
    assert [(job.seed, job.given) for job in asked] == [(5, {}), (1, dict(prompt=sample.PROMPT))]


def test_previews_of_steps_are_what_the_callback_sees(loaded, tmp_path, capsys):
    """Of jobs of one seed too, and they are no pictures to measure or to train on."""
    lines = [json.dumps(dict(prompt=prompt, seed=3, name=prompt)) for prompt in ("red", "circle")]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    out, steps = tmp_path / "out", []
    sample.main(
        ["--jobs", str(tmp_path / "jobs.jsonl"), "--out", str(out), "--preview_every", "2", "--steps", "3"]
    )
    assert sorted(p.name for p in (out / "previews").iterdir()) == [
        f"{name}_{step:04d}_preview.png" for name in ("circle", "red") for step in (2, 3)
    ]
    loaded.sample(["red", "circle"], [3, 3], num_steps=3, callback=steps.append)
    for step in (2, 3):
        shown = grid.to_uint8(loaded.decode(steps[step - 1].x_start))
        for name, expected in zip(("red", "circle"), shown, strict=True):
            preview = picture(out / "previews" / f"{name}_{step:04d}_preview.png")
            assert np.abs(preview.astype(int) - expected).max() <= 1
    assert {step.num_steps for step in steps} == {3}
    assert "step 3/3" in capsys.readouterr().err
    assert len(open_images(out).files) == 2


def test_the_last_step_of_a_shorter_run_is_previewed(tmp_path):
    """A run that begins later counts its own steps: 25 of 50 at a strength of a half."""
    shown = draw.Previews(lambda x: np.zeros((len(x), 4, 4, 3), np.float32), tmp_path, 10, draw.Progress(1))
    for i in range(25):
        at = Step(np.zeros(1, np.uint32), i, 0.0, np.zeros((1, 2, 2, 1)), np.zeros(1, np.int32), 25)
        shown.on_step([Job("0", 0, {}, "seed 0")], at)
    shown.close()
    written = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert written == [f"0_{step:04d}_preview.png" for step in (10, 20, 25)]


def test_settings_in_the_form_that_other_tools_read(loaded, tmp_path):
    """The last line is pairs with a word for a key; what is above it, prompt and negative prompt."""
    asked = ["--prompt", "red circle", "--negative_prompt", "red", "--guidance_scale", "2", "--seeds", "7"]
    sample.main([*asked, "--size", "16x32", "--sampler", "euler_ancestral", "--out", str(tmp_path)])
    *said, last = Image.open(tmp_path / "7.png").text["parameters"].split("\n")
    assert said == ["red circle", "Negative prompt: red"]
    pairs = dict(pair.split(": ") for pair in last.split(", "))
    assert pairs == {
        "Steps": "2", "Sampler": "Euler a", "Schedule type": "Uniform", "CFG scale": "2.0", "Seed": "7",
        "Size": "32x16", "Model": "shapes",
    }  # fmt: skip


def test_what_flags_refuse(loaded, tmp_path):
    def message(*args):
        with pytest.raises(ValueError) as error:
            sample.main(["--out", str(tmp_path / "out"), *args])
        return str(error.value)

    assert "takes prompts; it can do: text, inpaint, img2img" in message("--task", "superres")
    assert "'paint' not found" in message("--task", "paint")
    assert "takes prompt, negative_prompt, size, got class_label" in message("--class_label", "3")
    assert "expected height x width" in message("--size", "large")
    assert "expected multiples of 2" in message("--size", "7x9")
    assert "'squash' not found" in message("--fit", "squash")
    assert "'dimm' not found" in message("--sampler", "dimm")
    assert "is not there" in message("--jobs", str(tmp_path / "away.jsonl"))
    assert "1 of 1 jobs failed" in message("--image", str(tmp_path / "away.png"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--sampler", "dimm"], "sampler 'dimm' not found"),
        (["--guidance", "interval,intervall"], "guidance method 'intervall' not found"),
        (["--edit", "prompt_to_promt"], "editing method 'prompt_to_promt' not found"),
        (["--inversion", "null"], "inversion method 'null' not found"),
        (["--spacing", "karas"], "timestep spacing 'karas' not found"),
        (["--guidance_scale", "nan"], "guidance_scale: got nan"),
    ],
)
def test_wrong_names_are_said_before_a_model_is_opened(monkeypatch, asked, said):
    monkeypatch.setattr(pipeline, "load", lambda *args, **options: pytest.fail("a model was opened"))
    with pytest.raises(ValueError, match=said):
        sample.main(asked)


def test_dry_run_counts_what_the_model_has(tmp_path, capsys):
    path = save_model(tmp_path / "model", conditioning=TEXT)
    model = pipeline.load(path)
    sample.main(["--checkpoint", path, "--dry_run", "--steps", "7", "--batch_size", "3"])
    said = json.loads(capsys.readouterr().out)
    counted = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in model.params.items()}
    assert said["parameters"] == counted
    assert said["settings"] == model.resolve(num_steps=7) and said["takes"] == ["prompts"]
    assert said["shapes"]["latents"] == [3, *model.system.latent_shape]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--topology", "v5e:1x1"], "--topology v5e:1x1 goes with --dry_run: nothing is run on it"),
        (["--dry_run", "--config", "configs/kl_f8.py"], "configs/kl_f8.py is a first stage alone"),
        (["--dry_run", "--steps", "1001"], "1001"),
        (["--dry_run", "--sampler", "dim"], "'dim' not found"),
    ],
)
def test_what_a_dry_run_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        sample.main(args)


def test_methods_by_flags_and_in_jobs(loaded, tmp_path):
    """--guidance and --edit with the options of their own signatures; a line of a jobs file says the same as JSON."""
    out, jobs = tmp_path / "flags", tmp_path / "jobs.jsonl"
    asked = [
        "--guidance_scale",
        "2",
        "--guidance",
        "interval",
        "--guidance.scale",
        "[5, 1]",
        "--guidance.rescale=0.5",
    ]
    sample.main(["--prompt", "red circle", "--seeds", "3", "--out", str(out), *asked])
    written = Image.open(out / "3.png")
    assert json.loads(written.text["guidance"]) == {"interval": {"scale": [5, 1], "rescale": 0.5}}
    jobs.write_text(
        json.dumps(
            dict(
                name="a",
                prompt="red circle",
                seed=3,
                guidance={"interval": {"scale": [5, 1], "rescale": 0.5}},
            )
        )
        + "\n"
        + json.dumps(dict(name="b", prompt="red circle", seed=3))
        + "\n"
        + json.dumps(
            dict(name="c", prompt="circle red", seed=3, edit={"prompt_to_prompt": {"source": "red circle"}})
        )
        + "\n"
    )
    sample.main(["--jobs", str(jobs), "--guidance_scale", "2", "--out", str(tmp_path / "jobs")])
    a, b, c = (np.asarray(Image.open(tmp_path / "jobs" / f"{name}.png")) for name in "abc")
    np.testing.assert_array_equal(a, np.asarray(written))
    assert (a != b).any() and (c != b).any()


def test_a_job_with_a_method_that_cannot_be_stops_no_other(loaded, tmp_path, capsys):
    jobs = tmp_path / "jobs.jsonl"
    lines = [
        dict(name="a", prompt="red circle", seed=3, guidance="intervall"),
        dict(name="b", prompt="red circle", seed=3),
        dict(name="c", prompt="red (circle", seed=3),
    ]
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="2 of 3 jobs failed"):
        sample.main(["--jobs", str(jobs), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "b.png").is_file() and not (tmp_path / "out" / "a.png").exists()
    said = capsys.readouterr().err
    assert "did you mean 'interval'" in said and "line 3: prompt 'red (circle': the '('" in said


@pytest.mark.parametrize(
    "asked, said",
    [
        (["--guidance", "intervall"], "guidance method 'intervall' not found.*did you mean 'interval'"),
        (
            ["--guidance", "interval", "--guidance.scael", "3"],
            "interval has no option 'scael'; it has: scale, start",
        ),
        (["--guidance.scale", "3"], "--guidance.scale: expected one method in --guidance, got None"),
        (
            ["--sampler", "lms", "--sampler.ordr", "3"],
            "sampler 'lms' takes no ordr .got 3.; it takes: final_alpha, order",
        ),
        (["--prompt_2", "blue"], "--prompt_2: .* has no second text encoder"),
        (
            ["--edit", "prompt_to_prompt", "--edit.source", "red", "--edit.align", "replace"],
            "'red' has 1 words and 'red circle' has 2",
        ),
    ],
)
def test_methods_that_cannot_be_are_said(loaded, tmp_path, asked, said):
    with pytest.raises(ValueError, match=said):
        sample.main(["--prompt", "red circle", "--seeds", "0", "--out", str(tmp_path), *asked])
