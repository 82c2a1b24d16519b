"""What every file of inversion/ must do. A new one is tested by being there, with a row of OPTIONS."""

import numpy as np
import pytest

from ldm_jax.find import find, names
from ldm_jax.inference import methods, pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

# Of each method: options, others of the same kind, and how far (in levels of 255) the picture drawn again without an
# edit may be from the autoencoder's, at a guidance scale of 3 and of 1.
OPTIONS = {
    "ddim": ({}, {}, (None, None)),
    "fixed_point": (dict(refinements=30), dict(refinements=2), (None, 2)),
    "edit_friendly": ({}, dict(scale=1.0), (1, None)),
    "null_text": (dict(steps=40, rate=0.1), dict(steps=3, tolerance=1e-3), (None, None)),
    "negative_prompt": ({}, {}, (None, None)),
}
every_method = pytest.mark.parametrize("name", names("inversion"))
QUICK = dict(num_steps=4, guidance_scale=3.0)
PICTURES = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))
WORDS = ["a red circle", "a blue circle"]


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.0), 1.5, CONFIG)


def test_every_method_has_a_row():
    assert sorted(OPTIONS) == names("inversion")


@every_method
def test_what_a_method_says_of_itself(name):
    module = find("inversion", name)
    assert module.__doc__ and module.ETA in (0.0, 1.0) and isinstance(module.FOLLOWS, bool)
    assert set(getattr(module, "NEEDS", ())) <= {"uncond", "context"}
    assert set(OPTIONS[name][0]) <= set(methods.options_of("inversion", name))


@every_method
def test_another_picture_prompt_or_number_compiles_nothing(model, name):
    first, second, _ = OPTIONS[name]
    one = model.invert(PICTURES, WORDS, {name: first}, **QUICK)
    drawn = model.sample(WORDS, [0, 1], inverted=one, **QUICK)
    before = model.num_compiled
    other = model.invert(
        [255 - x for x in PICTURES], "a circle", {name: second}, [5, 6], **QUICK | dict(guidance_scale=2.0)
    )
    again = model.sample(WORDS[::-1], [5, 6], inverted=other, **QUICK | dict(guidance_scale=4.0))
    assert model.num_compiled == before and (drawn != again).any()
    shapes = {k: v for k, v in one.arrays.items() if k != "uncond"}
    assert (
        one.arrays["trajectory"].shape == (2, 5, 4, 4, 2)
        and one.settings["eta"] == find("inversion", name).ETA
    )
    assert all(np.shape(v)[:1] == (2,) and v.dtype == np.float32 for v in shapes.values())


@every_method
def test_the_picture_is_drawn_again(model, name):
    """Up to the error of the method; where it starts, and where it is said to end, is the encoded picture."""
    options, _, bounds = OPTIONS[name]
    encoded = model.encode(np.stack(PICTURES).astype(np.float32) / 127.5 - 1)
    rebuilt = model.sample(WORDS, [0, 1], init_images=PICTURES, strength=0.0)
    for scale, bound in zip((3.0, 1.0), bounds, strict=True):
        if bound is None:
            continue
        asked = QUICK | dict(guidance_scale=scale)
        found = model.invert(PICTURES, WORDS, {name: options}, **asked)
        np.testing.assert_allclose(found.arrays["trajectory"][:, -1], encoded, atol=1e-4)
        drawn = model.sample(WORDS, [0, 1], inverted=found, **asked)
        assert np.abs(drawn.astype(int) - rebuilt).max() <= bound


@every_method
def test_the_source_of_an_edit_of_a_given_picture(model, name):
    """The edit's source branch is the picture drawn again, and the method's own strengths still work."""
    options = {name: OPTIONS[name][0]}
    edited = model.edit(WORDS, WORDS[::-1], image=PICTURES, inversion=options, **QUICK)
    found = model.invert(PICTURES, WORDS, options, **QUICK)
    if find("inversion", name).FOLLOWS:  # to the bit: it is put back
        rebuilt = model.sample(WORDS, [0, 1], init_images=PICTURES, strength=0.0)
        np.testing.assert_array_equal(edited.sources["source"], rebuilt)
    else:
        drawn = model.sample(WORDS, [0, 1], inverted=found, **QUICK)
        assert np.abs(edited.sources["source"].astype(int) - drawn).max() <= 1  # another program: rounding
    assert (edited.images != edited.sources["source"]).any()
    before = model.num_compiled
    model.edit(
        WORDS[::-1], WORDS, image=PICTURES[::-1], inversion=options, options=dict(cross_steps=0.2), **QUICK
    )
    assert model.num_compiled == before


def test_the_last_steps_alone(model):
    """strength: from where the trajectory is then; none at all is the picture itself."""
    found = model.invert(PICTURES, WORDS, {"edit_friendly": {}}, **QUICK)
    rebuilt = model.sample(WORDS, [0, 1], init_images=PICTURES, strength=0.0)
    for strength in (0.0, 0.5):
        drawn = model.sample(WORDS, [0, 1], inverted=found, strength=strength, **QUICK)
        assert np.abs(drawn.astype(int) - rebuilt).max() <= 1
    other = model.sample(WORDS[::-1], [0, 1], inverted=found, strength=0.5, **QUICK)
    whole = model.sample(WORDS[::-1], [0, 1], inverted=found, **QUICK)
    far = [np.square(x.astype(float) - rebuilt).mean() for x in (other, whole)]
    assert 0 < far[0] < far[1]


def test_a_picture_is_inverted_by_itself(model):
    """What is found of a picture does not depend on those beside it, up to rounding."""
    for name in names("inversion"):
        both = model.invert(PICTURES, WORDS, {name: OPTIONS[name][0]}, [3, 4], **QUICK).arrays
        alone = model.invert(PICTURES[1], WORDS[1], {name: OPTIONS[name][0]}, [4], **QUICK).arrays
        bound = 5e-2 if name == "null_text" else 2e-3  # tuning makes more of rounding
        np.testing.assert_allclose(alone["trajectory"][0], both["trajectory"][1], atol=bound)


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(inversion="dimd"), "inversion method 'dimd' not found.*did you mean 'ddim'"),
        (
            dict(inversion={"fixed_point": dict(refinement=3)}),
            "no option 'refinement'.*did you mean 'refinements'",
        ),
        (
            dict(inversion={"fixed_point": dict(refinements=0.5)}),
            "refinements is 0.5, expected a whole number",
        ),
        (dict(inversion={"null_text": dict(steps=-1)}), "steps is -1, expected a whole number of at least 0"),
        (dict(inversion={"null_text": dict(rate=-1.0)}), "rate is -1.0, expected a number of at least 0"),
        (dict(inversion=3), "inversion: got 3, expected a name, or {name: {option: value}}"),
        (dict(image=None), "inversion 'ddim': there is no image that it could be of"),
        (dict(sampler="euler"), "inversion ddim is of sampler ddim, got sampler 'euler'"),
        (dict(eta=0.5), "inversion ddim draws again with eta 0, got eta 0.5"),
        (dict(image=PICTURES[:1] * 3), "image: got 3 for 2 seeds"),
        (dict(image=np.zeros((15, 16, 3), np.uint8)), "15"),
        (dict(tile=16), "inverted pictures are drawn from their own latents in one piece, got tile"),
        (dict(latents=np.zeros((2, 4, 4, 2))), "in one piece, got latents"),
        (dict(strength=1.5), "strength: got 1.5, expected a finite number from 0 to 1"),
    ],
)
def test_what_cannot_be_inverted_is_said_before_anything_is_compiled(model, asked, said):
    before = model.num_compiled
    with pytest.raises(ValueError, match=said):
        model.edit(
            "a red circle",
            "a blue circle",
            seeds=[0, 1],
            **dict(image=PICTURES, inversion="ddim", **QUICK) | asked,
        )
    assert asked.keys() & {"tile", "latents", "strength"} or model.num_compiled == before


def test_settings_of_another_run_are_refused(model):
    found = model.invert(PICTURES, WORDS, **QUICK)
    with pytest.raises(ValueError, match="num_steps is 5, and the pictures were inverted with 4"):
        model.sample(WORDS, [0, 1], inverted=found, num_steps=5)
    with pytest.raises(ValueError, match="inverted: got 2 pictures for 1 seeds"):
        model.sample(WORDS[0], [0], inverted=found)


def test_models_that_cannot_invert_are_named(model):
    decoder = {k: v for k, v in model.params["first_stage"].items() if "encoder" not in k}
    blind = pipeline.LatentDiffusion(model.system, dict(model.params, first_stage=decoder), 1.5, CONFIG)
    with pytest.raises(ValueError, match="image: this model has no encoder"):
        blind.edit("a red circle", "a blue circle", image=PICTURES[0], **QUICK)
    plain = {k: v for k, v in CONFIG.items() if k != "conditioning"}
    network = {k: v for k, v in CONFIG["model"].items() if k not in ("context_dim", "transformer_depth")}
    system = make_system(dict(plain, model=network))
    unconditional = pipeline.LatentDiffusion(system, random_params(system), 1.5, dict(plain, sampling={}))
    with pytest.raises(ValueError, match="inversion null_text leads away from the unconditional prediction"):
        unconditional.invert(PICTURES[0], None, "null_text", num_steps=2)
    found = unconditional.invert(PICTURES[0], None, "ddim", num_steps=2)
    assert unconditional.sample(None, [0], inverted=found).shape == (1, 16, 16, 3)
