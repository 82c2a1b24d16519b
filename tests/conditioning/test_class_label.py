"""Labels, their null row, and mixtures: weighted sums of the table's rows, worked out by numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import class_label
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from tests.conditioning.examples import setting
from tests.inference.test_pipeline import LIGHT as CONFIG
from tests.tiny_models import random_params


def inputs(labels, num_classes, **fields):
    conditioner = class_label.Conditioner(num_classes, **fields)
    return class_label.inputs({"class_labels": labels}, setting(conditioner))


def null_inputs(batch_size, num_classes, **fields):
    conditioner = class_label.Conditioner(num_classes, **fields)
    return class_label.null_inputs(batch_size, setting(conditioner))


@pytest.fixture(scope="module")
def embedded():
    """(a conditioner of 3 classes, its variables, its table [4, 5] as numpy)."""
    conditioner = class_label.Conditioner(3, 5)
    variables = conditioner.init(jax.random.key(0), null_inputs(1, 3))
    return conditioner, variables, np.asarray(variables["params"]["embedding"]["embedding"])


@pytest.mark.parametrize("mechanism", ["context", "vector"])
@pytest.mark.parametrize("labels", [[3], [-1], [0, 1, 7], np.array([1, 3])])
def test_a_label_out_of_range_names_the_range(labels, mechanism):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        inputs(labels, 3, mechanism=mechanism)


@pytest.mark.parametrize("mechanism", ["context", "vector"])
@pytest.mark.parametrize("label", [0.5, 1.0, True, "1", None])
def test_labels_are_integers(label, mechanism):
    with pytest.raises(ValueError, match="integers"):
        inputs([label], 3, mechanism=mechanism)


@pytest.mark.parametrize("labels", [2, [[1, 2]], np.zeros((2, 2), int)])
def test_labels_are_a_list(labels):
    with pytest.raises(ValueError, match="expected a list"):
        inputs(labels, 3)


def test_the_vector_mechanism_passes_labels_on():
    conditioner = class_label.Conditioner(3, mechanism="vector")
    given = inputs([2, 0], 3, mechanism="vector")
    null = class_label.null_inputs(2, setting(conditioner))
    cond = conditioner.apply({}, given)
    np.testing.assert_array_equal(cond.vector, [2, 0])
    np.testing.assert_array_equal(null["class_labels"], [3, 3])
    assert cond.context is None
    assert given["class_labels"].dtype == null["class_labels"].dtype == np.int32
    assert inputs([], 3, mechanism="vector")["class_labels"].shape == (0,)


def test_the_vector_mechanism_mixes_nothing():
    with pytest.raises(ValueError, match="got a mixture of classes, expected a label"):
        inputs([1, {2: 0.5}], 3, mechanism="vector")


def test_the_table_has_a_row_for_no_class_and_is_looked_up(embedded):
    conditioner, variables, table = embedded
    assert table.shape == (4, 5)
    context = conditioner.apply(variables, null_inputs(2, 3)).context
    np.testing.assert_array_equal(context, np.stack([table[3:]] * 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_plain_label_is_its_row_to_the_bit(dtype):
    conditioner = class_label.Conditioner(1000, 64, dtype=dtype)
    table = np.random.default_rng(0).normal(size=(1001, 64)).astype(np.float32)
    variables = {"params": {"embedding": {"embedding": jnp.asarray(table)}}}
    labels = [0, 999, 500, 500, 3]
    given = inputs(labels, 1000)["class_labels"]
    assert given.shape == (5, 1001) and given.dtype == np.float32
    context = jax.jit(conditioner.apply)(variables, {"class_labels": given}).context
    assert context.dtype == dtype and context.shape == (5, 1, 64)
    np.testing.assert_array_equal(context[:, 0], jnp.asarray(table[labels], dtype))
    looked_up = conditioner.apply(variables, {"class_labels": jnp.asarray(labels)}).context
    np.testing.assert_array_equal(context, looked_up)


def test_a_mixture_is_the_weighted_sum_with_the_weights_as_given(embedded):
    conditioner, variables, table = embedded
    given = inputs([{0: 0.25, 2: 0.75}, 1, {1: 2, 0: -0.5}, {2: 1}], 3)
    context = np.asarray(conditioner.apply(variables, given).context)[:, 0]
    np.testing.assert_allclose(context[0], 0.25 * table[0] + 0.75 * table[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(context[1], table[1])
    np.testing.assert_allclose(context[2], 2 * table[1] - 0.5 * table[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(context[3], table[2])


def test_a_mixture_has_the_structure_of_a_plain_label_and_compiles_nothing(embedded):
    conditioner, variables, _ = embedded
    run = jax.jit(conditioner.apply)
    for labels in ([0, 1], [{0: 0.5, 1: 0.5}, 2], np.array([1, 1])):
        run(variables, inputs(labels, 3))
    run(variables, null_inputs(2, 3))
    assert run._cache_size() == 1


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({}, "a mixture of no classes"),
        ({0: np.nan}, "label 0 has the weight nan, expected a finite number"),
        ({0: 1.0, 1: np.inf}, "label 1 has the weight inf"),
        ({0: 1e300}, "has the weight 1e"),
        ({0: "1"}, "has the weight '1'"),
        ({0: None}, "has the weight None"),
        ({0: [0.5, 0.5]}, "has the weight .0.5, 0.5"),
        ({3: 1.0}, "label 3, expected 0 to 2"),  # nor can the null class be mixed in
        ({"red": 1.0}, "label 'red', expected integers, 0 to 2"),
    ],
)
def test_mixtures_that_are_none(mixture, message):
    with pytest.raises(ValueError, match=message):
        inputs([0, mixture], 3)


@pytest.mark.parametrize(
    ("fields", "message"), [({"mechanism": "words"}, "'context' or 'vector'"), ({}, "needs a width")]
)
def test_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        class_label.Conditioner(3, **fields).apply({}, inputs([0], 3))


def test_a_model_without_a_null_class_has_no_row_for_it():
    conditioner = class_label.Conditioner(3, 4, null_class=False)
    null = class_label.null_inputs(1, setting(conditioner))
    variables = conditioner.init(jax.random.key(0), null)
    assert variables["params"]["embedding"]["embedding"].shape == (3, 4) and not conditioner.has_null
    assert inputs([2], 3, null_class=False)["class_labels"].shape == null["class_labels"].shape == (1, 3)


# --------------------------------------------------------------------------------------------- through a whole model


def whole(**options):
    """(a model of 5 classes, its parameters): those of two models differ in the null row alone."""
    config = dict(CONFIG, conditioning=dict(name="class_label", num_classes=5, width=8, **options))
    system = make_system(config)
    params = random_params(
        make_system(config | {"conditioning": config["conditioning"] | {"null_class": True}}), gain=1.5
    )
    if not options.get("null_class", True):
        table = params["conditioner"]["class_label"]["embedding"]
        params["conditioner"]["class_label"] = {"embedding": {"embedding": table["embedding"][:5]}}
    return pipeline.LatentDiffusion(system, params, 1.5), params


@pytest.fixture(scope="module")
def guided():
    return whole()


def draw(model, labels, scale, seeds=(3,)):
    drawn = model.sample(class_labels=labels, seeds=seeds, num_steps=2, guidance_scale=scale, batch_size=1)
    return drawn.astype(int)


def test_guidance_of_scale_1_is_none_and_of_scale_0_leads_to_the_null_row(guided):
    model, params = guided
    plain, _ = whole(null_class=False)  # has nothing to be guided away from
    one = draw(model, [2], 1.0)
    assert np.abs(one - draw(plain, [2], 1.0)).max() <= 1  # a table of one row less: another program
    assert np.abs(draw(model, [2], 1.0001) - one).max() <= 1  # by way of the doubled batch
    nothing = draw(model, [2], 0.0)
    np.testing.assert_array_equal(nothing, draw(model, [4], 0.0))  # one program: 0 times the difference
    assert np.abs(nothing - one).max() > 1 and np.abs(draw(model, [2], 4.0) - one).max() > 1
    table = np.array(params["conditioner"]["class_label"]["embedding"]["embedding"])
    table[0] = table[5]  # the label 0 says nothing now
    plain.params["conditioner"]["class_label"]["embedding"]["embedding"] = jnp.asarray(table[:5])
    assert np.abs(draw(plain, [0], 1.0) - nothing).max() <= 1


def test_a_picture_of_a_mixture(guided):
    model, _ = guided
    drawn = draw(model, [2, {2: 1.0}, {2: 0.5, 4: 0.5}, 4], 2.0, [3] * 4)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[2] - drawn[0]).max() > 1 and np.abs(drawn[2] - drawn[3]).max() > 1
