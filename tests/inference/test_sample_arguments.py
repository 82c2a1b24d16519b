"""The arguments of LatentDiffusion.sample beside those that decide what is drawn: numbers of pictures, what goes in,
what comes out."""

import concurrent.futures
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.inference import pipeline
from ldm_jax.inference.settings import check_sampling, resolve_settings
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params

ROOT = Path(__file__).resolve().parents[2]
QUICK = dict(num_steps=3, guidance_scale=3.0)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_as_many_pictures_as_prompts(model):
    """Seeds are 0, 1, 2, … unless given; a string is one prompt."""
    two = model.sample(["a red circle", "a blue circle"], **QUICK)
    np.testing.assert_array_equal(two, model.sample(["a red circle", "a blue circle"], [0, 1], **QUICK))
    one = model.sample("a red circle", **QUICK)
    assert (
        one.shape == (1, 16, 16, 3) and np.abs(one[0].astype(int) - two[0]).max() <= 1
    )  # another batch size
    assert len(model.sample("a red circle", range(3), **QUICK)) == 3


def test_several_pictures_of_each_prompt(model):
    drawn = model.sample(["a red circle", "a blue circle"], num_images_per_prompt=2, **QUICK)
    each = model.sample(["a red circle"] * 2 + ["a blue circle"] * 2, range(4), **QUICK)
    np.testing.assert_array_equal(drawn, each)


def test_pictures_are_handed_out_as_they_are_drawn(model):
    prompts = ["a red circle", "a blue circle", "a circle", "blue", "red"]
    stream = model.stream(prompts, batch_size=2, **QUICK)
    places, first = next(stream)
    assert places.tolist() == [0, 1] and first.shape == (2, 16, 16, 3)
    kept, held = first.copy(), weakref.ref(first.base)  # of the array with what belongs to a picture
    del first
    rest = [next(stream)]
    assert held() is None  # one batch is in memory
    rest += stream
    assert [p.tolist() for p, _ in rest] == [[2, 3], [4]]
    np.testing.assert_array_equal(
        np.concatenate([kept, *(d for _, d in rest)]), model.sample(prompts, batch_size=2, **QUICK)
    )


@pytest.mark.slow
def test_many_pictures_take_the_memory_of_a_batch(model):
    """Of 2,000 pictures, 6 MB, a quarter is held at most, with what turns floats into bytes and all else."""
    seen = 0
    asked = dict(prompts="a red circle", num_steps=1, guidance_scale=1.0, batch_size=20, image_shape=(32, 32))
    list(model.stream(seeds=range(20), **asked))  # compiled before
    tracemalloc.start()
    for _, images in model.stream(seeds=range(2000), **asked):
        seen += images.nbytes
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 2000 * 32 * 32 * 3 and held < seen / 4


def test_threads_get_what_each_gets_alone(model):
    """Two at once, of a program that is not compiled yet."""
    asked = [
        dict(prompts=prompt, seeds=[seed, 8], sampler="euler", **QUICK)
        for prompt, seed in (("a red circle", 6), ("a blue circle", 7))
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda one: [model.sample(**one) for _ in range(3)], asked))
    for drawn, one in zip(together, asked, strict=True):
        alone = model.sample(**one)
        for images in drawn:
            np.testing.assert_array_equal(images, alone)


def test_latents_in_and_out(model):
    """x_T in the place of a seed's noise; latents that are decoded by hand are the picture."""
    x_T = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    drawn = model.sample("a red circle", [0, 9], latents=x_T, eta=0.0, **QUICK)
    swapped = model.sample("a red circle", [5, 6], latents=x_T[::-1].copy(), eta=0.0, **QUICK)
    assert np.abs(drawn.astype(int) - swapped[::-1]).max() <= 1  # seeds no longer matter
    latents = model.sample("a red circle", [0, 9], latents=x_T, output="latents", **QUICK)
    assert latents.shape == (2, 4, 4, 2) and latents.dtype == np.float32
    pictures = model.sample("a red circle", [0, 9], latents=x_T, output="pil", **QUICK)
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    np.testing.assert_array_equal(np.stack(pictures), drawn)


def test_embeddings_of_prompts_in_their_place(model):
    system = model.system
    inputs = system.inputs({"prompts": ["a red circle", "a blue circle"]})
    embeddings = system.condition(model.params, inputs).context
    drawn = model.sample(prompt_embeddings=embeddings, **QUICK)
    expected = model.sample(["a red circle", "a blue circle"], **QUICK)
    assert np.abs(drawn.astype(int) - expected).max() <= 1 and (drawn[0] != drawn[1]).any()
    with pytest.raises(ValueError, match=r"prompt_embeddings: got shape \(2, 6, 7\), expected \(2, L, 8\)"):
        model.sample(prompt_embeddings=np.zeros((2, 6, 7)), **QUICK)


def test_weights_of_words_compile_nothing_and_brackets_may_be_letters(model):
    plain = model.sample("a red circle", [4], **QUICK)
    before = model.num_compiled
    same = model.sample("a (red:1) circle", [4], **QUICK)
    weighed = model.sample("a (red:5) circle", [4], **QUICK)
    negative = model.sample("a red circle", [4], negative_prompts=["(blue:5)"], **QUICK)
    unweighed = model.sample("a red circle", [4], negative_prompts=["blue"], **QUICK)
    letters = model.sample("a (red:5) circle", [4], plain_prompts=True, **QUICK)
    assert model.num_compiled == before
    np.testing.assert_array_equal(plain, same)
    assert (weighed != plain).any() and (letters != weighed).any() and (negative != unweighed).any()
    with pytest.raises(ValueError, match="prompt 'a \\(red': the '\\(' at character 3 is not closed"):
        model.sample("a (red", [4], **QUICK)


def test_a_long_prompt_is_read_to_its_end_if_that_is_asked_for(model, caplog):
    """Beside a short negative prompt, in as many parts; what fits is drawn as ever, by the same program."""
    long = ["a red circle a blue", "a red circle a red"]  # of four tokens each is read at once
    cut = model.sample(long, [4, 4], **QUICK)
    assert "caption cut to 6 tokens, without 'blue': 'a red circle a blue'" in caplog.text
    np.testing.assert_array_equal(cut[0], cut[1])
    whole = model.sample(long, [4, 4], long_prompts=True, negative_prompts="blue", **QUICK)
    assert (whole[0] != whole[1]).any()
    short, before = model.sample(["a red circle"] * 2, **QUICK), model.num_compiled
    np.testing.assert_array_equal(short, model.sample(["a red circle"] * 2, long_prompts=True, **QUICK))
    assert model.num_compiled == before
    with pytest.raises(ValueError, match="long_prompts: prompt_to_prompt works on the words of a prompt"):
        edit = {"prompt_to_prompt": {"source": "a red circle a red"}}
        model.sample("a red circle a blue", long_prompts=True, edit=edit, **QUICK)


def test_a_callback_at_every_step_and_another_one_compiles_nothing(model):
    steps, other = [], []
    drawn = model.sample("a red circle", [4, 5], callback=steps.append, **QUICK)
    before = model.num_compiled
    model.sample("a red circle", [4, 5], callback=other.append, **QUICK)
    assert model.num_compiled == before and len(steps) == len(other) == 3
    assert [step.index for step in steps] == [0, 1, 2] and steps[0].t > steps[1].t > steps[2].t
    assert (
        steps[0].seeds.tolist() == [4, 5]
        and steps[0].places.tolist() == [0, 1]
        and steps[0].x_start.shape == (2, 4, 4, 2)
    )
    plain = model.sample("a red circle", [4, 5], **QUICK)
    assert np.abs(drawn.astype(int) - plain).max() <= 1
    # the last step leads to alphas_cumprod[0], all but a trace of noise from its clean latents
    last = model.sample("a red circle", [4, 5], output="latents", **QUICK)
    assert np.abs(steps[-1].x_start - last).max() < 0.2 * np.abs(last).max()


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(steps=3), "sample has no option 'steps'; did you mean 'num_steps'"),
        (dict(promts="a"), "sample has no option 'promts'; did you mean 'prompts'"),
        (dict(height=64), "no option 'height'; it is called 'image_shape'"),
        (dict(depths=[0]), "this model takes prompts, got depths"),
        (dict(output="png"), "output 'png' not found; there are: np, pil, latents"),
        (dict(sampler_options=dict(temprature=1)), "takes no temprature.*it takes: eta, .*temperature"),
        (dict(num_images_per_prompt=0), "num_images_per_prompt is 0, expected a whole number"),
        (dict(prompt_embeddings=np.zeros((1, 6, 8))), "got both, expected one of them"),
    ],
)
def test_what_cannot_be_asked_for_is_said(model, asked, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a circle", **QUICK, **asked)


def test_an_option_of_the_sampler(model):
    drawn = [
        model.sample("a circle", sampler_options=dict(temperature=t), eta=1.0, output="latents", **QUICK)
        for t in (0.0, 1.0)
    ]
    plain = model.sample("a circle", eta=1.0, output="latents", **QUICK)
    np.testing.assert_allclose(drawn[1], plain, rtol=1e-4, atol=1e-4)
    assert np.abs(drawn[0] - plain).max() > 1e-2


DEVICES = """
import numpy as np, jax
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.inference import pipeline
from ldm_jax.inference.settings import check_sampling, resolve_settings
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params
system = make_system(CONFIG)
params = random_params(system, gain=1.5)
eight, one = (pipeline.LatentDiffusion(system, params, 1.5, CONFIG, devices=jax.local_devices()[:n]) for n in (8, 1))
assert eight.devices.number == 8
drawn = eight.sample(["a red circle"] * 19, num_steps=2, batch_size=1)
alone = one.sample(["a red circle"] * 19, num_steps=2, batch_size=1)
assert drawn.shape == (19, 16, 16, 3)
assert np.abs(drawn.astype(int) - alone).max() <= 1, np.abs(drawn.astype(int) - alone).max()
assert eight.num_compiled == one.num_compiled == 2  # the sampler and the decoder, of one picture on each device
"""


def test_all_devices_of_the_host_draw():
    """Eight devices draw eight pictures at once with batch_size 1, and those that one draws, the last batch filled
    up."""
    import os

    env = dict(
        os.environ,
        XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
        PYTHONPATH=str(ROOT),
    )
    subprocess.run([sys.executable, "-c", DEVICES], check=True, cwd=ROOT, env=env)


@pytest.mark.parametrize(
    "asked, said",
    [
        (dict(sampler="lms", sampler_options=dict(order=5)), "order is 5, expected one of 1, 2, 3, 4"),
        (dict(sampler="lms", sampler_options=dict(ordr=3)), "'lms' takes no ordr .*; did you mean 'order'"),
        (dict(sampler="plms", eta=1.0), "sampler 'plms' takes no eta"),
        (
            dict(sampler="euler", sampler_options=dict(s_churn="much")),
            "s_churn is 'much', expected a finite number",
        ),
        (dict(sampler="tcd", eta=1.5), "sampler 'tcd': eta is 1.5, expected a number from 0 to 1"),
        (
            dict(sampler="lcm", spacing="karras"),
            "'lcm' is of models that were distilled on whole timesteps, got spacing 'karras'",
        ),
        (dict(sampler="tcd", spacing="beta_leading"), "whole timesteps, got spacing 'beta_leading'"),
        (dict(sampler="lcm", spacing="linspace"), "whole timesteps, got spacing 'linspace'"),
    ],
)
def test_what_a_sampler_cannot_do_is_said(model, asked, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a circle", num_steps=4, **asked)


def test_a_config_is_held_to_its_sampler():
    """Before a training run begins, and not at its first preview."""
    schedule = make_schedule("linear", 1000)
    check_sampling({"sampler": "deis", "sampler_options": {"order": 3}}, schedule)
    for options, said in (
        ({"sampler": "deis", "sampler_options": {"eta": 1.0}}, "sampler 'deis' takes no eta"),
        ({"sampler": "lcm", "spacing": "exponential"}, "whole timesteps, got spacing 'exponential'"),
    ):
        with pytest.raises(ValueError, match=said):
            check_sampling(options, schedule)


def test_recommended_options_of_a_sampler_stay_beside_those_that_are_asked_for():
    recommended = {"sampler": "dpm_solver_sde", "sampler_options": {"order": 3, "temperature": 0.5}}
    found = resolve_settings(recommended, sampler_options={"temperature": 1.0})
    assert found["sampler_options"] == {"order": 3, "temperature": 1.0}
    assert resolve_settings(recommended, sampler="ddim")["sampler_options"] is None
