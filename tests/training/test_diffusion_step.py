"""One step: what it reports of the update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training import diffusion_step
from ldm_jax.training.state import TrainState


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_update_s_norm_is_that_of_what_changed(accumulate):
    tx = optax.MultiSteps(optax.sgd(0.1), accumulate).gradient_transformation()
    loss = lambda params, *_: (jnp.square(params["w"]).sum(), {})  # noqa: E731
    gradients, w = jax.value_and_grad(loss, has_aux=True), jnp.asarray([3.0, 4.0])
    step = diffusion_step.make_step(gradients, tx, 0.999, accumulate)
    state = TrainState(jnp.zeros((), jnp.int32), {"w": w}, {"w": w}, tx.init({"w": w}))
    norms = []
    for _ in range(2):
        state, metrics = step(state, {}, {}, 0)
        norms.append(float(metrics["update_norm"]))
    # 0.1 times a gradient of 2 w, whose norm is 10; a batch that is only accumulated changes nothing.
    np.testing.assert_allclose(norms, [1.0, 0.8] if accumulate == 1 else [0.0, 1.0], rtol=1e-6)
