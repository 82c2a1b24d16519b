"""Guidance with a scale for each condition, in closed form."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import multi_conditional
from ldm_jax.types import Cond


def test_text_and_map_lead_apart_or_together():
    """eps of a network that is told text 1 and map 10, and of both 100 more."""

    def network(x, t, cond, control=None):
        text = cond.context.sum((1, 2)).reshape(-1, 1, 1, 1)
        return text + cond.concat + 10 * text * cond.concat, {}

    told = Cond(jnp.ones((2, 1, 1)), jnp.full((2, 4, 4, 1), 10.0))
    nothing = Cond(0 * told.context, 0 * told.concat)
    denoiser = Denoiser(network, told, nothing, make_schedule("linear", 100), "eps", jnp.arange(3))

    def eps(**options):
        options = {k: jnp.float32(v) for k, v in options.items()}
        guided = multi_conditional.guide(None, denoiser, **options)
        return guided(jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32))[0]

    np.testing.assert_allclose(eps(scale=2, map_scale=3, both=5, apart=1), 2 * 1 + 3 * 10)
    np.testing.assert_allclose(eps(scale=2, map_scale=3, both=5, apart=0), 5 * 111)
    np.testing.assert_allclose(eps(scale=2, map_scale=3, both=5, apart=0.5), (32 + 555) / 2)
