import jax
import numpy as np
import pytest

from ldm_jax.conditioning import class_label


@pytest.mark.parametrize("labels", [[3], [-1], [0, 1, 7]])
def test_a_label_out_of_range_names_the_range(labels):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        class_label.inputs(labels, 3)


def test_labels_are_integers():
    with pytest.raises(ValueError, match="integers"):
        class_label.inputs([0.5], 3)


def test_the_vector_mechanism_passes_labels_on():
    inputs = class_label.inputs([2, 0], 3)
    cond = class_label.Conditioner(3, mechanism="vector").apply({}, inputs)
    np.testing.assert_array_equal(cond.vector, [2, 0])
    assert cond.context is None


def test_the_table_has_a_row_for_no_class_and_is_looked_up():
    conditioner = class_label.Conditioner(3, 4)
    variables = conditioner.init(jax.random.key(0), class_label.null_inputs(1, 3))
    table = variables["params"]["embedding"]["embedding"]
    assert table.shape == (4, 4)
    context = conditioner.apply(variables, class_label.null_inputs(2, 3)).context
    np.testing.assert_array_equal(context, np.stack([table[3:]] * 2))


@pytest.mark.parametrize(
    ("fields", "message"), [({"mechanism": "words"}, "'context' or 'vector'"), ({}, "needs a width")]
)
def test_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        class_label.Conditioner(3, **fields).apply({}, class_label.inputs([0], 3))
