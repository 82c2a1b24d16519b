import jax
import numpy as np
import pytest

from ldm_jax.conditioning import class_label
from tests.conditioning.examples import setting


def inputs(labels, num_classes, **fields):
    conditioner = class_label.Conditioner(num_classes, **fields)
    return class_label.inputs({"class_labels": labels}, setting(conditioner))


def null_inputs(batch_size, num_classes):
    return class_label.null_inputs(batch_size, setting(class_label.Conditioner(num_classes)))


@pytest.mark.parametrize("labels", [[3], [-1], [0, 1, 7]])
def test_a_label_out_of_range_names_the_range(labels):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        inputs(labels, 3)


def test_labels_are_integers():
    with pytest.raises(ValueError, match="integers"):
        inputs([0.5], 3)


def test_the_vector_mechanism_passes_labels_on():
    cond = class_label.Conditioner(3, mechanism="vector").apply({}, inputs([2, 0], 3))
    np.testing.assert_array_equal(cond.vector, [2, 0])
    assert cond.context is None


def test_the_table_has_a_row_for_no_class_and_is_looked_up():
    conditioner = class_label.Conditioner(3, 4)
    variables = conditioner.init(jax.random.key(0), null_inputs(1, 3))
    table = variables["params"]["embedding"]["embedding"]
    assert table.shape == (4, 4)
    context = conditioner.apply(variables, null_inputs(2, 3)).context
    np.testing.assert_array_equal(context, np.stack([table[3:]] * 2))


@pytest.mark.parametrize(
    ("fields", "message"), [({"mechanism": "words"}, "'context' or 'vector'"), ({}, "needs a width")]
)
def test_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        class_label.Conditioner(3, **fields).apply({}, inputs([0], 3))


def test_a_model_without_a_null_class_has_no_row_for_it():
    conditioner = class_label.Conditioner(3, 4, null_class=False)
    variables = conditioner.init(jax.random.key(0), class_label.null_inputs(1, setting(conditioner)))
    assert variables["params"]["embedding"]["embedding"].shape == (3, 4) and not conditioner.has_null
