"""ldm-protocol: what a model is told of each picture, what is measured, and that a stopped run goes on. The model and
Inception are stand-ins: what is drawn is known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from ldm_jax.commands import protocol
from ldm_jax.data import transforms
from ldm_jax.evaluation import networks, pairs, prompts, samples
from ldm_jax.evaluation.protocols import inpaint, text
from ldm_jax.evaluation.samples import SamplingModel
from ldm_jax.find import find, names
from ldm_jax.metrics import table
from ldm_jax.shapes_world import scenes as world
from tests.commands.test_evaluate import extractor, pixels, write

FEW = ["--allow_few", "--bootstrap", "0", "--batch_size", "4", "--splits", "2"]


class Painter:
    """Stands where LatentDiffusion does. paint: what the model is told of a picture -> [H, W, 3] uint8."""

    def __init__(self, takes, paint, size=32):
        latent = (size // 4, size // 4, 4)
        self.system = SimpleNamespace(
            takes=takes, optional=(), image_size=size, latent_shape=latent, parts=(), encodes=(), tokenizer=None,
            example={"layouts": "layout"},
        )  # fmt: skip
        self.devices, self.paint, self.seeds = SimpleNamespace(number=1), paint, []

    def resolve(self, **settings):
        return {name: value for name, value in settings.items() if value is not None}

    def draw(self, _, given, seeds, rows, **options):
        self.seeds += list(seeds)
        each = [{name: values[i] for name, values in given.items()} for i in range(len(seeds))]
        return np.stack([self.paint(told | options) for told in each])


@pytest.fixture
def painted(monkeypatch):
    """(painter, config) puts a painter in the place of every checkpoint."""
    monkeypatch.setattr(networks, "inception", lambda path=None, resize="tf1": extractor())

    def put(painter, config=None):
        monkeypatch.setattr(
            samples, "open_model", lambda args: SamplingModel(painter, config or {}, "painter")
        )
        for name in ("superres", "inpaint", "layout"):
            monkeypatch.setattr(f"ldm_jax.evaluation.protocols.{name}.open_model", samples.open_model)
        monkeypatch.setattr(prompts, "draw", painter.draw)
        return painter

    return put


def run(capsys, *argv) -> dict:
    protocol.main([str(part) for part in argv])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", names(protocol.ROOM))
def test_a_protocol_has_what_its_room_asks_for(name):
    module, made = find(protocol.ROOM, name), protocol.parser(name)
    args = vars(made.parse_args([]))
    assert {key: args[key] for key in module.DEFAULTS} == module.DEFAULTS and args["protocol"] == name
    known = {*table.METRICS, *pairs.DISTANCES}
    assert set(module.DEFAULTS["metrics"].split(",")) <= known
    assert all(set(row) <= known for row in module.PUBLISHED.values()) and module.PUBLISHED
    assert made.parse_args(["--bootstrap", "0"]).bootstrap == 0  # and all that ldm-evaluate takes


def test_superres_sees_what_the_bicubic_filter_made_small(painted, tmp_path, capsys):
    photos = pixels(5, 0, size=40)
    folder = Path(write(tmp_path / "photos", photos))
    Image.fromarray(photos[0][:20]).save(folder / "small.png")  # is left out
    seen = []

    def enlarge(told):
        seen.append(told["low_res_images"])
        return transforms.resize(told["low_res_images"], 32, 32, "bicubic")

    painter = painted(Painter(("low_res_images",), enlarge))
    argv = ["superres", "--checkpoint", "x", "--images", folder, *FEW, "--out", tmp_path / "out"]
    found = run(capsys, *argv)
    squares = [transforms.resize(photo, 32, 32, "bicubic") for photo in photos]
    low = [np.asarray(Image.fromarray(s).resize((8, 8), Image.Resampling.BICUBIC)) for s in squares]
    np.testing.assert_array_equal(seen, low)
    again = [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in low]
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(squares, again, strict=True)]
    assert found["psnr"] == pytest.approx(np.mean(expected)) and found["num_images"] == 5
    assert 0 < found["fid"] and found["is"] >= 1 and painter.seeds == list(range(5))
    written = (tmp_path / "out" / "table.md").read_text()
    assert "| published: LDM-4, 169 M | 2.8 | 166.3 | 24.4 | 0.69 |" in written
    assert run(capsys, *argv)["fid"] == found["fid"] and len(painter.seeds) == 5  # nothing is drawn again
    with pytest.raises(ValueError, match="no picture with sides of at least 32 pixels"):
        small = write(tmp_path / "tiny", pixels(1, 0, size=16))
        protocol.main(
            ["superres", "--checkpoint", "x", "--images", small, *FEW, "--out", str(tmp_path / "o")]
        )


def test_inpaint_hides_as_much_as_it_says(painted, tmp_path, capsys):
    folder, covered = write(tmp_path / "photos", pixels(6, 1, size=32)), []

    def fill(told):
        covered.append(told["masks"].mean())
        return np.where(told["masks"][..., None], np.uint8(0), told["images"])

    painted(Painter(("images", "masks"), fill))
    argv = ["inpaint", "--checkpoint", "x", "--images", folder, "--metrics", "fid,psnr", *FEW]
    found = run(capsys, *argv, "--covers", "all,0.4-0.5", "--out", tmp_path / "out")["covers"]
    assert all(0.4 <= cover <= 0.5 for cover in covered[6:]) and len(covered) == 12
    assert not all(0.4 <= cover <= 0.5 for cover in covered[:6])
    originals, holes = (
        pixels(6, 1, size=32),
        [inpaint.mask_of(i, (32, 32), "mixed", (0.4, 0.5)) for i in range(6)],
    )
    expected = [
        peak_signal_noise_ratio(o, np.where(h[..., None] > 0, np.uint8(0), o))
        for o, h in zip(originals, holes, strict=True)
    ]
    assert found["0.4-0.5"]["psnr"] == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="--covers has '0.5-0.4', expected all or a range"):
        protocol.main([*argv, "--covers", "0.5-0.4", "--out", str(tmp_path / "o")])
    with pytest.raises(ValueError, match="none of 1000 masks of kind 'full' hides 0.1 to 0.2"):
        inpaint.mask_of(0, (8, 8), "full", (0.1, 0.2))


def test_layouts_are_those_of_the_held_out_pictures(painted, tmp_path, capsys):
    data = dict(name="shapes", split="train", num_scenes=8, recipe="none")
    config = dict(task="diffusion", image_size=64, data=data)
    truth = {json.dumps(layout_of(i)): world.render(world.scene(i, "test")) for i in range(6)}
    painted(Painter(("layouts",), lambda told: truth[json.dumps(plain(told["layouts"]))], size=64), config)
    argv = [
        "layout",
        "--checkpoint",
        "x",
        "--split",
        "test",
        "--num_images",
        "6",
        "--metrics",
        "fid,psnr",
        *FEW,
    ]
    found = run(capsys, *argv, "--out", tmp_path / "out")
    assert found["fid"] == pytest.approx(0, abs=1e-6) and found["psnr"] is None  # the pictures themselves
    painted(Painter(("layouts",), lambda told: np.zeros((64, 64, 3), np.uint8), size=64))
    with pytest.raises(ValueError, match="does not say its data: name a folder with --images"):
        protocol.main([*argv, "--out", str(tmp_path / "o")])


def plain(layout: dict) -> dict:
    return {name: np.asarray(layout[name], np.float64).round(6).tolist() for name in ("boxes", "labels")}


def layout_of(index: int) -> dict:
    from ldm_jax.data import pipeline

    return plain(pipeline.open_source("shapes", "test", num_scenes=8)[index]["layout"])


def test_text_draws_one_caption_of_each_picture_at_every_scale(painted, tmp_path, capsys):
    annotations = [
        dict(image_id=image, caption=f"picture {image},\n said  {way}")
        for image in range(9)
        for way in range(5)
    ]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(dict(annotations=annotations)))
    said = []

    def draw(told):
        said.append((told["prompts"], told["guidance_scale"]))
        return np.full((16, 16, 3), len(said), np.uint8)

    painted(Painter(("prompts",), draw, size=16))
    reference = write(tmp_path / "reference", pixels(7, 3))
    argv = [
        "text",
        "--checkpoint",
        "x",
        "--captions",
        file,
        "--reference",
        reference,
        "--num_images",
        "6",
        *FEW,
    ]
    found = run(capsys, *argv, "--metrics", "fid,is", "--scales", "1,3", "--out", tmp_path / "out")
    kept = (tmp_path / "out" / "captions.txt").read_text().splitlines()
    assert said == [(caption, scale) for scale in (1.0, 3.0) for caption in kept]
    assert len({caption.split(",")[0] for caption in kept}) == 6 and all(
        " said " in caption for caption in kept
    )
    assert [point["scale"] for point in found["points"]] == [1.0, 3.0]
    assert (
        "| published: LDM-KL-8-G, 250 steps, scale 1.5 | 12.63 | 30.29 |"
        in (tmp_path / "out" / "table.md").read_text()
    )
    assert text.captions(str(file), 6, 0) == kept and text.captions(str(file), 6, 1) != kept
    with pytest.raises(ValueError, match="9 pictures have some, expected at least 10"):
        text.captions(str(file), 10, 0)
    with pytest.raises(ValueError, match="--scales '1,1', expected different numbers"):
        protocol.main([str(a) for a in [*argv, "--scales", "1,1", "--out", tmp_path / "o"]])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "protocol none not found; there are: inpaint, layout, superres, text"),
        (["texts"], "protocol 'texts' not found; .*did you mean 'text'"),
        (["text", "--out", "o"], "--checkpoint is missing"),
        (["superres", "--checkpoint", "x", "--out", "o"], "--images is missing"),
        (["text", "--checkpoint", "x", "--out", "o", "--steps", "0"], "--steps is 0"),
        (["text", "--checkpoint", "x", "--out", "o"], "--captions is missing"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_sentence(argv, said):
    with pytest.raises(ValueError, match=said) as error:
        protocol.main(argv)
    assert "\n" not in str(error.value)


def test_a_model_of_another_task_is_refused(painted, tmp_path):
    painted(Painter(("prompts",), None))
    folder = write(tmp_path / "photos", pixels(1, 0, size=32))
    with pytest.raises(ValueError, match="takes prompts, expected a model that takes low_res_images"):
        protocol.main(["superres", "--checkpoint", "x", "--images", folder, "--out", str(tmp_path / "out")])
