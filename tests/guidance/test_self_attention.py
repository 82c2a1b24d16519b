"""Self-attention guidance: its parts in closed form, and what it does with a network whose attention is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.control.base import Site
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import classifier_free, self_attention
from ldm_jax.types import Cond

SCHEDULE = make_schedule("linear", 100)
MIDDLE = Site("mid.attn", "mid", "self", 4, 0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 2)), jnp.float32)
T = jnp.array([40, 40])
PROBS = (
    np.random.default_rng(1).dirichlet(np.ones(16), size=(4, 3, 16)).astype(np.float32)
)  # [2B, heads, N, N]


def network(x, t, cond, control=None):
    """Twice x where the condition is 2; its middle attends as PROBS says."""
    taps = {}
    if control is not None and control.touches(MIDDLE):
        taps["mid.attn/self"] = control.record(MIDDLE, jnp.asarray(PROBS)[: x.shape[0]])
    return x * cond.context.reshape(-1, 1, 1, 1), taps


def denoiser(prediction_type="eps"):
    conds = [Cond(context=jnp.full((2, 1, 1), value)) for value in (0.5, 0.2)]
    return Denoiser(network, *conds, SCHEDULE, prediction_type, jnp.array([40, 20]))


def test_blur_is_scipys_gaussian():
    """A kernel of 9 cells, reflected at the border without repeating it."""
    ours = np.asarray(self_attention.blur(X, jnp.float32(1.0)))
    theirs = ndimage.gaussian_filter(np.asarray(X), (0, 1, 1, 0), mode="mirror", radius=4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_is_attended_to_more_than_the_mean_is_masked_at_the_resolution_of_the_latents():
    attention = jnp.asarray([[0.5, 2.0, 1.0, 0.5]])  # 2 x 2 cells
    mask = self_attention.attended(attention, (1, 4, 4, 2))[0, :, :, 0]
    np.testing.assert_array_equal(mask, np.kron([[0, 1], [0, 0]], np.ones((2, 2))))


@pytest.mark.parametrize("guided", [True, False])
def test_away_from_what_the_network_says_of_the_degraded_picture(guided):
    """The network is linear: eps_u = c x, so that the degraded prediction is c x_degraded."""
    ready = denoiser()
    inner = classifier_free.guide(ready.conditional, ready, scale=3.0) if guided else ready.conditional
    if not guided:
        ready = ready._replace(uncond=None)
    out = self_attention.guide(inner, ready, scale=jnp.float32(0.7), sigma=jnp.float32(1.0))(X, T)[0]
    c = 0.2 if guided else 0.5  # the unconditional half, or the only prediction
    x, eps = np.asarray(X), c * np.asarray(X)
    bar = np.cumprod(1 - np.linspace(1e-2, 2e-2**0.5, 100) ** 2)[40]
    clean = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
    mask = np.kron((PROBS[:2].mean(1).sum(1) > 1).reshape(2, 4, 4), np.ones((4, 4)))[..., None]
    assert 0 < mask.mean() < 1
    blurred = ndimage.gaussian_filter(clean, (0, 1, 1, 0), mode="mirror", radius=4)
    degraded = np.sqrt(bar) * (mask * blurred + (1 - mask) * clean) + np.sqrt(1 - bar) * eps
    plain = (0.2 + 3 * (0.5 - 0.2)) * x if guided else eps
    np.testing.assert_allclose(out, plain + 0.7 * (eps - c * degraded), rtol=1e-3, atol=1e-4)


def test_records_of_others_pass_and_its_own_do_not():
    ready = denoiser()
    _, taps = self_attention.guide(ready.conditional, ready, scale=1.0)(X, T)
    assert taps == {}


def test_a_network_without_attention_in_its_middle_is_refused():
    ready = denoiser()._replace(network=lambda x, t, cond, control=None: (x, {}))
    with pytest.raises(ValueError, match="has no self-attention in its middle"):
        self_attention.guide(ready.conditional, ready, scale=1.0)(X, T)
