import numpy as np
import pytest

from ldm_jax.convert import layout


def counted(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    "kind, torch_shape, shape",
    [
        ("conv", (2, 3, 4, 5), (4, 5, 3, 2)),
        ("conv1d", (2, 3, 4), (4, 3, 2)),
        ("linear", (2, 3), (3, 2)),
        ("linear_conv1d", (2, 3, 1), (3, 2)),
        ("linear_conv2d", (2, 3, 1, 1), (3, 2)),
        ("channels", (1, 3, 1, 1), (3,)),
        ("same", (2, 3), (2, 3)),
    ],
)
def test_layouts_there_and_back(kind, torch_shape, shape):
    theirs = counted(*torch_shape)
    ours = layout.array_from_torch(theirs, kind)
    assert ours.shape == shape
    np.testing.assert_array_equal(layout.array_to_torch(ours, kind), theirs)


def test_a_conv_kernel_is_read_axis_by_axis():
    theirs = counted(2, 3, 4, 5)
    assert layout.array_from_torch(theirs, "conv")[1, 2, 0, 1] == theirs[1, 0, 1, 2]


def test_linear_kinds_read_each_other():
    for kind in ("linear", "linear_conv1d", "linear_conv2d"):
        for shape in ((2, 3), (2, 3, 1), (2, 3, 1, 1)):
            np.testing.assert_array_equal(layout.array_from_torch(counted(*shape), kind), counted(2, 3).T)


ENTRIES = layout.linear(("a", "b"), "x.y") + layout.norm(("n",), "norm")
TEMPLATE = {
    "a": {"b": {"kernel": counted(3, 2), "bias": counted(2)}},
    "n": {"scale": counted(2), "bias": counted(2)},
}


def test_a_tree_survives_the_round_trip_and_takes_the_templates_dtype():
    state = layout.to_torch(TEMPLATE, ENTRIES)
    assert sorted(state) == ["norm.bias", "norm.weight", "x.y.bias", "x.y.weight"]
    back = layout.from_torch(
        {name: array.astype(np.float16) for name, array in state.items()}, TEMPLATE, ENTRIES
    )
    for path, leaf in layout.flatten(TEMPLATE).items():
        np.testing.assert_array_equal(layout.flatten(back)[path], leaf)
        assert layout.flatten(back)[path].dtype == np.float32


def test_everything_that_does_not_fit_is_listed():
    state = layout.to_torch(TEMPLATE, ENTRIES)
    del state["norm.bias"]
    state |= {"x.y.weight": counted(3, 2), "spare": counted(1), "known.spare": counted(1)}
    with pytest.raises(ValueError) as error:
        layout.from_torch(state, TEMPLATE, ENTRIES, ignore=lambda name: name.startswith("known."))
    text = str(error.value)
    assert "3 names" in text and "missing: norm.bias (2,)" in text and "unused: spare (1,)" in text
    assert "mis-shaped: x.y.weight (3, 2), expected (2, 3) for a/b/kernel" in text


def test_the_list_stops_after_ten():
    state = layout.to_torch(TEMPLATE, ENTRIES) | {f"spare.{i}": counted(1) for i in range(12)}
    with pytest.raises(ValueError, match="12 names") as error:
        layout.from_torch(state, TEMPLATE, ENTRIES)
    assert str(error.value).count("unused") == 10
