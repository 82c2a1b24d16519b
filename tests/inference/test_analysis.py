"""Pictures analyzed: one program for all words and levels, and what cannot be."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import recognize
from ldm_jax.find import find
from ldm_jax.inference import analysis, pipeline
from ldm_jax.recognition.base import Shown
from ldm_jax.system import make_system
from tests.inference.test_pipeline import CONFIG as WHOLE
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.inference.test_sizes import SEMANTIC
from tests.tiny_models import random_params

RED, BLUE = "a red circle", "a blue square"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    system = make_system(CONFIG)
    path = tmp_path_factory.mktemp("bundles") / "text"
    bundle.save(path, bundle.Bundle(CONFIG, random_params(system), system.tokenizer))
    return path


@pytest.fixture(scope="module")
def model(checkpoint):
    return pipeline.load(checkpoint)


@pytest.fixture(scope="module")
def photos(model):
    return np.random.default_rng(0).integers(0, 256, (2, *model.system.image_shape, 3), np.uint8)


def test_no_word_level_or_picture_compiles_anew(model, photos):
    first = model.analyze(photos, RED, "daam", levels=(0.2, 0.6))
    compiled = model.num_compiled
    again = model.analyze(photos, RED, "daam", levels=(0.2, 0.6))
    other = model.analyze(photos[::-1], BLUE, "daam", levels=(0.1, 0.9), word="square", threshold=0.7)
    assert model.num_compiled == compiled
    for (name, a), (_, b) in zip(first.found.maps[0], again.found.maps[0], strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert [name for name, _ in first.found.maps[0]] == RED.split()
    assert other.found.labels.shape == photos.shape[:3]
    np.testing.assert_array_equal(first.images, photos)


def test_a_picture_does_not_depend_on_those_beside_it(model, photos):
    both = model.analyze(photos, [RED, BLUE], "daam").found.maps
    alone = model.analyze(photos[1], BLUE, "daam", seeds=[1]).found.maps
    for (_, a), (_, b) in zip(both[1], alone[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "shapes"),
    [
        ("optimized_embeddings", dict(points=[(1, 2)] * 3), {"similar": (2, 3, 16, 16)}),
        ("keypoints", dict(number=4), {"points": (2, 4, 2), "maps": (2, 4, 16, 16)}),
        (
            "picie",
            {},
            {"plain": (2, 4, 4, 24), "one": (2, 4, 4, 24), "two": (2, 4, 4, 24), "there": (2, 4, 4)},
        ),
    ],
)
def test_what_works_with_the_network_is_one_program_of_all_pictures(photos, method, options, shapes):
    """Traced, not compiled: tests that run it are marked slow."""
    system = make_system(WHOLE)
    module, shape = find("recognition", method), system.latent_shape
    images = photos / np.float32(127.5) - 1
    static, arrays = module.given(Shown(images), shape, **options)
    recipe = analysis.SolvingRecipe(method, shape, tuple(sorted(static.items())))
    known = {"x_start": np.zeros((2, *shape), np.float32), "images": images}
    arguments = analysis.Arguments(
        system.param_shapes(), (system.null_inputs(2),), {}, np.arange(2, dtype=np.uint32), np.asarray([1, 1]),
        np.int32(0), {}, known, (arrays,),
    )  # fmt: skip
    found = jax.eval_shape(analysis.make_solver(system, 1.0, recipe), arguments)
    assert {name: value.shape for name, value in found.items()} == shapes


def test_pictures_in_the_light_of_others(model, photos):
    """The second picture has the second one's mean color, and a third again the first one's."""
    shown, like = np.stack([*photos, photos[0]]) / np.float32(255) - 0.5, photos / np.float32(510) - 0.7
    found = analysis._in_light_of(shown, list(like), 0.01)
    np.testing.assert_allclose(found.mean((1, 2)), like[[0, 1, 0]].mean((1, 2)), atol=1e-5)
    assert analysis._in_light_of(shown, None, 0.01) is shown
    with pytest.raises(ValueError, match="like: got no pictures, expected at least one"):
        model.analyze(photos, method="diffseg", like=[])


def test_an_inverted_picture_is_shown_as_its_trajectory_has_it(model, photos):
    """At the step next to a level; of a trajectory that is replaced by the noised picture it is what noise shows."""
    made = model.analyze(photos, RED, "daam", levels=(0.2, 0.6), inversion="ddim")
    alone = model.analyze(photos[1], RED, "daam", levels=(0.2, 0.6), inversion="ddim", seeds=[1])
    noised = model.analyze(photos, RED, "daam", levels=(0.2, 0.6))
    for (_, a), (_, b), (_, c) in zip(
        made.found.maps[1], alone.found.maps[0], noised.found.maps[1], strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert not np.allclose(a, c, atol=1e-5)


def test_the_steps_next_to_the_levels(model, photos):
    kept = {}

    class Spy:
        system = model.system

        def invert(self, *given, **settings):
            kept["found"] = model.invert(*given, **settings)
            return kept["found"]

    seeds = np.arange(2, dtype=np.uint32)
    given = analysis.Arguments((), (), {}, seeds, np.asarray([0, 500], np.int32), 0, {}, {})
    found = analysis._along(Spy(), list(photos), [RED] * 2, "ddim", given, 8)
    trajectory = kept["found"].arrays["trajectory"]
    assert found.visited.tolist()[0] == min(found.visited) and abs(found.visited[1] - 500) <= 20
    np.testing.assert_array_equal(found.known["trajectory"][:, 0], trajectory[:, -2])


def test_a_spatial_model_at_another_size_than_it_was_trained_at():
    network = SEMANTIC["model"] | dict(
        in_channels=5, transformer_depth=0, context_dim=None
    )  # 2, and 3 classes
    system = make_system(SEMANTIC | dict(model=network))
    other = pipeline.LatentDiffusion(system, random_params(system), 1.0)
    side = 2 * system.image_size
    image = np.zeros((side, side, 3), np.uint8)
    assert other.analyze(image, method="correspondence", points=[(1, 1)]).images.shape == (1, side, side, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(method="dam"), "recognition method 'dam' not found; .*; did you mean 'daam'"),
        (
            dict(wird="circle"),
            "daam has no option 'wird'; it has: word, threshold, refine; did you mean 'word'",
        ),
        (dict(word="cross"), "the prompt 'a red circle' has no word 'cross'; it has: a, red, circle"),
        (dict(prompts=None), "daam reads what the words of a prompt look at, expected prompts"),
        (dict(images=None, prompts=None, method="diffseg"), "expected images, or prompts"),
        (dict(levels=(0.5, 1.5)), "levels: got .*, expected parts of the timesteps from 0 to 1"),
        (
            dict(method="keypoints", inversion="ddim"),
            "keypoints noises pictures itself, got inversion 'ddim'",
        ),
        (dict(noises=0), "noises: got 0, expected a whole number from 1"),
        (dict(seeds=[1, 2, 3]), "seeds: got 3 for 2 images, expected as many"),
    ],
)
def test_what_cannot_be(model, photos, given, said):
    with pytest.raises(ValueError, match=said):
        model.analyze(**(dict(images=photos, prompts=RED, method="daam") | given))


def test_pictures_and_words_from_the_command_line(checkpoint, photos, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    first = ["daam", "--checkpoint", str(checkpoint), "--image", *map(str, paths), "--prompt", RED]
    recognize.main([*first, "--word", "circle", "--threshold", "0.5", "--out", str(tmp_path / "seen")])
    said = json.loads((tmp_path / "seen/found.json").read_text())["pictures"]
    assert [list(of_one["seen_most"]) for of_one in said] == [["circle"]] * 2
    with Image.open(tmp_path / "seen/1_labels.png") as labels:
        assert set(np.unique(labels)) <= {0, 1} and labels.size == photos.shape[2:0:-1]
    assert (tmp_path / "seen/0.png").exists()
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(photos.shape[1], dtype=np.uint8)).save(mask)
    with pytest.raises(ValueError, match="diffews: this model takes no examples"):
        recognize.main(["diffews", *first[1:-2], "--labels", str(mask)])


def test_an_option_without_a_value():
    with pytest.raises(ValueError, match="--word: expected options of the method as --NAME VALUE"):
        recognize.main(["daam", "--word"])
