"""Training a classifier of noised latents: its loss in closed form, that it learns, and what is refused."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.training import classifier_job, classifier_loss, workdir

CONFIG = dict(
    classifier=dict(
        in_channels=1, num_classes=3, latent_size=2, channels=8, channel_mult=[1], num_res_blocks=1,
        head_dim=4, num_groups=4,
    )
)  # fmt: skip
FIRST_STAGE = SimpleNamespace(sample_of=lambda encoded, keys: encoded)
SYSTEM = SimpleNamespace(
    schedule=make_schedule("linear", 100), first_stage=FIRST_STAGE, latent_shape=(2, 2, 1)
)
FROZEN = {"first_stage": {}, "latent_scale": jnp.float32(1.0)}
LABELS = jnp.arange(24) % 3
PATTERNS = jnp.array([[1.0, -1.0, -1.0, 1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]]).reshape(
    3, 2, 2, 1
)
BATCH = {"moments": 2 * PATTERNS[LABELS], "class_label": LABELS, "position": jnp.arange(24)}


def test_a_network_that_knows_nothing_loses_the_logarithm_of_the_number_of_classes():
    loss = classifier_loss.classifier_loss(CONFIG, SYSTEM)
    params = jax.tree.map(jnp.zeros_like, classifier_loss.init(CONFIG, SYSTEM, jax.random.key(0)))
    value, metrics = loss(params, FROZEN, BATCH, jnp.uint32(0), jnp.int32(0))
    np.testing.assert_allclose(value, np.log(3), rtol=1e-5)
    assert metrics["loss_by_timestep"][1].sum() == 24  # every example, in the bin of its noise level


def test_it_learns_what_is_to_be_seen_of_noised_latents():
    loss, tx = classifier_loss.classifier_loss(CONFIG, SYSTEM), optax.adam(3e-3)
    params = classifier_loss.init(CONFIG, SYSTEM, jax.random.key(0))

    @jax.jit
    def step(carry, number):
        params, state = carry
        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, FROZEN, BATCH, jnp.uint32(0), number
        )
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), metrics["accuracy"]

    _, accuracy = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(100))
    assert accuracy[0] < 0.6 and accuracy[-20:].mean() > 0.9


def test_data_without_classes_or_with_others_are_refused():
    with pytest.raises(ValueError, match="needs a class_label for each image, and .* has none"):
        classifier_job.check_labels(CONFIG, [{"image": 0}], [])
    with pytest.raises(ValueError, match="num_classes is 3, expected 2"):
        classifier_job.check_labels(CONFIG, [{"class_label": 0}], ["a", "b"])
    with pytest.raises(ValueError, match="classifier has no option 'widths'; it has: in_channels"):
        classifier_loss.make_network({"classifier": dict(widths=3)})


def test_a_classifier_needs_the_model_that_it_is_to_guide():
    config = dict(
        task="classifier", seed=0, image_size=16, data={}, optimizer={}, batch_size=1, total_steps=1, log_every=1,
        checkpoint_every=1, preview_every=1, keep=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="config.base is missing: the model that the classifier is to guide"):
        workdir.check_config(config)
