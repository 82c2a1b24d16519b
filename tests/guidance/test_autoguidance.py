"""Autoguidance: of Gaussians in closed form, and which checkpoint is a weaker version of a model."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.guidance import autoguidance
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.inference.test_pipeline import LIGHT
from tests.samplers import oracle
from tests.tiny_models import random_params

SCHEDULE = make_schedule("linear", 100)
X = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2, 1)), jnp.float32)
SIZES = {"strong": dict(model=LIGHT["model"]), "weak": dict(model=LIGHT["model"] | dict(channels=4))}
CHANGES = {  # of a checkpoint that is no weaker version, and what is said of it
    "another schedule": (dict(schedule=LIGHT["schedule"] | dict(beta_end=0.02)), "the noise levels of the model"),
    "another prediction": (dict(prediction_type="eps"), "a prediction of: got 'eps', expected 'v'"),
    "other words": (
        dict(conditioning=LIGHT["conditioning"] | dict(tokenizer=dict(name="word_level", words=["a"], max_length=6))),
        "the conditioning: got ",
    ),
    "no words": (dict(conditioning=None, model=LIGHT["model"] | dict(context_dim=None)), "the conditioning: got "),
    "other latents": (
        dict(first_stage=LIGHT["first_stage"] | dict(channel_mult=[1, 1])),
        r"how much smaller latents are, and their channels: got \(2, 2\), expected \(4, 2\)",
    ),
}  # fmt: skip


def gaussian(std):
    data = oracle.eps_fn(SCHEDULE, jnp.zeros((1, 2, 2, 1)), std)
    return Denoiser(
        lambda x, t, cond, control=None: data(x, t, control), None, None, SCHEDULE, "eps", jnp.array([40])
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.3])
@pytest.mark.parametrize("t", [5, 40, 95])
def test_of_two_gaussians_it_leads_to_the_one_whose_density_is_theirs_extrapolated(t, scale):
    """Of densities p1 and p0, noised, it follows p1^s p0^(1 - s): a Gaussian of precision s / V1 + (1 - s) / V0."""
    std, worse = 0.3, 0.5
    strong, t = gaussian(std)._replace(under=lambda network, params: gaussian(params)), jnp.full(3, t)
    eps = autoguidance.guide(strong.conditional, strong, network=None, params=worse, scale=scale)(X, t)[0]
    bar = np.exp(np.asarray(SCHEDULE.log_alphas_cumprod, np.float64))[t[0]]
    variances = [bar * s**2 + 1 - bar for s in (std, worse)]
    precision = scale / variances[0] + (1 - scale) / variances[1]
    np.testing.assert_allclose(eps, np.sqrt(1 - bar) * precision * np.asarray(X), rtol=2e-5, atol=1e-6)


def write(folder, changes, gain):
    config = LIGHT | changes
    system = make_system(config)
    bundle.save(folder, bundle.Bundle(config, random_params(system, gain=gain), system.tokenizer))
    return str(folder)


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    return {name: write(folder / name, changes, 1.5) for name, changes in SIZES.items()}


def test_a_model_that_leads_away_from_itself_draws_what_it_draws(versions):
    """Whatever the scale, as the two predictions are one; and a smaller one of other parameters changes the picture."""
    model = pipeline.load(versions["strong"])

    def draw(guidance):
        asked = dict(num_steps=2, guidance_scale=3.0, output="latents", guidance=guidance)
        return model.sample(["a red circle"], [3], **asked)

    # its own prediction under the condition, of which classifier-free guidance makes another
    itself = draw(
        [("autoguidance", dict(model=versions["strong"], scale=3.0)), ("classifier_free", dict(scale=1.0))]
    )
    plain = draw({"classifier_free": dict(scale=1.0)})
    np.testing.assert_allclose(itself, plain, atol=1e-4 * np.abs(plain).max())
    other = draw(
        [("autoguidance", dict(model=versions["weak"], scale=3.0)), ("classifier_free", dict(scale=1.0))]
    )
    assert np.abs(other - plain).max() > 1e-2 * np.abs(plain).max()


@pytest.mark.parametrize("changes, message", CHANGES.values(), ids=CHANGES)
def test_what_is_no_weaker_version(versions, tmp_path, changes, message):
    model = pipeline.load(versions["strong"])
    path = write(tmp_path / "other", changes, 1.0)
    with pytest.raises(ValueError, match=message):
        model.sample(["a"], [0], num_steps=2, guidance={"autoguidance": dict(model=path)})


@pytest.mark.parametrize(
    "given, message", [("shapes_classifier", "classifier"), (3, "model: got 3, expected a name or a path")]
)
def test_what_is_no_model(versions, given, message):
    with pytest.raises(ValueError, match=message):
        pipeline.load(versions["strong"]).sample(
            ["a"], [0], num_steps=2, guidance={"autoguidance": dict(model=given)}
        )
