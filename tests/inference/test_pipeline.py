"""Sampling as a user does it: from python, from sample.py, from a bundle; and what it refuses."""

import json
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax import grid
from ldm_jax.checkpoints import bundle
from ldm_jax.commands import sample
from ldm_jax.inference import checks, pipeline, settings
from ldm_jax.models import unet
from ldm_jax.params import fingerprint, from_names, named_leaves
from ldm_jax.system import make_system
from ldm_jax.tasks import jobs
from ldm_jax.training import watch
from tests.tiny_models import random_params

CONFIG = dict(
    task="diffusion",
    image_size=16,
    first_stage=dict(
        name="kl", channels=8, channel_mult=[1, 2, 2], num_res_blocks=1, z_channels=2, embed_dim=2, num_groups=4
    ),
    model=dict(
        in_channels=2, out_channels=2, channels=8, channel_mult=[1], num_res_blocks=1, attention_levels=[0],
        num_heads=2, transformer_depth=1, context_dim=8, num_groups=4,
    ),
    conditioning=dict(name="text", width=8, num_layers=1, max_length=6, num_heads=2, head_dim=4,
                      tokenizer=dict(name="word_level", words=["a", "red", "blue", "circle"], max_length=6)),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195),
    prediction_type="v",
    scale_factor=1.5,
    sampling=dict(guidance_scale=3.0),
)  # fmt: skip
# The same with attention in the middle of the network alone, and less of an autoencoder: there is less to compile.
LIGHT = CONFIG | dict(
    first_stage=CONFIG["first_stage"] | dict(channel_mult=[1, 1, 1], attn_type="none"),
    model=CONFIG["model"] | dict(attention_levels=[]),
)


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory):
    system = make_system(LIGHT)
    path = tmp_path_factory.mktemp("bundles") / "text"
    bundle.save(path, bundle.Bundle(LIGHT, random_params(system, gain=1.5), system.tokenizer))
    return path


@pytest.fixture(scope="module")
def model(text_bundle):
    return pipeline.load(str(text_bundle))


@pytest.mark.parametrize("dtype, bound", [("bfloat16", 0.1), ("float16", 0.01)])
def test_another_dtype_draws_nearly_what_float32_does(model, text_bundle, dtype, bound):
    """bound: of the relative error of one step's latents, in a random network, which magnifies what is rounded."""
    other = pipeline.load(str(text_bundle), dtype=dtype)
    assert other.params["unet"]["conv_in"]["kernel"].dtype.name == other.config["dtype"] == dtype
    asked = dict(prompts="a red circle", seeds=[3, 4], num_steps=1, guidance_scale=1.0, output="latents")
    exact, rounded = model.sample(**asked), other.sample(**asked)
    assert 0 < np.linalg.norm(rounded - exact) < bound * np.linalg.norm(exact)
    with pytest.raises(ValueError, match="dtype 'fp16' not found; there are: bfloat16, float16, float32"):
        pipeline.load(str(text_bundle), dtype="fp16")


def test_image_i_depends_on_its_seed_and_prompt_alone(model):
    prompts = ["a red circle", "a blue circle", "a circle", "a red circle", "blue"]
    seeds = [3, 1, 4, 1, 5]
    together = model.sample(prompts, seeds, num_steps=3, eta=1.0, batch_size=8)
    in_twos = model.sample(prompts, seeds, num_steps=3, eta=1.0, batch_size=2)
    assert together.shape == (5, 16, 16, 3) and together.dtype == np.uint8
    assert (
        np.abs(together.astype(int) - in_twos).max() <= 1
    )  # another batch size is another program: rounding
    assert np.abs(together[1].astype(int) - together[3]).max() > 1  # the prompt counts
    alone = model.sample(prompts[4:], seeds[4:], num_steps=3, eta=1.0)
    assert np.abs(together[4].astype(int) - alone[0]).max() <= 1


def test_a_new_prompt_seed_scale_or_eta_compiles_nothing(model):
    def draw(prompt, seed, scale, eta):
        return model.sample([prompt], [seed], num_steps=4, guidance_scale=scale, eta=eta)

    first = draw("a red circle", 0, 2.0, 0.0)
    before = model.num_compiled
    assert (draw("a blue circle", 7, 5.5, 0.5) != first).any()
    assert model.num_compiled == before


def test_batches_of_any_number_of_pictures_are_of_a_few_sizes():
    """1 to 8 pictures, that start from a picture as well: what is compiled are the programs of 1, 2, 4 and 8, or of
    batch_size."""
    assert [settings.bucket(n, 8) for n in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, 8]
    assert [settings.bucket(n, 6) for n in (1, 3, 5, 7)] == [1, 4, 6, 6]
    network = dict(
        in_channels=3,
        out_channels=3,
        channels=4,
        channel_mult=[1],
        num_res_blocks=1,
        num_heads=1,
        num_groups=2,
    )
    pixels = dict(first_stage=dict(name="identity"), model=network, image_size=8)
    system = make_system({k: v for k, v in (LIGHT | pixels).items() if k != "conditioning"})
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.0)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    eight = model.sample(None, range(8), num_steps=2, batch_size=8)
    for number in range(1, 9):
        drawn = model.sample(None, range(number), num_steps=2, batch_size=8)
        assert np.abs(drawn.astype(int) - eight[:number]).max() <= 1  # another batch size: rounding
        model.sample(None, range(number), num_steps=2, init_images=[picture] * number, strength=0.0)
    assert model.num_compiled == 3 * 4  # sampler, decoder and encoder, of 1, 2, 4 and 8
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        model.sample(None, [0], batch_size=0)


def test_without_guidance_the_unconditional_half_is_not_computed(text_bundle):
    batches = []
    plain = unet.apply_unet

    def counted(module, params, x, *args, **kwargs):
        batches.append(x.shape[0])
        return plain(module, params, x, *args, **kwargs)

    opened = bundle.read(text_bundle)
    fresh = pipeline.LatentDiffusion(make_system(LIGHT), opened.params, 1.5, LIGHT, apply=counted)
    fresh.sample(["a circle"], [0, 1], num_steps=2, guidance_scale=1.0)
    assert set(batches) == {2}
    batches.clear()
    fresh.sample(["a circle"], [0, 1], num_steps=2, guidance_scale=2.0)
    assert set(batches) == {4}


@pytest.mark.parametrize("sampler, spacing", [("ddpm", "uniform"), ("plms", "quad"), ("ddim", "trailing")])
def test_every_sampler_and_spacing_draws(model, sampler, spacing):
    images = model.sample(
        ["a red circle"], [0], num_steps=2, sampler=sampler, spacing=spacing, guidance_scale=1.0
    )
    assert images.shape == (1, 16, 16, 3)


def test_a_bundle_comes_back_as_it_went(text_bundle, model, tmp_path):
    opened = bundle.read(text_bundle)
    assert opened.config == json.loads(json.dumps(LIGHT))
    bundle.save(tmp_path / "again", opened)
    assert fingerprint(bundle.read(tmp_path / "again").params) == fingerprint(opened.params)
    assert (
        model.sample(["a circle"], [0], num_steps=2)
        == pipeline.load(str(tmp_path / "again")).sample(["a circle"], [0], num_steps=2)
    ).all()


def test_the_script_writes_pictures_that_carry_their_settings(text_bundle, tmp_path, capsys):
    args = ["--checkpoint", str(text_bundle), "--prompt", "a red circle", "--seeds", "2,5-6", "--steps", "3"]
    sample.main([*args, "--guidance_scale", "2.5", "--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.png", "5.png", "6.png", "grid.png"]
    text = Image.open(tmp_path / "5.png").text
    assert (
        text["prompt"] == "a red circle"
        and text["seed"] == "5"
        and text["guidance_scale"] == "2.5"
        and text["steps"] == "3"
    )
    shown = capsys.readouterr()
    assert "pictures: 3/3" in shown.err and "grid.png" in shown.out
    alone = pipeline.load(str(text_bundle)).sample(["a red circle"], [5], num_steps=3, guidance_scale=2.5)[0]
    assert np.abs(np.asarray(Image.open(tmp_path / "5.png")).astype(int) - alone).max() <= 1


def test_class_labels_and_the_null_class():
    config = dict(LIGHT, conditioning=dict(name="class_label", num_classes=5, width=8))
    system = make_system(config)
    model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5)
    images = model.sample(class_labels=[0, 4], seeds=[1, 1], num_steps=2, guidance_scale=2.0)
    assert np.abs(images[0].astype(int) - images[1]).max() > 1
    with pytest.raises(ValueError, match="label 5, expected 0 to 4"):
        model.sample(class_labels=[5], seeds=[0])
    with pytest.raises(ValueError, match="takes class_labels, got prompts"):
        model.sample(prompts=["a circle"], seeds=[0])


def test_a_long_prompt_is_cut_with_a_warning(model, caplog):
    model.sample(["a red circle a blue circle a red circle"], [0], num_steps=1, guidance_scale=1.0)
    assert "caption cut to 6 tokens" in caplog.text


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(sampler="dimm"), "'dimm' not found.*ddim, ddpm.*plms"),
        (dict(num_steps=0), "num_steps: got 0, expected 1 to 1000"),
        (dict(num_steps=1001), "num_steps: got 1001, expected 1 to 1000"),
        (dict(spacing="linear"), "spacing 'linear' not found"),
        (dict(sampler="plms", eta=0.5), "takes no eta"),
        (dict(num_steps=2.5), "num_steps: got 2.5, expected a whole number"),
        (dict(guidance_scale=float("nan")), "guidance_scale: got nan, expected a finite number"),
        (
            dict(guidance_scale=1e39),
            r"guidance_scale: got 1e\+39, expected a finite number",
        ),  # not in float32
        (dict(guidance_scale="7"), "guidance_scale: got '7', expected a finite number"),
        (dict(eta=float("inf")), "eta: got inf, expected a finite number of 0 or more"),
        (dict(eta=-0.5), "eta: got -0.5, expected a finite number of 0 or more"),
        (dict(strength=float("nan")), "strength: got nan, expected a finite number from 0 to 1"),
        (dict(strength="all"), "strength: got 'all', expected a finite number from 0 to 1"),
        (dict(sampler="ddpm", final_alpha="one"), "takes no final_alpha"),
        (dict(final_alpha="two"), "final_alpha"),
        (dict(sampler="euler", clip_denoised=1.0), "takes no clip_denoised"),
        (dict(clip_denoised=0.0), "above 0"),
        (dict(seeds=[-1]), r"integers in \[0"),
        (dict(seeds=[]), "got none"),
        (dict(prompts=["a", "b"], seeds=[0, 1, 2]), "got 2 for 3 seeds"),
        (dict(prompts=None), "takes prompts, got none"),
        (dict(class_labels=[1]), "takes prompts, got class_labels"),
    ],
)
def test_what_cannot_be_drawn_is_said(model, options, said):
    arguments = dict(prompts=["a circle"], seeds=[0]) | options
    with pytest.raises(ValueError, match=said):
        model.sample(**arguments)


@pytest.mark.parametrize(
    "text", ["", "a", "3-", "7-3", "1,,2", "-4", "²", "4294967296", "0-" + "9" * 5000, "-" * 100_000]
)
def test_seeds_that_are_none(text):
    with pytest.raises(ValueError, match="--seeds") as error:
        sample.parse_seeds(text)
    assert len(str(error.value)) < 250


def test_seeds():
    assert list(sample.parse_seeds("0-3")) == [0, 1, 2, 3]
    assert list(sample.parse_seeds("7, 1-2")) == [7, 1, 2]


def test_ranges_of_seeds_are_made_into_no_lists():
    seeds = sample.parse_seeds("5,0-4294967295")
    assert len(seeds) == 2**32 + 1 and sys.getsizeof(seeds) < 1000
    assert (seeds[0], seeds[1], seeds[-1], seeds[2**31]) == (5, 0, 2**32 - 1, 2**31 - 1)
    with pytest.raises(IndexError):
        seeds[2**32 + 1]
    with pytest.raises(ValueError, match="4294967297 jobs, of 4294967297 seeds, expected at most 100000"):
        jobs.of_flags(dict(prompt="a"), seeds)


@pytest.mark.parametrize(
    "prompts, said",
    [
        (["a", 5], "prompts: got 5, expected strings"),
        ([None, "a"], "prompts: got None, expected strings"),
        ([b"a", "a"], "prompts: got b'a', expected strings"),
        (["a", "\udc80"], "prompt 1 is .* no Unicode text"),
        (3.5, "prompts: got 3.5, expected a list"),
        (b"ab", "prompts: got b'ab', expected a list"),
        ({"a", "b"}, "prompts: got {'a', 'b'}|prompts: got {'b', 'a'}"),
    ],
)
def test_prompts_that_are_no_strings(model, prompts, said):
    with pytest.raises(ValueError, match=said):
        model.sample(prompts, seeds=[0, 1], num_steps=1)


def test_prompts_of_millions_of_letters_are_cut_where_they_are_read_and_said(model, caplog):
    words = "red circle " * 500_000
    inputs = model.system.inputs({"prompts": [words]})
    np.testing.assert_array_equal(
        inputs["tokens"], model.system.inputs({"prompts": ["red circle " * 20]})["tokens"]
    )
    checks.say_unknown_words(["blurb " * 500_000], model.system.tokenizer)
    assert "caption cut to" in caplog.text and len(caplog.text) < 2000


def test_a_bfloat16_model_holds_its_networks_in_bfloat16(text_bundle):
    opened = bundle.read(text_bundle)
    model = pipeline.from_bundle(opened._replace(config=dict(opened.config, dtype="bfloat16")))
    kernels = {
        path[0].key: leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)
        if path[-1].key == "kernel"
    }
    halves = dict.fromkeys(("unet", "first_stage"), jnp.bfloat16)
    assert kernels == halves | dict(conditioner=jnp.float32)
    assert model.params["unet"]["norm_out"]["scale"].dtype == jnp.float32


def test_checkpoints_that_are_none(text_bundle, tmp_path):
    with pytest.raises(ValueError, match="'nowhere' not found"):
        pipeline.load("nowhere")
    with pytest.raises(ValueError, match="has no weights in it"):
        pipeline.load(str(tmp_path))
    opened = bundle.read(text_bundle)
    damaged = tmp_path / "damaged"
    bundle.save(damaged, opened)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors.*truncated"):
        pipeline.load(str(damaged))
    opened.params["unet"]["conv_in"]["kernel"] = np.zeros((3, 3, 2, 9), np.float32)
    del opened.params["unet"]["conv_out"]
    bundle.save(damaged, opened)
    with pytest.raises(
        ValueError,
        match=r"3 parameters of the checkpoint do not fit the config: unet/conv_out/.* is missing.*expected "
        r"\(3, 3, 2, 8\)",
    ):
        pipeline.load(str(damaged))


def test_what_is_not_asked_for_is_what_the_makers_recommend():
    sampling = dict(num_steps=4, guidance_scale=1.5, sampler="euler_ancestral", spacing="trailing", eta=0.5)
    system = make_system(LIGHT)
    model = pipeline.LatentDiffusion(
        system, random_params(system, gain=1.5), 1.0, dict(LIGHT, sampling=sampling)
    )
    others = dict(final_alpha=None, clip_denoised=None, sampler_options=None)
    assert model.resolve() == sampling | others
    assert model.resolve(eta=0.0, num_steps=9) == sampling | others | dict(eta=0.0, num_steps=9)
    # spacing and eta were recommended for a sampler that is not used
    other = model.resolve(sampler="ddim")
    assert other == dict(
        num_steps=4,
        guidance_scale=1.5,
        sampler="ddim",
        eta=None,
        spacing="uniform",
        **others,
    )


def damaged(model, *names):
    """The model with one number of each parameter that is not finite."""
    flat = dict(named_leaves(model.params))
    for name in names:
        flat[name] = np.array(flat[name])
        flat[name].flat[0] = np.nan
    return pipeline.LatentDiffusion(model.system, from_names(flat), 1.5, model.config)


@pytest.mark.parametrize(
    "names", [("unet/conv_in/kernel",), ("first_stage/decoder/conv_out/bias",)], ids=["network", "decoder"]
)
def test_weights_that_are_not_finite_are_named_and_give_no_black_picture(model, names):
    broken = damaged(model, *names)
    with pytest.raises(
        ValueError, match=f"seeds 3, 8: no picture, parameter {names[0]} of the model is not finite"
    ):
        broken.sample(["a circle"], [3, 8], num_steps=2, guidance_scale=1.0)


@pytest.mark.parametrize("output", ["np", "latents"])
def test_pictures_that_overflow_are_named_by_their_seeds(model, output):
    with pytest.raises(
        ValueError,
        match="seeds 5: no picture, what was drawn is not finite, though every .* guidance_scale 1e",
    ):
        model.sample(["a circle"], [5], num_steps=2, guidance_scale=1e38, output=output)


def test_a_picture_that_is_not_finite_is_no_bytes(caplog):
    images = np.asarray([[[[0.0, 1.0, np.nan]]]], np.float32)
    with pytest.raises(ValueError, match="a picture has numbers that are not finite"):
        grid.to_uint8(images)
    np.testing.assert_array_equal(watch.preview(images), [[[[127, 255, 0]]]])
    assert "what is previewed is not finite" in caplog.text


def test_what_has_no_effect_is_said(model, caplog):
    def said(**options):
        caplog.clear()
        model.sample(["a circle"], [0], **(dict(num_steps=1, guidance_scale=1.0) | options))
        return caplog.text

    picture = dict(init_images=[np.zeros((16, 16, 3), np.uint8)])
    assert "the negative prompt has no effect: guidance is off" in said(negative_prompts=["red"])
    assert not said(negative_prompts=[""]) and not said(strength=0.0, **picture)
    assert "strength 0.5 of 1 steps is none at all" in said(strength=0.5, **picture)
    checks.say_what_has_no_effect(True, ["red"], 0.5, 2, 1)
    assert len(caplog.records) == 1


def test_words_that_the_model_does_not_know_are_said_once(model, caplog):
    asked = ["a yellow Circle, red hexagon", "a red circle"]
    model.sample(asked, [0, 1], num_steps=1, guidance_scale=1.0, negative_prompts=["gray", asked[0]])
    said = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    # cut to six tokens; "Circle" is known in small letters
    known = f"; its words are: {', '.join(sorted(CONFIG['conditioning']['tokenizer']['words']))}"
    assert said == [
        f"prompt '{asked[0]}': the model does not know 'yellow', ','{known}",
        f"prompt 'gray': the model does not know 'gray'{known}",
    ]


def test_guidance_of_a_model_without_a_null_condition_is_refused_and_not_recommended(caplog):
    classes = dict(name="class_label", num_classes=5, width=8, null_class=False)
    config = dict(LIGHT, conditioning=classes)  # which recommends 3
    system = make_system(config)
    with caplog.at_level(logging.INFO):
        model = pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, config)
    assert "guidance is off: the model has no null condition" in caplog.text
    assert model.resolve()["guidance_scale"] == 1.0  # what a picture then says of itself
    plain = model.sample(class_labels=[2], seeds=[0], num_steps=2)
    np.testing.assert_array_equal(
        model.sample(class_labels=[2], seeds=[0], num_steps=2, guidance_scale=1.0), plain
    )
    with pytest.raises(
        ValueError, match="guidance_scale: got 3.0, and this model has no null .* --null_class"
    ):
        model.sample(class_labels=[2], seeds=[0], num_steps=2, guidance_scale=3.0)


def test_the_last_row_can_be_named_as_the_null_class(tmp_path):
    classes = dict(name="class_label", num_classes=5, width=8, null_class=False)
    config = dict(LIGHT, conditioning=classes)
    bundle.save(tmp_path / "m", bundle.Bundle(config, random_params(make_system(config), gain=1.5), None))
    # The same table, opened as five classes and as four and none: at scale 0 guidance gives what class 4 was.
    as_five, as_four = pipeline.load(tmp_path / "m"), pipeline.load(tmp_path / "m", null_class=True)
    options = dict(seeds=[0], num_steps=1)
    away = as_four.sample(class_labels=[2], guidance_scale=0.0, **options)
    last = as_five.sample(class_labels=[4], **options)
    assert np.abs(away.astype(int) - last).max() <= 1  # two programs: rounding
    with pytest.raises(ValueError, match="label 4, expected 0 to 3"):
        as_four.sample(class_labels=[4], **options)
    bundle.save(tmp_path / "u", bundle.Bundle(dict(config, conditioning={}), {"unet": {}}, None))
    with pytest.raises(ValueError, match="--null_class: .*u takes no conditions, expected class_label"):
        pipeline.load(tmp_path / "u", null_class=True)
