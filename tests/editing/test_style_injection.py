"""Style injection: whose queries, keys and values count, where it begins, and a style that is a picture."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import appearance as shared
from ldm_jax.editing import style_injection
from ldm_jax.inference import pipeline
from ldm_jax.samplers.base import StepInfo
from ldm_jax.system import make_system
from ldm_jax.types import Cond
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

SITE = Site("up_0.attn_0", "up", "self", 4, 0)
RNG = np.random.default_rng(0)
QUICK = dict(num_steps=4, guidance_scale=3.0)
PICTURES = list(RNG.integers(0, 256, (2, 16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.LatentDiffusion(system, random_params(system, gain=1.5), 1.5, CONFIG)


@pytest.mark.parametrize("whose", [shared.NONE, shared.APPEARANCE])
def test_queries_are_mixed_and_keys_and_values_are_the_styles(whose):
    q, k, v = (jnp.asarray(RNG.normal(size=(6, 16, 2, 3)), jnp.float32) for _ in range(3))
    now = jnp.int32(whose)
    control = style_injection.Inject(0, now, now, 4, 2, 3, jnp.float32(0.75), jnp.float32(1.5))
    source, style, own = np.asarray(q).reshape(3, 2, 16, 2, 3)
    q2, k2, v2 = (np.asarray(a).reshape(3, 2, 16, 2, 3) for a in control.qkv(SITE, q, k, v))
    on = whose == shared.APPEARANCE
    np.testing.assert_allclose(q2[2], 1.5 * (0.75 * source + 0.25 * own) if on else own, rtol=1e-6)
    np.testing.assert_array_equal(q2[:2], [source, style])
    for new, old in ((k2, k), (v2, v)):
        old = np.asarray(old).reshape(3, 2, 16, 2, 3)
        np.testing.assert_array_equal(new, [old[0], old[1], old[1] if on else old[2]])
    assert not control.needs_probs(SITE) and not control.touches(SITE._replace(place="down"))
    assert not control.touches(SITE._replace(resolution=1))


def test_it_begins_with_the_styles_moments_which_follows_its_own_path():
    n, schedule = 3, make_schedule("linear", 100)
    cond = Cond(context=jnp.zeros((n, 1, 1)))
    denoiser = Denoiser(None, cond, None, schedule, "eps", jnp.asarray([60, 10]), n)
    path = jnp.asarray(RNG.normal(size=(1, 3, 8, 8, 2)) * 2 + 1, jnp.float32)
    numbers = {name: jnp.float32(1) for name in ("adain", "keep", "sharpness")}
    edit = style_injection.edit(
        denoiser, style_path=path, whose=jnp.ones(2, jnp.int32), follows=True, **numbers
    )
    x = jnp.asarray(np.tile(RNG.normal(size=(1, 8, 8, 2)), (n, 1, 1, 1)), jnp.float32)
    for i, t in enumerate((60, 10)):
        info = StepInfo(jnp.int32(i), jnp.int32(t), jnp.int32(-1), None)
        _, begun = edit.before(edit.init(x), x, info, None)
        np.testing.assert_array_equal(begun[0], x[0])
        np.testing.assert_array_equal(begun[1], path[0, i])
        if i == 0:
            np.testing.assert_allclose(begun[2].mean((0, 1)), path[0, 0].mean((0, 1)), atol=1e-5)
            np.testing.assert_allclose(begun[2].std((0, 1)), path[0, 0].std((0, 1)), rtol=1e-4)
            assert np.corrcoef(np.ravel(begun[2][..., 0]), np.ravel(x[2][..., 0]))[0, 1] > 0.9999
        else:
            np.testing.assert_array_equal(begun[2], x[2])


def test_a_style_that_is_a_picture(model, tmp_path):
    Image.fromarray(PICTURES[1]).save(tmp_path / "style.png")

    def edited(style_image, **options):
        options = dict(style_image=style_image, **options)
        return model.edit("", "", "style_injection", image=[PICTURES[0]], options=options, **QUICK)

    of_file, before = edited(str(tmp_path / "style.png")), model.num_compiled
    np.testing.assert_array_equal(of_file.images, edited(PICTURES[1]).images)
    assert (edited(255 - PICTURES[1]).images != of_file.images).any()
    assert (edited(PICTURES[1], keep=0.1, sharpness=3.0).images != of_file.images).any()
    assert model.num_compiled == before
    assert set(of_file.sources) == {"source", "style"}
    with pytest.raises(ValueError, match=r"a further picture is of size \(8, 8\), expected \(16, 16\)"):
        edited(PICTURES[1][:8, :8])
    with pytest.raises(ValueError, match="style_image is a picture, which `edit` alone takes"):
        options = dict(source="", style="", style_image=PICTURES[1])
        model.sample("", [0], edit={"style_injection": options}, **QUICK)
    with pytest.raises(ValueError, match="sharpness is 0, expected more than 0"):
        edited(PICTURES[1], sharpness=0)
