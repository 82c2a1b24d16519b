"""ACE with a network and a classifier of which all is known: what is attacked changes, and nothing else to the bit."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.process import signal_and_noise
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.editing import ace
from ldm_jax.samplers import base, ddim

SCHEDULE = make_schedule("linear", 100)
VISITED = jnp.array([30, 20, 10])
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
STD = 1.0


def network(x, t, cond, control=None):
    """eps of data N(0, STD^2)."""
    signal, sigma = signal_and_noise(SCHEDULE, t, x)
    return sigma * x / (signal**2 * STD**2 + sigma**2), {}


def decode(z):
    return jnp.repeat(jnp.repeat(z, 2, axis=1), 2, axis=2)


def encode(images):
    return images.reshape(len(images), 4, 2, 4, 2, 3).mean((2, 4))


def loss(images, target, fixed):
    """Smaller the brighter the upper left quarter is, for the second picture the darker."""
    return jax.nn.softplus(-target["sign"] * images[:, :4, :4].sum((1, 2, 3)))


def drawn(**options):
    ready = Denoiser(network, None, None, SCHEDULE, "eps", VISITED, decode=decode, encode=encode)
    told = dict(loss=loss, target={"sign": jnp.array([1.0, -1.0])}, fixed={}, image=IMAGE)
    edit = ace.edit(ready, **(told | dict(iterations=10, growth=1) | options))
    keys = base.keys_of(jnp.arange(2, dtype=jnp.uint32))
    out, _, edited = jax.jit(
        lambda x: base.sample(
            ready.conditional, ddim.sampler(SCHEDULE, final_alpha="one"), x, VISITED, keys, edit
        )
    )(jnp.zeros((2, 4, 4, 3)))
    return np.asarray(out), np.asarray(edit.shows(edited)["mask"])


def test_only_what_the_classifier_looks_at_changes():
    out, mask = drawn()
    clean = np.asarray(encode(IMAGE))
    assert mask[:, :4, :4].mean() > 0.9 and not mask[:, 4:].any() and not mask[:, :, 4:].any()
    np.testing.assert_array_equal(out[:, 2:], clean[:, 2:])
    np.testing.assert_array_equal(out[:, :, 2:], clean[:, :, 2:])
    moved = (out - clean)[:, :2, :2].sum((1, 2, 3))
    assert moved[0] > 0.5 and moved[1] < -0.5


def test_what_changes_is_widened_by_as_many_pixels_as_asked():
    narrow, wide = (drawn(growth=growth)[1] for growth in (1, 3))
    assert wide[:, :5, :5].mean() > 0.9 and not wide[:, 5:].any() and wide.sum() > narrow.sum()
