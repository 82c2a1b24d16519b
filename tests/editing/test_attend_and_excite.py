"""Attend-and-Excite: its loss in closed form, what it does to the latents, and diffusers' pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ldm_jax.checkpoints import bundle, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import attend_and_excite as method
from ldm_jax.inference import methods, pipeline
from ldm_jax.samplers.base import StepInfo
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.inference.test_pipeline_parity import our_latents
from tests.tiny_models import ONE_LEVEL, random_params, stable_diffusion_1

B, H, L, D = 2, 4, 5, 3
STEPS = 4
TEXT = np.tile([False, True, True, True, False], (B, 1))
WORDS = np.zeros((B, 4, L), np.float32)
WORDS[:, 0, 1] = WORDS[:, 1, 3] = 1
SITE = Site("mid.attn", "mid", "cross", H, 0)


def denoiser(branches=1):
    """A network that is one cross-attention: its maps are softmax(x context^T)."""
    rng = np.random.default_rng(1)
    context = np.tile(rng.normal(size=(B, L, D)), (branches, 1, 1)) / 20  # maps that are not saturated
    cond = Cond(context=jnp.asarray(context, jnp.float32))

    def network(x, t, cond, control):
        logits = jnp.einsum("bhwd,bld->bhwl", x, cond.context).reshape(len(x), 1, H * H, L)
        return x, {"mid.attn/cross": control.record(SITE, jax.nn.softmax(logits))}

    return Denoiser(
        network, cond, None, make_schedule("linear", 100), "eps", jnp.arange(STEPS)[::-1], branches
    )


def moved(x, scale, thresholds=(0, 0, 0, 0), index=0, branches=1):
    """x after what is done before step `index`."""
    steps = jnp.full(STEPS, scale, jnp.float32).at[2:].set(0)
    edit = method.edit(
        denoiser(branches), words=jnp.asarray(WORDS), text=jnp.asarray(TEXT), steps=steps,
        thresholds=jnp.asarray(thresholds, jnp.float32),
    )  # fmt: skip
    info = StepInfo(jnp.int32(index), jnp.int32(50), jnp.int32(40), jax.random.key(0), 4)
    return edit.before((), x, info, None)[1]


def loss(x):
    one = denoiser()
    _, taps = one.network(x, None, one.cond, method.maps.CrossMaps(H))
    return np.asarray(
        method.neglect(method.maps.finest(taps, x.shape), jnp.asarray(WORDS), jnp.asarray(TEXT))
    )


X = jnp.asarray(np.random.default_rng(0).normal(size=(B, H, H, D)), jnp.float32)


def test_the_loss_is_that_of_the_most_neglected_word():
    """One cell looks at word 1 alone, none at word 3 more than at others: softmax, smoothing and maximum by hand."""
    read = np.full((1, H, H, L), 0.2, np.float32)
    read[0, 1, 1] = [0, 1, 0, 0, 0]
    sharp = np.exp(100 * read[..., 1:4] - (100 * read[..., 1:4]).max(-1, keepdims=True))
    sharp = np.pad(sharp / sharp.sum(-1, keepdims=True), [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    kernel = np.exp(-((np.abs(np.arange(3) - 1) / 1.0) ** 2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    smooth = sum(kernel[i, j] * sharp[:, i : i + H, j : j + H] for i in range(3) for j in range(3))
    got = method.neglect(jnp.asarray(read), jnp.asarray(WORDS[:1]), jnp.asarray(TEXT[:1]))
    np.testing.assert_allclose(got, 1 - min(smooth[..., 0].max(), smooth[..., 2].max()), rtol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    read = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(L) * 50, size=(B, H, H)), jnp.float32)
    check_grads(lambda r: method.neglect(r, jnp.asarray(WORDS), jnp.asarray(TEXT)).sum(), (read,), 1, ["rev"], eps=1e-4,
                atol=0.02, rtol=0.02)  # fmt: skip


def test_small_steps_lower_the_loss_and_late_ones_do_nothing():
    before = loss(X)
    assert (loss(moved(X, 0.1)) < before).all()
    np.testing.assert_array_equal(moved(X, 0.05, index=3), X)


def test_refinement_ends_for_each_picture_when_its_words_are_seen():
    target = 0.5
    assert (loss(X) > 1 - target).any()
    refined = moved(X, 3.0, thresholds=(target, 0, 0, 0))
    assert (loss(refined) <= 1 - target + 1e-3).all()
    alone = [moved_alone(i, target) for i in range(B)]
    np.testing.assert_allclose(refined, np.concatenate(alone), atol=1e-5)


def moved_alone(i, target):
    """Picture i beside a copy of itself: it depends on no other."""
    one = denoiser()
    cond = Cond(context=one.cond.context[i : i + 1])
    steps = jnp.asarray([3.0, 3.0, 0, 0], jnp.float32)
    edit = method.edit(one._replace(cond=cond), words=jnp.asarray(WORDS[:1]), text=jnp.asarray(TEXT[:1]), steps=steps,
                       thresholds=jnp.asarray([target, 0, 0, 0], jnp.float32))  # fmt: skip
    info = StepInfo(jnp.int32(0), jnp.int32(50), jnp.int32(40), jax.random.key(0), 4)
    return edit.before((), X[i : i + 1], info, None)[1]


def test_source_rows_are_untouched_to_the_bit():
    both = jnp.concatenate([X, X])
    out = moved(both, 0.5, thresholds=(0.9, 0, 0, 0), branches=2)
    np.testing.assert_array_equal(out[:B], X)
    assert np.abs(out[B:] - X).max() > 0.01


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(words="square"), "the prompt 'a red circle' has no word 'square'; it has: a, red, circle"),
        (dict(words=3), "attend_and_excite: words: got 3, expected words"),
        (dict(words=[["red"], ["blue"]]), "expected words, or a list of them for each of 1 pictures"),
        (dict(scale=-1), "scale is -1 and until is 0.5, expected 0 or more, and 0 to 1"),
        (dict(refine=[3]), r"refine is \[3\], expected pairs of numbers from 0 to 1"),
    ],
)
def test_errors(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.sample("a red circle", [0], edit={"attend_and_excite": options}, num_steps=2)


def test_the_same_latents_as_diffusers(tmp_path, monkeypatch):
    """Its softmax runs over all tokens but the first and the last; ours over those of the prompt."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    bundle.save(tmp_path / "bundle", stable_diffusion_1(tmp_path / "vocabulary", model=ONE_LEVEL))
    write.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "diffusers", "diffusers")
    theirs = diffusers.StableDiffusionAttendAndExcitePipeline.from_pretrained(
        tmp_path / "diffusers", safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(theirs.scheduler.config)
    ours, prompt = pipeline.load(tmp_path / "bundle"), "a red lamp and a blue square"
    latents = our_latents(ours)
    call = methods.Call(1, np.arange(3), 1000, (8, 8, 4), [prompt], ours.system.tokenizer, 3.0)
    places = [call.token_indices(prompt, word)[0] for word in ("red", "square")]
    given = dict(num_inference_steps=3, guidance_scale=3.0, height=16, width=16, output_type="latent")
    expected = theirs(
        prompt, places, latents=torch.tensor(latents.transpose(0, 3, 1, 2)), attn_res=(8, 8), max_iter_to_alter=2,
        thresholds={0: 0.05, 1: 0.5}, scale_factor=200, **given,
    ).images  # fmt: skip

    def all_but_ends(self, prompt):
        return np.arange(77) % 76 > 0

    def first_token(call, words):
        found = np.zeros((1, 4, 77), np.float32)
        found[0, 0, places[0]] = found[0, 1, places[1]] = 1
        return found

    monkeypatch.setattr(methods.Call, "text_tokens", all_but_ends)
    monkeypatch.setattr(method.phrases, "weights", first_token)
    asked = dict(num_steps=3, guidance_scale=3.0, spacing="leading", latents=latents, output="latents")
    options = dict(words="red,square", scale=200.0, refine=[(0, 0.05), (1 / 3, 0.5)])
    got = ours.sample(prompt, [3], edit={"attend_and_excite": options}, **asked)
    plain = ours.sample(prompt, [3], **asked)
    expected = np.asarray(expected).transpose(0, 2, 3, 1)
    assert np.abs(expected - plain).max() > 0.02
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())
