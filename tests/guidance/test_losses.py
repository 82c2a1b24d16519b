"""What universal guidance can ask for: each loss is smallest for what it asks for; all else is one sentence."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.guidance import losses
from ldm_jax.inference.methods import Call
from ldm_jax.models.clip_vision import MEAN, STD
from ldm_jax.shapes_world import scenes as world

SCENES = [world.scene(i, "test", max_objects=1) for i in range(12)]
IMAGES = jnp.asarray(np.stack([world.render(s) for s in SCENES])) / 127.5 - 1
PALETTE = [*world.COLORS.values(), (255, 255, 255)]
COLORS = [world.COLOR_NAMES.index(s.objects[0].color) for s in SCENES]


def call(number=12):
    return Call(number, np.arange(3), 100, (16, 16, 4), None, None, 1.0, image_shape=(64, 64))


def table(asked, images=IMAGES):
    """[target, picture]: the loss of every picture for every picture's target."""
    rows = [
        asked.loss(images, {k: jnp.roll(v, -i, axis=0) for k, v in asked.target.items()}, asked.fixed)
        for i in range(12)
    ]
    return np.stack([[rows[(i - j) % 12][j] for j in range(12)] for i in range(12)])


def test_image_is_half_the_sum_of_squares_of_what_is_made_small():
    small = np.asarray(IMAGES).reshape(12, 16, 4, 16, 4, 3).mean((2, 4))
    asked = losses.prepare(call(), "image", list(small), {})
    np.testing.assert_allclose(np.diag(table(asked)), 0, atol=1e-6)
    np.testing.assert_allclose(table(asked)[0, 1], 0.5 * ((small[0] - small[1]) ** 2).sum(), rtol=1e-4)


def test_the_shipped_classifier_asks_for_the_class():
    names = [f"{s.objects[0].color} {s.objects[0].shape}" for s in SCENES]
    found = table(losses.prepare(call(), "class", names, {}))
    same = np.array([[a == b for b in names] for a in names])
    assert np.median(found[same]) < 0.5 and np.median(found[~same]) > 3


def test_boxes_and_maps_ask_for_what_lies_where():
    boxes = [
        [{"box": [v / 64 for v in (o.x - o.r, o.y - o.r, 2 * o.r, 2 * o.r)], "color": c}]
        for c, (o,) in zip(COLORS, (s.objects for s in SCENES), strict=True)
    ]
    maps = [np.where(world.semantic_mask(s) > 0, c, 6) for c, s in zip(COLORS, SCENES, strict=True)]
    for asked in (
        losses.prepare(call(), "boxes", boxes, dict(palette=PALETTE, background=[6])),
        losses.prepare(call(), "segmentation", maps, dict(palette=PALETTE)),
    ):
        assert (table(asked).argmin(1) == np.arange(12)).mean() >= 11 / 12


def test_the_style_of_a_picture_is_its_gram_matrices():
    asked = losses.prepare(call(), "style", list(np.asarray(IMAGES)), dict(layers=["norm_0"]))
    found = table(asked)
    assert (found.argmin(1) == np.arange(12)).all()
    grams = np.asarray(asked.loss.grams(IMAGES, asked.fixed)[0])
    assert grams.shape == (12, 24, 24)
    np.testing.assert_allclose(found[0, 1], ((grams[0] - grams[1]) ** 2).sum(), rtol=1e-3)
    shifted = asked.loss.grams(jnp.roll(IMAGES, 8, axis=1), asked.fixed)[0]  # where things are does not count
    assert np.abs(shifted - grams).max() < 0.1 * np.abs(grams).max()


def test_the_style_of_clip_is_the_gram_matrix_of_transformers_hidden_states(tmp_path):
    """After the third block, of patches alone, of the picture in CLIP's size and normalization."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    layers = dict(hidden_size=32, num_attention_heads=2, intermediate_size=128)
    text = dict(layers, num_hidden_layers=1, vocab_size=20)
    vision = dict(layers, num_hidden_layers=4, image_size=64, patch_size=16)
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).eval()
    theirs.save_pretrained(tmp_path)
    asked = losses.prepare(call(), "style", list(np.asarray(IMAGES)), dict(classifier=str(tmp_path)))
    pixels = torch.tensor(np.asarray((IMAGES + 1) / 2 - MEAN) / STD).permute(0, 3, 1, 2)
    with torch.no_grad():
        states = theirs.vision_model(pixels, output_hidden_states=True).hidden_states[3][:, 1:].numpy()
    grams = np.einsum("bnc,bnd->bcd", states, states) / states.shape[1]
    np.testing.assert_allclose(asked.loss.grams(IMAGES, asked.fixed)[0], grams, rtol=1e-3, atol=1e-4)
    assert (table(asked).argmin(1) == np.arange(12)).all()
    with pytest.raises(ValueError, match="has no labels, expected one that says what pictures show"):
        losses.prepare(call(), "class", 0, dict(classifier=str(tmp_path)))


def test_a_label_may_be_one_that_is_to_go():
    odds = jnp.asarray([[2.0, -1.0, 0.5]])
    asked = losses.prepare(call(1), "class", 0, dict(classifier=lambda images: odds, leave=2))
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))
    np.testing.assert_allclose(asked.loss(IMAGES[:1], asked.target, asked.fixed), [expected], rtol=1e-5)


def test_a_function_of_images():
    asked = losses.prepare(call(), lambda images: images.mean((1, 2, 3)), None, {})
    np.testing.assert_allclose(asked.loss(IMAGES, {}, {}), IMAGES.mean((1, 2, 3)), rtol=1e-5)
    wrong = losses.prepare(call(), lambda images: images.mean(), None, {})
    with pytest.raises(
        ValueError, match=r"the function gave shape \(\), expected one number for each picture"
    ):
        wrong.loss(IMAGES, {}, {})


@pytest.mark.parametrize(
    "loss, target, options, said",
    [
        ("clas", "red circle", {}, "loss 'clas' not found; there are: image, class.*did you mean 'class'"),
        ("class", None, {}, "target is missing"),
        ("class", "pink circle", {}, "'pink circle' not found; there are: circle"),
        ("class", ["red circle"] * 3, {}, "got 3, expected one, or one for each of 12 pictures"),
        (
            "class",
            "red circle",
            dict(palette=PALETTE),
            "loss 'class' has no option 'palette'; it has: classifier, leave",
        ),
        ("class", "red circle", dict(classifier="nothing"), "classifier 'nothing' not found"),
        (
            "image",
            np.zeros((48, 48, 3), np.uint8),
            {},
            "target is 48 x 48, expected one that is a whole number",
        ),
        ("image", np.zeros((4, 4), np.uint8), {}, "a picture is uint8 of shape"),
        ("style", np.zeros((32, 32, 3), np.uint8), {}, "target is 32 x 32, expected 64 x 64"),
        ("segmentation", np.zeros((64, 64), int), {}, "loss 'segmentation' needs the option 'palette'"),
        ("segmentation", np.full((64, 64), 9), dict(palette=PALETTE), "has the number 9, expected 0 to 6"),
        (
            "segmentation",
            np.zeros((8, 8), int),
            dict(palette=PALETTE),
            "shape .8, 8., expected whole numbers",
        ),
        ("boxes", [{"box": [0, 0, 1]}], dict(palette=PALETTE, background=6), "got .*, expected .'box'"),
        (
            "boxes",
            [{"box": [0, 0, 1, 0], "color": 1}],
            dict(palette=PALETTE, background=6),
            "box is .*expected x0",
        ),
        (
            "boxes",
            [{"box": [0, 0, 1, 1], "color": 7}],
            dict(palette=PALETTE, background=6),
            "color is 7, expected",
        ),
        (
            "boxes",
            [{"box": [2, 2, 1, 1], "color": 1}],
            dict(palette=PALETTE, background=6),
            "covers no pixel",
        ),
        ("boxes", [], dict(palette=[1, 2], background=6), "palette is .*expected colors"),
        ("boxes", [{"box": "x", "color": 1}], dict(palette=PALETTE, background=6), "box is 'x', expected x0"),
        ("boxes", [], dict(palette="red", background=6), "palette is 'red', expected colors"),
        (
            "boxes",
            [],
            dict(palette=PALETTE, background=6, temperature="x"),
            "temperature is 'x', expected a number",
        ),
        (
            "style",
            np.zeros((64, 64, 3), np.uint8),
            dict(layers="norm_9"),
            "layer 'norm_9' not found; there are: conv_0",
        ),
        ("class", 0, dict(classifier=lambda images: images.mean()), "gave shape .. of one picture, expected"),
        (lambda images: images, 3, {}, "a function takes images alone, got the option 'target'"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(loss, target, options, said):
    with pytest.raises(ValueError, match=said):
        losses.prepare(call(), loss, target, options)
