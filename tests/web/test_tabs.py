"""What the tabs of the page call: the library's pictures, and no program for a slider; without gradio."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters as adapter_files
from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.find import find, names
from ldm_jax.inference import pipeline
from ldm_jax.personalization import lora
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL
from ldm_jax.web import adapters, class_label, edit, given, grid, image_to_image, inpaint, layout, steps, text
from tests import tiny_models
from tests.commands.test_sample import CONFIG as SMALL
from tests.commands.test_sample import LAYOUT
from tests.inference.test_pipeline import CONFIG

RED, BLUE = "a red circle", "a blue circle"
STEPS = 4
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle():
    system = make_system(CONFIG)
    return bundle_files.Bundle(CONFIG, tiny_models.random_params(system, gain=1.5), system.tokenizer)


@pytest.fixture(scope="module")
def model(bundle):
    return pipeline.from_bundle(bundle)


def of(config):
    return pipeline.from_bundle(tiny_models.random_bundle(SMALL | config))


def offered(model, adapted=None):
    page = SimpleNamespace(model=model, adapted=adapted)
    return [name for name in names("web") if find("web", name).offered(page)]


def test_tabs_are_what_the_model_can_do(model):
    text_to_image = ["edit", "grid", "image_to_image", "inpaint", "steps", "text"]
    assert offered(model) == text_to_image
    assert offered(model, SimpleNamespace(model=model)) == ["adapters", *text_to_image]
    labels = dict(name="class_label", num_classes=2, width=8)
    assert offered(of(dict(conditioning=labels, class_names=["ant", "bee"]))) == ["class_label"]
    assert offered(of(dict(conditioning=LAYOUT))) == ["layout"]
    places = [find("web", name).PLACE for name in names("web")]
    assert len(set(places)) == len(places)


def test_what_is_drawn_is_the_librarys_and_sliders_compile_nothing(model):
    drawn = text.draw(model, RED, "", range(2, 4), 3.0, STEPS)
    np.testing.assert_array_equal(drawn, model.sample([RED] * 2, [2, 3], guidance_scale=3.0, num_steps=STEPS))
    again = image_to_image.draw(model, PHOTO, RED, 0.5, range(2), 3.0, STEPS)
    compiled = model.num_compiled
    for scale in (given.LEAST_SCALE, 12):
        assert (text.draw(model, BLUE, "", range(7, 9), scale, STEPS) != drawn).any()
    for strength in (0.05, 0.3, 0.95):
        other = image_to_image.draw(model, PHOTO[:20], RED, strength, range(2), 2.0, STEPS)
    assert (other != again).any()
    assert model.num_compiled == compiled


@pytest.mark.parametrize(
    "method",
    [m if m.name == "prompt_to_prompt" else pytest.param(m, marks=pytest.mark.slow) for m in edit.METHODS],
    ids=lambda method: method.name,
)
def test_sliders_of_an_edit_compile_nothing(model, method):
    image = PHOTO if method.of_picture else None

    def made(values):
        options = {o.name: value for o, value in zip(method.options, values, strict=True)}
        return edit.draw(model, method.name, RED, BLUE, range(1), options, 3.0, STEPS, image).images

    middle = made([o.value for o in method.options])
    compiled = model.num_compiled
    ends = [made([getattr(o, end) for o in method.options]) for end in ("least", "most")]
    assert model.num_compiled == compiled
    assert (ends[0] != ends[1]).any() or (ends[0] != middle).any()


def test_an_edit_of_pictures_needs_one(model):
    with pytest.raises(ValueError, match="diffedit changes a picture that is uploaded, and there is none"):
        edit.draw(model, "diffedit", RED, BLUE, range(1), {}, 3.0, STEPS)


def test_methods_and_options_of_the_tab_are_the_rooms():
    from ldm_jax.inference import methods

    for method in edit.METHODS:
        known = methods.options_of("editing", method.name)
        for option in method.options:
            assert option.name in known and option.least < option.value < option.most
            assert known[option.name].default == option.value or method.name == "masactrl"


def test_what_is_not_painted_stays(model):
    start = text.draw(model, RED, "", range(2), 3.0, STEPS)[0]
    shown = given.enlarged(start, 64)
    assert shown.shape == (64, 64, 3)
    hole = np.zeros((64, 64), bool)
    hole[16:48, 16:32] = True
    filled = inpaint.draw(model, shown, hole, BLUE, range(2), 3.0, STEPS)
    kept = ~given.fitted(hole, (16, 16))
    assert (filled[:, kept] == start[kept]).all() and (filled[:, ~kept] != start[~kept]).any()
    with pytest.raises(ValueError, match="the hole is nothing or all of the picture"):
        inpaint.draw(model, shown, np.ones((64, 64), bool), BLUE, range(1), 3.0, STEPS)


def test_strokes_and_boxes():
    layer = np.zeros((40, 20, 4), np.uint8)
    editor = dict(background=np.full((40, 20, 4), 255, np.uint8), layers=[layer], composite=None)
    with pytest.raises(ValueError, match="nothing is painted"):
        given.painted(editor)
    layer[10:30, 5:15, 3] = 9
    assert given.box(given.painted(editor)) == [0.25, 0.25, 0.5, 0.5]
    assert given.background(editor).shape == (40, 20, 3)
    with pytest.raises(ValueError, match="there is no picture yet"):
        given.background(None)


def test_a_grid_has_a_row_for_each_scale(model):
    sheet = grid.draw(model, RED, range(2), [1.5, 4.0], STEPS)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 2 * 160
    assert grid.scales("1.5, 4") == [1.5, 4.0]
    for wrong in ("", "1, x", "0.5", "1,2,3,4,5,6,7", "nan"):
        with pytest.raises(ValueError, match="expected 1 to 6 numbers from 1 to 100"):
            grid.scales(wrong)


def test_a_film_strip_ends_with_the_picture(model):
    strip = steps.strip(model, RED, 5, 3.0, STEPS)
    assert [said for _, said in strip][-2:] == [f"step {STEPS}, t = {_last_timestep(model)}", "drawn"]
    plain = model.sample(RED, [5], guidance_scale=3.0, num_steps=STEPS)[
        0
    ]  # by another program, without previews
    np.testing.assert_allclose(strip[-1][0].astype(int), plain.astype(int), atol=1)


def _last_timestep(model) -> int:
    found = []
    model.sample(RED, [5], num_steps=STEPS, callback=lambda step: found.append((step.index, step.t)))
    return int(max(found)[1])


def test_weights_of_adapters_compile_nothing_and_zero_is_the_base(bundle, model, tmp_path):
    delta = jax.tree.map(
        lambda a: a + 0.5, lora.init(jax.random.key(0, impl=KEY_IMPL), bundle.params, rank=2)
    )
    adapter_files.save(
        tmp_path / "a", adapter_files.Adapter(dict(name="lora", rank=2, alpha=2.0), delta, "tiny")
    )
    adapted = adapters.Adapted(bundle, [f"{tmp_path / 'a'}:0.5"], tmp_path / "kept")
    assert list((tmp_path / "kept").glob("*.shapes"))
    asked = (RED, "", range(2), 3.0, STEPS)
    half = adapted.draw([0.5], *asked)
    compiled = adapted.model.num_compiled
    whole, none = adapted.draw([1.0], *asked), adapted.draw([0.0], *asked)
    assert adapted.model.num_compiled == compiled
    assert (whole != half).any()
    np.testing.assert_array_equal(none, text.draw(model, *asked))
    expected = pipeline.from_bundle(adapter_files.applied(bundle, [(adapted.adapters[0], 1.0)]))
    np.testing.assert_array_equal(whole, text.draw(expected, *asked))


def test_layouts_and_classes():
    model = of(dict(conditioning=LAYOUT, class_names=["ant", "bee"]))
    said = layout.added(layout.added("", [0.1, 0.1, 0.5, 0.5], "bee"), [0, 0, 1, 1], "ant")
    assert json.loads(said)["labels"] == ["bee", "ant"]
    images, first = layout.draw(model, said, range(2), None, 2)
    told = dict(boxes=[[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]], labels=[1, 0])
    np.testing.assert_array_equal(images, model.sample(layouts=[told] * 2, seeds=[0, 1], num_steps=2))
    assert first.shape == (512, 512, 3)
    for wrong in ("[", "[]", "/etc/passwd", '{"boxes": 3, "labels": 3}', '{"path": "x"}'):
        with pytest.raises(ValueError, match="the layout is no JSON"):
            layout.draw(model, wrong, range(1), None, 2)
    with pytest.raises(ValueError, match="'cat'"):
        layout.draw(model, layout.added("", [0, 0, 1, 1], "cat"), range(1), None, 2)

    labels = dict(name="class_label", num_classes=2, width=8)
    model = of(dict(conditioning=labels, class_names=["ant", "bee"]))
    drawn = class_label.draw(model, "bee", range(2), None, 2)
    np.testing.assert_array_equal(drawn, model.sample(class_labels=[1, 1], seeds=[0, 1], num_steps=2))


def test_a_slider_of_guidance_begins_with_what_is_recommended():
    for recommended, expected in ((7.5, (1.1, 12)), (1.0, (1.0, 12)), (15.0, (1.1, 15))):
        least, most = given.scales(recommended)
        assert (least, most) == expected and least <= recommended <= most


def test_seeds_that_are_none():
    assert list(given.seeds(3, 2)) == [3, 4]
    for wrong in ((0.5, 1), (-1, 1), (0, 9), (0, 0), (None, 1)):
        with pytest.raises(ValueError, match="expected"):
            given.seeds(*wrong)
