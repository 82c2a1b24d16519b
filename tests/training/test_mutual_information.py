"""InfoGAN's term: the bound in closed form on a discrete code, and its way into the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.params import flatten
from ldm_jax.system import make_system
from ldm_jax.training import mutual_information as mutual
from ldm_jax.training.objective import diffusion_objective, init_learned
from tests import tiny_shapes
from tests.tiny_models import random_params

FROZEN = dict(latent_scale=np.float32(1), first_stage={})


def test_the_bound_is_the_information_where_q_is_the_posterior_and_below_it_elsewhere():
    """A code of two values through a channel that flips one of four: I = log 2 - H(1/4), by counting four examples."""
    codes = jnp.eye(2)[jnp.asarray([0, 0, 0, 1, 1, 1, 1, 0])]
    seen = jnp.asarray([0, 0, 0, 0, 1, 1, 1, 1])  # what comes out, in the same order
    posterior = jnp.log(jnp.asarray([[0.75, 0.25], [0.25, 0.75]]))[seen]
    information = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert mutual.bound(mutual.cross_entropy(posterior, codes), codes) == pytest.approx(information, abs=1e-6)
    for wrong in (2 * posterior, jnp.zeros_like(posterior), -posterior):
        assert mutual.bound(mutual.cross_entropy(wrong, codes), codes) < information - 1e-3
    certain = 50 * codes  # of a code that is told for sure the information is its entropy
    assert mutual.bound(mutual.cross_entropy(certain, codes), codes) == pytest.approx(np.log(2), abs=1e-6)


def class_config(**options):
    config = tiny_shapes.config() | dict(conditioning=dict(name="class_label", num_classes=3, width=8))
    config["model"]["context_dim"] = 8
    return dict(config, condition_dropout=0.0, loss=dict(loss_type="l2", mutual_information=options))


@pytest.fixture(scope="module")
def graded():
    """(loss and metrics, gradient) as functions of parameters, and the parameters, of a model that is told a class."""
    config = class_config(weight=0.5, width=8)
    system = make_system(config)
    h, w, _ = system.latent_shape
    moments = np.random.default_rng(0).normal(size=(4, h, w, system.first_stage.encoded_channels))
    batch = dict(system.inputs({"class_labels": [0, 1, 2, 2]}), moments=moments.astype(np.float32))
    batch["position"] = np.arange(4, dtype=np.int32)
    params = random_params(system)
    params = {k: params[k] for k in ("unet", "conditioner")}
    params |= init_learned(config, system, params, jax.random.key(0))
    objective = diffusion_objective(config, system)
    return lambda p: objective(p, FROZEN, batch, 0, 0), params


def test_the_objective_has_it_and_its_head(graded):
    objective, params = graded
    _, metrics = jax.eval_shape(objective, params)
    assert "loss_mutual_information" in metrics and list(params[mutual.NAME]) == ["mid_out"]


@pytest.mark.slow
def test_its_gradient_reaches_head_network_and_class(graded):
    objective, params = graded
    gradient, metrics = jax.jit(jax.grad(objective, has_aux=True))(params)
    added = 0.5 * metrics["loss_mutual_information"]
    np.testing.assert_allclose(metrics["loss"], metrics["loss_simple"] + added, rtol=1e-5)
    moved = {path[:2] for path, leaf in flatten(gradient).items() if np.abs(leaf).max() > 0}
    assert (mutual.NAME, "mid_out") in moved and ("unet", "down_0_res_0") in moved
    assert any(path[0] == "conditioner" for path in moved)


def test_what_is_said_of_each_class_is_compared_with_what_was_told():
    """Weights of classes, and labels of a model whose network has the table."""
    term = mutual.term(system=make_system(class_config()), weight=0.5, width=8)
    weights = np.asarray([[1, 0, 0, 0], [0, 0.5, 0.5, 0]], np.float32)  # the last row is no class
    np.testing.assert_array_equal(term.target({mutual.CODE: weights}), weights[:, :3])
    np.testing.assert_array_equal(term.target({mutual.CODE: np.asarray([2, 0])}), np.eye(3)[[2, 0]])
    bias = np.log([0.5, 0.25, 0.25]).astype(np.float32)
    head = {
        "hidden_0": dict(kernel=np.zeros((2, 8)), bias=np.zeros(8)), "out": dict(kernel=np.zeros((8, 3)), bias=bias),
    }  # fmt: skip
    found = term.loss(
        {mutual.NAME: {"mid_out": head}}, {"mid.out/trunk": np.ones((2, 4, 4, 2))}, weights[:, :3]
    )
    np.testing.assert_allclose(found, [np.log(2), np.log(4)], rtol=1e-6)


def test_what_it_cannot_be():
    with pytest.raises(ValueError, match="weight: got -1, expected 0"):
        mutual.term(system=None, weight=-1)
    text = tiny_shapes.config()
    with pytest.raises(ValueError, match="the model takes prompts, expected class_labels"):
        mutual.term(system=make_system(text), weight=1.0)
    config = class_config(weight=1.0, sites=["up_9.trunk_0"])
    system = make_system(config)
    trees = jax.eval_shape(system.init, jax.random.key(0))
    with pytest.raises(ValueError, match="mutual_information.sites: 'up_9.trunk_0' not found"):
        init_learned(config, system, trees, jax.random.key(0))
