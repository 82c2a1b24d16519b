"""DiffEdit: the mask in closed form, what is kept to the bit, and diffusers' pipeline."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import diffedit
from ldm_jax.inference import pipeline
from ldm_jax.samplers.base import StepInfo, keys_of, step_noise
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import ONE_LEVEL, random_params, stable_diffusion_1

QUICK = dict(num_steps=4, guidance_scale=3.0)
PICTURES = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


def test_cells_that_two_prompts_see_differently_are_the_mask():
    """The second prompt's eps is larger by 1 in one corner and by .1 beside it: 3 times the mean is .12, half
    of which .1 is over."""
    schedule, trajectory = make_schedule("linear", 100), jnp.zeros((1, 3, 5, 5, 2))
    more = np.zeros((5, 5, 1), np.float32)
    more[0, 0], more[0, 1], more[4, 4] = 1.0, 0.1, 0.05

    def network(x, t, cond, control=None):
        return jnp.where(
            t[0] == 50, cond.context[..., None] * more, 0.0
        ) + 0 * x, {}  # at the level asked for

    def said(value):
        return Cond(context=jnp.full((1, 1, 1), value))

    denoiser = Denoiser(network, said(1.0), None, schedule, "eps", jnp.asarray([60, 10]))
    options = dict(trajectory=trajectory, mask=jnp.zeros((1, 5, 5, 1)), timestep=jnp.int32(50))
    edit = diffedit.edit(denoiser, source=(said(0.0),), **options, threshold=jnp.float32(0.5), num_noises=3)
    info = StepInfo(jnp.int32(0), jnp.int32(60), jnp.int32(10), keys_of(jnp.zeros(1, jnp.uint32)))
    x = jnp.ones((1, 5, 5, 2))
    mask, same = edit.before(edit.init(x), x, info, None)
    bound = 0.5 * 3 * more.mean()
    np.testing.assert_array_equal(mask[0, ..., 0], (np.minimum(more, 2 * bound) > bound)[..., 0])
    assert mask.sum() == 2
    np.testing.assert_array_equal(same, x)
    _, after = edit.after(mask, x, {}, info)
    np.testing.assert_array_equal(after[0], jnp.where(mask[0] > 0, 1.0, 0.0) * jnp.ones((5, 5, 2)))


def test_outside_of_a_mask_latents_are_those_of_the_picture_to_the_bit(model):
    found = model.invert(PICTURES, "", **QUICK)
    mask = np.zeros((4, 4), np.float32)
    mask[:2] = 1
    words = ["a red circle", "a blue circle"]
    edit = {"diffedit": dict(source="a circle", mask=mask)}
    drawn = model.sample(words, [0, 1], inverted=found, edit=edit, output="latents", **QUICK)
    np.testing.assert_array_equal(drawn[:, 2:], found.arrays["trajectory"][:, -1, 2:])
    assert np.abs(drawn[:, :2] - found.arrays["trajectory"][:, -1, :2]).max() > 1e-2


def test_a_prompt_that_says_the_same_changes_nothing(model):
    edited = model.edit("a red circle", "a red circle", "diffedit", image=PICTURES, seeds=[0, 1], **QUICK)
    np.testing.assert_array_equal(edited.images, edited.sources["source"])
    before = model.num_compiled
    other = model.edit(
        "a circle", "a blue circle", "diffedit", image=PICTURES, seeds=[0, 1], strength=0.8,
        options=dict(level=0.4, threshold=0.3), **QUICK,
    )  # fmt: skip
    assert (other.images != other.sources["source"]).any()
    assert model.num_compiled == before


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(level=2.0), "diffedit: level is 2.0, expected a number from 0 to 1"),
        (dict(num_noises=0), "diffedit: num_noises is 0, expected a whole number"),
        (dict(mask=np.zeros((3, 4))), r"the mask has shape \(3, 4\), expected \(4, 4\), the latent's cells"),
        (dict(mask=np.full((4, 4), 2)), "the mask has values out of range"),
    ],
)
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.edit("a circle", "a blue circle", "diffedit", image=PICTURES[0], options=options, **QUICK)


def test_without_a_picture(model):
    with pytest.raises(ValueError, match="diffedit: there is no image, expected the picture that is edited"):
        model.edit("a circle", "a blue circle", "diffedit", **QUICK)


def test_the_same_cells_and_picture_as_diffusers(tmp_path, monkeypatch):
    """Its noises fed in. There each step is blended with the latent that it started from, one step noisier
    than where it leads (diffusers 0.42.1): here the trajectory is shifted by one to compare."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    bundle.save(tmp_path / "bundle", stable_diffusion_1(tmp_path / "vocabulary", model=ONE_LEVEL))
    write.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "diffusers", "diffusers")
    kind = diffusers.StableDiffusionDiffEditPipeline
    theirs = kind.from_pretrained(tmp_path / "diffusers", safety_checker=None, inverse_scheduler=None)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.inverse_scheduler = diffusers.DDIMInverseScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    ours, steps, maps, seed = pipeline.load(tmp_path / "diffusers"), 10, 3, 5
    image = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    pixels = torch.from_numpy((image / 255.0).transpose(2, 0, 1)[None].astype(np.float32))

    # The noises of our first step, for each of the maps.
    key = jax.random.fold_in(keys_of(jnp.asarray([seed], jnp.uint32))[0], 0)
    noises = [step_noise(jax.random.fold_in(key, i)[None], (1, 8, 8, 4), "diffedit") for i in range(maps)]
    fed = torch.from_numpy(np.concatenate(noises).transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(sys.modules[kind.__module__], "randn_tensor", lambda *args, **kwargs: fed)
    # The mean of the first stage's posterior, as here; theirs draws from it.
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mean)
    expected = theirs.generate_mask(
        pixels, target_prompt="a blue square", source_prompt="a red circle", num_maps_per_mask=maps,
        num_inference_steps=steps, output_type="np",
        guidance_scale=3.0,
    )  # fmt: skip
    inverted = theirs.invert("", pixels, inpaint_strength=0.8, num_inference_steps=steps).latents

    how = dict(num_steps=steps, guidance_scale=3.0)
    asked = how | dict(spacing="leading", final_alpha="first")
    found = ours.invert(image, "", "ddim", [seed], **asked)
    ours_path = found.arrays["trajectory"][0, 2:-1].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours_path, inverted[0].numpy(), atol=2e-3)
    options = dict(source="a red circle", level=0.401, num_noises=maps)

    def draw(inverted, **more):
        return ours.sample(
            "a blue square",
            [seed],
            inverted=inverted,
            strength=0.8,
            edit={"diffedit": options | more},
            output="latents",
            **how,
        )

    mask = (draw(found) != found.arrays["trajectory"][:, -1]).any(-1)[0]
    np.testing.assert_array_equal(mask, expected[0] > 0)
    assert 0 < mask.mean() < 1
    path = found.arrays["trajectory"].copy()
    path[:, 3:] = found.arrays["trajectory"][:, 2:-1]
    drawn = ours.decode(draw(found._replace(arrays={"trajectory": path}), mask=mask.astype(np.float32)))
    picture = theirs(
        "a blue square", mask_image=torch.from_numpy(expected).float(), image_latents=inverted, inpaint_strength=0.8,
        num_inference_steps=steps, guidance_scale=3.0, output_type="np",
    ).images  # fmt: skip
    assert np.abs(np.clip((drawn + 1) / 2, 0, 1) - picture).max() <= 2 / 255
