"""What every file of guidance/ and editing/ must do. A new one is tested by being there, with a row of OPTIONS."""

import functools
import inspect
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.find import find, names
from ldm_jax.inference import devices, methods, pipeline
from ldm_jax.system import make_system
from ldm_jax.tasks import run
from tests.guidance import tiny_classifier
from tests.inference.test_pipeline import CONFIG, LIGHT
from tests.tiny_models import random_bundle, random_params

N = 2
CLEAN = np.random.default_rng(0).normal(size=(N, 4, 4, 2)).astype(np.float32)
LEFT = np.zeros((N, 4, 4, 1), np.float32)
LEFT[:, :, :2] = 1
FOLDER = tempfile.TemporaryDirectory()
CLASSIFIER = tiny_classifier.write(Path(FOLDER.name) / "classifier", CONFIG["schedule"])
WEAKER = Path(FOLDER.name) / "weaker"
bundle.save(WEAKER, random_bundle(CONFIG | dict(model=CONFIG["model"] | dict(channels=4))))
GRAY = np.zeros((16, 16, 3), np.float32)
PHOTO = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)


def colors(images):
    """A classifier: the log odds of three labels, how much of each color there is."""
    return 5 * images.mean((1, 2))


# Of each method: options that do something, and others of the same kind.
OPTIONS = {
    ("guidance", "classifier_free"): (dict(scale=2.0), dict(scale=5.0)),
    ("guidance", "cfg_plus_plus"): (dict(scale=0.6), dict(scale=[0.3, 0.9])),
    ("guidance", "composable"): (
        dict(prompts=["a blue circle", "a red"], weights=[2.0, -1.0]),
        dict(prompts=["a circle", ["a blue", "a red"]], weights=3),
    ),
    ("guidance", "perp_neg"): (dict(prompts="a blue"), dict(prompts="a circle", weights=3.0)),
    ("guidance", "autoguidance"): (dict(model=WEAKER, scale=2.0), dict(model=WEAKER, scale=1.4)),
    ("guidance", "classifier"): (
        dict(classifier=CLASSIFIER, labels="red", scale=3.0),
        dict(classifier=CLASSIFIER, labels=[1, 2], scale=9.0),
    ),
    ("guidance", "universal"): (
        dict(loss="image", target=GRAY, scale=0.1, backward_steps=1, repeats=2),
        dict(loss="image", target=[GRAY - 0.5, GRAY + 0.5], scale=0.2, backward_steps=3, repeats=3),
    ),
    ("guidance", "interval"): (dict(rescale=0.3), dict(scale=5.0, start=0.3)),
    ("guidance", "self_attention"): (dict(scale=0.75), dict(scale=2.0, sigma=0.5)),
    ("guidance", "perturbed_attention"): (dict(scale=3.0), dict(scale=1.0)),
    ("editing", "prompt_to_prompt"): (
        dict(source="a blue circle"),
        dict(source="a circle", cross_steps=0.4, weights={"circle": 2.0}),
    ),
    ("editing", "masactrl"): (
        dict(source="a blue circle", words="circle"),
        dict(source="a red circle", words="a", source_words="circle", start=0.4),
    ),
    ("editing", "plug_and_play"): (
        dict(source="a blue circle"),
        dict(source="a red circle", features=0.4, attention=1.0),
    ),
    ("editing", "cross_image"): (
        dict(source="a red circle", appearance="a blue circle"),
        dict(source="a blue circle", appearance="a circle", scale=1.0, contrast=1.2, words="circle"),
    ),
    ("editing", "style_injection"): (
        dict(source="a red circle", style="a blue circle"),
        dict(source="a blue circle", style="a circle", until=0.7, adain=0.5, keep=0.2, sharpness=2.0),
    ),
    ("editing", "eye_for_an_eye"): (
        dict(source="a red circle", appearance="a blue circle"),
        dict(source="a blue circle", appearance="a circle", until=0.5, words="circle"),
    ),
    ("editing", "llm_grounded"): (
        dict(),
        dict(scale=5.0, compose=0.2, layout=dict(objects=[dict(phrase="circle", box=[0, 0, 0.5, 0.5])])),
    ),
    ("editing", "attend_and_excite"): (dict(words="circle"), dict(words=["a", "circle"], scale=5.0)),
    ("editing", "structured"): (dict(phrases="circle"), dict(phrases=["a"], weight=0.5)),
    ("editing", "debias"): (
        dict(pairs=[["a red circle", "a blue circle"]], strength=5.0),
        dict(pairs=[["a red", "a blue"]], strength=2.0),
    ),
    ("editing", "dense_diffusion"): (
        dict(regions=[dict(phrase="circle", box=[0, 0, 0.5, 0.5])], cross=3.0, until=1.0),
        dict(regions=[dict(phrase="a", mask=LEFT[0, :, :, 0]), dict(phrase="circle", box=[0.5, 0, 0.5, 1])]),
    ),
    ("editing", "interpolation"): (
        dict(prompt="a blue circle", seed=9, share=0.3),
        dict(prompt=["a", "a circle"], seed=[10, 11], share=[0.2, 0.8]),
    ),
    ("editing", "token_rows"): (
        dict(prompt="a blue", word="circle", scale=2.0),
        dict(prompt=["a", "blue"], word="circle", scale=0.5, take="words", share=0.5),
    ),
    ("guidance", "instruct_pix2pix"): (dict(image_scale=1.5), dict(scale=5.0, image_scale=0.5)),
    ("guidance", "multi_conditional"): (dict(map_scale=2.0), dict(scale=1.0, map_scale=0.5, apart=0.6)),
    ("editing", "diffedit"): (
        dict(source="a blue circle"),
        dict(source="a circle", level=0.3, threshold=0.2),
    ),
    ("editing", "pix2pix_zero"): (
        dict(source="a blue circle", amount=1.0),
        dict(source="a circle", amount=3.0),
    ),
    ("editing", "ledits_pp"): (dict(threshold=0.5), dict(threshold=0.9, amount=-2.0, words="circle")),
    ("guidance", "dime"): (
        dict(image=PHOTO, target=0, classifier=colors),
        dict(image=[PHOTO, 255 - PHOTO], target=[1, 2], classifier=colors, scale=3.0, lookahead=2),
    ),
    ("editing", "ace"): (
        dict(image=PHOTO, target=0, leave=1, classifier=colors, iterations=2),
        dict(image=[PHOTO, 255 - PHOTO], target=[1, 2], leave=0, classifier=colors, iterations=3, rate=0.3),
    ),
    ("editing", "feature_caching"): (dict(interval=3), dict(interval=2)),
    ("editing", "token_merging"): (dict(ratio=0.5), dict(ratio=0.5, seed=1)),
    ("editing", "blended"): (dict(x_start=CLEAN, mask=LEFT), dict(x_start=-CLEAN, mask=1 - LEFT)),
}
METHODS = [(room, name) for room in ("guidance", "editing") for name in names(room)]
every_method = pytest.mark.parametrize("room, name", METHODS)


# What these read or change lies in the decoder of the network; all others work on what LIGHT has as well.
OF_THE_DECODER = ("masactrl", "plug_and_play", "cross_image", "style_injection", "eye_for_an_eye")


@functools.cache
def attending():
    """A model whose decoder attends."""
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.fixture(scope="module")
def model():
    system = make_system(LIGHT)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, LIGHT)


PICTURES = list(np.random.default_rng(1).integers(0, 256, (N, 16, 16, 3), np.uint8))
INSTRUCTED = dict(
    LIGHT,
    model=dict(LIGHT["model"], in_channels=4),
    conditioning=dict(text={k: v for k, v in LIGHT["conditioning"].items() if k != "name"}, instruct={}),
)


@functools.cache
def instructed():
    """A model that takes a picture beside the prompt."""
    system = make_system(INSTRUCTED)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, INSTRUCTED)


TOLD = dict(
    INSTRUCTED,
    model=dict(LIGHT["model"], in_channels=LIGHT["model"]["in_channels"] + 2),
    conditioning=dict(text=INSTRUCTED["conditioning"]["text"], spatext=dict(width=2)),
)
REGIONS = [[dict(box=[0, 0, 0.5, 1], embedding=[1, 2])], [dict(box=[0, 0.5, 1, 0.5], embedding=[3, -1])]]


@functools.cache
def told():
    """A model that takes regions beside the prompt."""
    system = make_system(TOLD)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, TOLD)


def draw(model, room, name, options, **more):
    """options: None draws the same without the method."""
    how = {} if options is None else {"guidance" if room == "guidance" else "edit": {name: options}}
    asked = dict(num_steps=3, guidance_scale=1.0 if name == "classifier_free" else 3.0)
    more = dict(output="latents") | more
    if name in OF_THE_DECODER:
        model = attending()
    if name == "diffedit":  # of a given picture
        how["inverted"] = model.invert(PICTURES, "", **asked)
    if name == "instruct_pix2pix":
        model, how = instructed(), how | {"changed_images": PICTURES}
    if name == "multi_conditional":
        model, how = told(), how | {"regions": REGIONS}
    return model.sample(["a red circle", "a blue circle"], [3, 4], **how, **(asked | more))


def compiled(model):
    return sum(one.num_compiled for one in (model, attending(), instructed(), told()))


def test_every_method_has_a_row():
    assert sorted(OPTIONS) == sorted(METHODS)


@every_method
def test_a_method_has_an_effect_and_no_number_of_it_compiles_anew(model, room, name):
    first, second = OPTIONS[room, name]
    drawn = draw(model, room, name, first)
    before = compiled(model)
    other = draw(model, room, name, second)
    assert compiled(model) == before
    plain = draw(model, room, name, None)
    assert (
        np.isfinite(drawn).all() and np.abs(drawn - plain).max() > 1e-3 and np.abs(drawn - other).max() > 1e-3
    )


@every_method
def test_a_method_at_its_neutral_setting_is_no_method_to_the_bit(model, room, name):
    if not find(room, name).NEUTRAL:
        pytest.skip("no setting of it is no method")
    neutral = OPTIONS[room, name][0] | find(room, name).NEUTRAL
    plain = draw(model, room, name, None)
    np.testing.assert_array_equal(draw(model, room, name, neutral), plain)


def taken_by(module, room):
    """The parameters of the functions that build a method."""
    made = [getattr(module, name, None) for name in ("recondition", methods.MAKES[room])]
    return [name for f in made if f is not None for name in inspect.signature(f).parameters]


@pytest.mark.parametrize("name", [n for room, n in METHODS if hasattr(find(room, n), "BRANCHES")])
def test_the_sources_of_an_edit_are_the_same_to_the_bit_whatever_its_numbers(model, name):
    first, second = OPTIONS["editing", name]
    second = second | {source: first[source] for source in find("editing", name).BRANCHES}
    drawn = [draw(model, "editing", name, options, output="branches") for options in (first, second)]
    sources = len(find("editing", name).BRANCHES)
    np.testing.assert_array_equal(drawn[0][:, :sources], drawn[1][:, :sources])
    assert (drawn[0][:, -1] != drawn[1][:, -1]).any()


@every_method
def test_what_a_method_says_of_itself(room, name):
    module = find(room, name)
    assert module.__doc__ and set(getattr(module, "NEEDS", ())) <= {"uncond", "context", "concat", "regions"}
    options = set(methods.options_of(room, name)) | set(getattr(module, "BRANCHES", ()))
    assert set(module.NEUTRAL) <= options and set(getattr(module, "CONDITIONS", ())) <= set(
        taken_by(module, room)
    )


def test_gradients_through_the_network_are_compiled_for_the_least_memory_on_a_cpu(monkeypatch):
    """A compiler that is told what it does not know refuses, so what it is told is seen: of gradients alone."""
    monkeypatch.setattr(devices, "_LEAST_MEMORY", dict(xla_no_such_option=True))
    system = make_system(LIGHT)
    fresh = pipeline.LatentDiffusion(system, random_params(system), 1.5, LIGHT)
    assert np.isfinite(draw(fresh, "editing", "structured", {})).all()
    for draws in (
        lambda: draw(fresh, "editing", "attend_and_excite", dict(words="circle")),
        lambda: fresh.invert(PICTURES, "a circle", method="null_text", num_steps=2, guidance_scale=3.0),
        lambda: attending.__wrapped__().analyze(np.stack(PICTURES), method="keypoints", number=4),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
            draws()


def test_methods_chain_in_one_scan(model):
    """Two edits: each does its own, and neither swallows the other's."""
    half = LEFT.copy()
    half[:, 2:] = 0
    both = [
        ("blended", dict(x_start=CLEAN, mask=half, paste=True)),
        ("blended", dict(x_start=CLEAN, mask=LEFT - half, paste=True)),
    ]
    asked = dict(num_steps=3, guidance_scale=3.0, output="latents")
    drawn = model.sample(["a red circle", "a blue circle"], [3, 4], edit=both, **asked)
    np.testing.assert_array_equal(drawn[:, :, :2], CLEAN[:, :, :2])
    assert np.abs(drawn[:, :, 2:] - CLEAN[:, :, 2:]).max() > 0.1


@pytest.mark.parametrize(
    "asked, said",
    [
        (
            dict(guidance="clasifier_free"),
            "guidance method 'clasifier_free' not found.*did you mean 'classifier_free'",
        ),
        (dict(edit="blendet"), "editing method 'blendet' not found.*did you mean 'blended'"),
        (
            dict(guidance={"classifier_free": dict(scael=2)}),
            "no option 'scael'; it has: scale; did you mean 'scale'",
        ),
        (dict(edit={"blended": dict(mask=LEFT)}), "blended: x_start is missing"),
        (
            dict(guidance={"classifier_free": dict(scale=float("nan"))}),
            "scale is nan, expected finite numbers",
        ),
        (dict(guidance=7), "guidance: got 7, expected a name"),
    ],
)
def test_what_cannot_be_chosen_is_said_before_anything_is_compiled(model, asked, said):
    before = model.num_compiled
    with pytest.raises(ValueError, match=said):
        model.sample(["a red circle"], [0], num_steps=3, **asked)
    assert model.num_compiled == before


def test_classifier_free_guidance_by_name_is_that_of_the_call(model):
    named = draw(model, "guidance", "classifier_free", {}, guidance_scale=3.0)
    np.testing.assert_array_equal(named, draw(model, "guidance", None, None))


def test_a_method_that_calls_the_network_itself_drops_none_before_it(model):
    """Interval asks the network anew: what stood inside of it would not be called."""
    own, around = {"interval": dict(rescale=0.3)}, {"self_attention": dict(scale=2.0)}
    spellings = [
        own | around,
        around | own,
        [around, own],
        [("self_attention", around["self_attention"]), own],
    ]
    asked = dict(num_steps=3, guidance_scale=3.0, output="latents")
    drawn = [model.sample("a red circle", guidance=spelling, **asked) for spelling in spellings]
    for other in drawn[1:]:
        np.testing.assert_array_equal(other, drawn[0])
    assert np.abs(drawn[0] - model.sample("a red circle", guidance=own, **asked)).max() > 1e-3


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(guidance={"interval": 3}), "guidance: got 3 for interval, expected {option: value}"),
        (dict(guidance=["interval", 1]), "guidance: got .*, expected a name"),
        (dict(guidance={"interval": dict(start="a")}), "interval: start is 'a', expected a finite number"),
        (
            dict(guidance={"interval": dict(rescale=[0.1])}),
            r"interval: rescale is \[0.1\], expected a finite",
        ),
        (dict(guidance={"interval": dict(scale=np.inf)}), "interval: scale is inf, expected a finite number"),
        (
            dict(guidance={"self_attention": dict(scale=[1, 2])}),
            "self_attention: scale is .*expected a finite",
        ),
        (dict(guidance={"self_attention": dict(sigma=-1)}), "sigma is -1, expected a number above 0"),
        (
            dict(guidance={"classifier_free": dict(scale=[1, 2])}),
            r"scale has shape \(2,\), expected one entry for each of 1 pictures",
        ),
        (
            dict(guidance={"classifier_free": dict(scale=7), "interval": dict(rescale=0.3)}),
            "classifier_free and interval cannot be combined",
        ),
        (dict(guidance="composable"), "composable: prompts is missing"),
        (
            dict(guidance={"composable": dict(prompts=3)}),
            "composable: prompts: got 3, expected a prompt, or a list of them",
        ),
        (
            dict(guidance={"composable": dict(prompts=[["a", "b"]])}),
            "composable: prompts: got .*, expected one prompt, or one for each of 1 pictures",
        ),
        (
            dict(guidance={"composable": dict(prompts=["a", "b"], weights=[1, 2, 3])}),
            r"composable: weights is \[1, 2, 3\], expected a finite number, or 2, one for each of the prompts",
        ),
        (dict(guidance={"composable": dict(prompts="a", weights="x")}), "weights is 'x', expected a finite"),
        (dict(guidance={"perp_neg": dict(prompts="a", weights=-1)}), "weights is -1, expected 0 or more"),
        (dict(guidance={"perp_neg": dict(prompts="a", scale=np.inf)}), "scale: .*inf, expected a finite"),
        (
            dict(guidance={"cfg_plus_plus": dict(scale=[1.0, 2.0])}),
            r"scale has shape \(2,\), expected one entry",
        ),
        (dict(guidance={"classifier": dict(labels=0)}), "classifier: classifier is missing"),
        (
            dict(guidance={"classifier": dict(classifier=CLASSIFIER, labels="pink")}),
            "classifier: labels: 'pink' not found; there are: red, green, blue, or their numbers from 0",
        ),
        (
            dict(guidance={"classifier": dict(classifier=CLASSIFIER, labels=[0, 1])}),
            "classifier: labels: got 2, expected one, or one for each of 1 pictures",
        ),
        (
            dict(guidance={"classifier": dict(classifier=CLASSIFIER, labels=0, form="ddpm")}),
            "classifier: form is 'ddpm' with the sampler 'ddim', expected ddim",
        ),
        (
            dict(guidance={"classifier": dict(classifier=CLASSIFIER, labels=0)}, image_shape=(32, 32)),
            r"it takes latents of shape \(4, 4, 2\), expected \(8, 8, 2\)",
        ),
        (
            dict(guidance={"universal": dict(loss="image", target=GRAY, repeats=0)}),
            "universal: repeats is 0, expected a whole number of at least 1",
        ),
        (
            dict(guidance={"universal": dict(loss="image", target=GRAY, clip=0)}),
            "universal: clip is 0, expected a number above 0",
        ),
        (dict(guidance=[{"interval": dict(rescale=1)}] * 2), "got interval twice, expected it once"),
        (
            dict(edit={"blended": dict(x_start=0, mask=1)}),
            r"x_start has shape \(\), expected one entry for each",
        ),
        (dict(edit={"prompt_to_prompt": dict(source=3)}), r"source: got \[3\], expected one prompt"),
        (
            dict(latents=np.zeros((1, 4, 4, 3))),
            r"latents: got shape .*, expected numbers of shape \(1, 4, 4, 2\)",
        ),
        (dict(latents=np.full((1, 4, 4, 2), np.nan)), "latents: expected finite numbers"),
        (dict(batch_size=2.5), "batch_size: got 2.5, expected a whole number"),
        (dict(tile="x"), "tile: got 'x', expected a whole number"),
        (dict(callback=3), "callback: got 3, expected a function"),
        (dict(negative_prompts=[3]), "negative_prompts: got 3, expected strings"),
        (dict(spacing=3), "spacing: got 3, expected a name"),
        (dict(clip_denoised="x"), "clip_denoised is 'x', expected a number above 0"),
        (dict(sampler_options=3), "sampler_options: got 3, expected {option: value}"),
    ],
)
def test_values_of_another_kind_are_one_sentence(model, asked, said):
    before = model.num_compiled
    with pytest.raises(ValueError, match=said):
        model.sample(["a red circle"], [0], **(dict(num_steps=3) | asked))
    assert model.num_compiled == before


def test_a_sampler_that_cfg_plus_plus_cannot_lead_is_one_sentence(model):
    with pytest.raises(ValueError, match="cfg_plus_plus: this sampler asks the network more than once per"):
        model.sample("a red circle", num_steps=3, sampler="heun", guidance="cfg_plus_plus")


def test_an_option_of_the_sampler_by_its_name_counts(model):
    asked = dict(num_steps=3, sampler="ddim", output="latents")
    named = model.sample("a red circle", sampler_options={"eta": 1.0}, **asked)
    np.testing.assert_array_equal(named, model.sample("a red circle", eta=1.0, **asked))


def test_each_picture_may_have_its_own_scale(model):
    """To rounding what each has alone, and one program for all scales."""
    together = draw(model, "guidance", "classifier_free", dict(scale=[2.0, 5.0]))
    before = model.num_compiled
    assert np.abs(draw(model, "guidance", "classifier_free", dict(scale=[5.0, 2.0])) - together).max() > 1e-3
    assert model.num_compiled == before
    for i, scale in enumerate([2.0, 5.0]):
        alone = draw(model, "guidance", "classifier_free", dict(scale=scale))
        np.testing.assert_allclose(together[i], alone[i], rtol=1e-4, atol=1e-4)


def test_each_line_of_a_jobs_file_may_have_its_own_scale(model):
    lines = [
        dict(prompt="a red circle", seed=3 + i, guidance={"classifier_free": {"scale": s}})
        for i, s in enumerate([2.0, 5.0])
    ]
    drawn = dict((job.seed, image) for job, image in run.run(model, lines, num_steps=3, guidance_scale=3.0))
    scales = {"classifier_free": dict(scale=[2.0, 5.0])}
    together = model.sample("a red circle", [3, 4], num_steps=3, guidance=scales)
    for seed, image in zip([3, 4], together, strict=True):
        assert np.abs(drawn[seed].astype(int) - image).max() <= 1


def test_an_edit_is_guided_by_each_pictures_own_scale(model):
    """Two branches: each row of a picture has its scale."""
    options = {"source": "a blue circle", "cross_steps": 0.5}
    scales = {"classifier_free": dict(scale=[2.0, 5.0])}
    both = model.edit(
        "a blue circle", "a red circle", seeds=[3, 4], options=options, num_steps=3, guidance=scales
    )
    for i, scale in enumerate([2.0, 5.0]):
        alone = model.sample("a blue circle", [3, 4], num_steps=3, guidance_scale=scale)
        assert np.abs(both.sources["source"][i].astype(int) - alone[i]).max() <= 1


def test_the_sampler_decides_the_form_of_classifier_guidance(model):
    """Both forms lead to the class, and differ."""
    asked = dict(num_steps=3, output="latents", guidance_scale=1.0, sampler="ddpm")
    options = dict(classifier=CLASSIFIER, labels="red", scale=3.0)
    drawn = {
        form: model.sample("a", guidance={"classifier": dict(options, form=form)}, **asked)
        for form in (None, "ddpm", "ddim")
    }
    np.testing.assert_array_equal(drawn[None], drawn["ddpm"])
    assert np.abs(drawn["ddim"] - drawn["ddpm"]).max() > 1e-3


def test_a_function_of_the_picture_leads_to_what_it_asks_for(model):
    def dark(images):
        return images.mean((1, 2, 3))

    asked = dict(num_steps=5, guidance_scale=1.0)
    plain = model.sample("a red circle", range(4), **asked)
    led = model.sample(
        "a red circle", range(4), guidance={"universal": dict(loss=dark, scale=300.0)}, **asked
    )
    assert led.mean() < plain.mean() - 2


def test_a_classifier_alone_samples_nothing():
    with pytest.raises(ValueError, match="a classifier of noised latents; name a model that samples"):
        pipeline.load(CLASSIFIER)
