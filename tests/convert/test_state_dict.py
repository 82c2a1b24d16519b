import ml_dtypes
import numpy as np
import pytest

from ldm_jax.convert import state_dict
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten

LEAVES = (("kernel", "weight"), ("bias", "bias"))


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
    ours = state_dict.array_from_torch(theirs, kind)
    assert ours.shape == shape
    np.testing.assert_array_equal(state_dict.to_torch({"x": ours}, [(("x",), "x", kind)])["x"], theirs)


def test_a_conv_kernel_is_read_axis_by_axis():
    theirs = counted(2, 3, 4, 5)
    assert state_dict.array_from_torch(theirs, "conv")[1, 2, 0, 1] == theirs[1, 0, 1, 2]


def test_linear_kinds_read_each_other():
    for kind in ("linear", "linear_conv1d", "linear_conv2d"):
        for shape in ((2, 3), (2, 3, 1), (2, 3, 1, 1)):
            np.testing.assert_array_equal(state_dict.array_from_torch(counted(*shape), kind), counted(2, 3).T)


ENTRIES = state_dict.linear(("a", "b"), "x.y") + state_dict.norm(("n",), "norm")
TEMPLATE = {
    "a": {"b": {"kernel": counted(3, 2), "bias": counted(2)}},
    "n": {"scale": counted(2), "bias": counted(2)},
}


def test_a_tree_survives_the_round_trip_and_takes_the_templates_dtype():
    state = state_dict.to_torch(TEMPLATE, ENTRIES)
    assert sorted(state) == ["norm.bias", "norm.weight", "x.y.bias", "x.y.weight"]
    back = state_dict.from_torch(
        {name: array.astype(np.float16) for name, array in state.items()}, TEMPLATE, ENTRIES
    )
    for path, leaf in flatten(TEMPLATE).items():
        np.testing.assert_array_equal(flatten(back)[path], leaf)
        assert flatten(back)[path].dtype == np.float32


def test_everything_that_does_not_fit_is_listed():
    state = state_dict.to_torch(TEMPLATE, ENTRIES)
    del state["norm.bias"]
    state |= {"x.y.weight": counted(3, 2), "spare": counted(1), "known.spare": counted(1)}
    with pytest.raises(ValueError) as error:
        state_dict.from_torch(state, TEMPLATE, ENTRIES, ignore=lambda name: name.startswith("known."))
    text = str(error.value)
    assert "3 names" in text and "missing: norm.bias (2,)" in text and "unused: spare (1,)" in text
    assert "mis-shaped: x.y.weight (3, 2), expected (2, 3) for a/b/kernel" in text


def test_the_list_stops_after_ten():
    state = state_dict.to_torch(TEMPLATE, ENTRIES) | {f"spare.{i}": counted(1) for i in range(12)}
    with pytest.raises(ValueError, match="12 names") as error:
        state_dict.from_torch(state, TEMPLATE, ENTRIES)
    assert str(error.value).count("unused") == 10


@pytest.mark.parametrize("kind, heads", [("split:2", 2), ("split:1", 1), ("split_new", None)])
@pytest.mark.parametrize("ones", [(), (1,), (1, 1)])
def test_one_projection_of_ours_gives_what_three_of_theirs_give(kind, heads, ones):
    theirs = {n: counted(4, 3, *ones) + 100 * i for i, n in enumerate("qkv")}
    x = counted(5, 3)
    ours = x @ state_dict.join_from_torch([theirs[n] for n in "qkv"], kind)  # [5, 12]
    for i, n in enumerate("qkv"):
        wanted = x @ theirs[n].reshape(4, 3).T
        if heads is None:
            got = ours[:, 4 * i : 4 * i + 4]
        else:
            got = ours.reshape(5, heads, 3, 4 // heads)[:, :, i].reshape(5, 4)
        np.testing.assert_array_equal(got, wanted)


SPLIT = [(("to", leaf), tuple(f"{n}.{there}" for n in "qkv"), "split:2") for leaf, there in LEAVES]
SPLIT_TEMPLATE = {"to": {"kernel": counted(5, 12), "bias": counted(12)}}


def test_a_split_array_survives_the_round_trip():
    state = state_dict.to_torch(SPLIT_TEMPLATE, SPLIT)
    assert {n: a.shape for n, a in state.items()} == {f"{n}.weight": (4, 5) for n in "qkv"} | {
        f"{n}.bias": (4,) for n in "qkv"
    }
    np.testing.assert_array_equal(state["k.bias"], [2, 3, 8, 9])  # head 0: q q k k v v, head 1 the same
    back = state_dict.from_torch(state, SPLIT_TEMPLATE, SPLIT)
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(back["to"][leaf], SPLIT_TEMPLATE["to"][leaf])


def test_parts_of_a_split_array_are_named_when_they_do_not_fit():
    state = state_dict.to_torch(SPLIT_TEMPLATE, SPLIT)
    del state["k.bias"]
    state["v.weight"] = counted(12, 5)
    with pytest.raises(ValueError) as error:
        state_dict.from_torch(state, SPLIT_TEMPLATE, SPLIT)
    text = str(error.value)
    assert "2 names" in text and "missing: k.bias (4,) for to/bias" in text
    assert "mis-shaped: v.weight (12, 5), expected (4, 5) for to/kernel" in text


def unread(array, counts):
    def read():
        counts.append(1)
        return array

    return Tensor(array.shape, array.dtype, read)


def test_tensors_are_judged_unread_and_read_one_by_one():
    counts = []
    state = {n: unread(a, counts) for n, a in state_dict.to_torch(TEMPLATE, ENTRIES).items()}
    with pytest.raises(ValueError, match="missing: norm.bias"):
        state_dict.lazy_from_torch({n: t for n, t in state.items() if n != "norm.bias"}, TEMPLATE, ENTRIES)
    tree = state_dict.lazy_from_torch(state, TEMPLATE, ENTRIES)
    back = state_dict.lazy_to_torch(tree, ENTRIES)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items()} and not counts
    np.testing.assert_array_equal(back["x.y.weight"].read(), state["x.y.weight"].read())
    assert len(counts) == 2
    kernel = tree["a"]["b"]["kernel"]
    np.testing.assert_array_equal(kernel.read(), TEMPLATE["a"]["b"]["kernel"])
    assert kernel.shape == (3, 2) and kernel.dtype == np.float32


def test_from_torch_takes_tensors():
    state = {n: unread(a, []) for n, a in state_dict.to_torch(TEMPLATE, ENTRIES).items()}
    back = state_dict.from_torch(state, TEMPLATE, ENTRIES)
    np.testing.assert_array_equal(back["a"]["b"]["kernel"], TEMPLATE["a"]["b"]["kernel"])
    assert back["a"]["b"]["kernel"].flags.c_contiguous


def test_a_lazy_tree_takes_the_templates_dtype_or_keeps_the_files():
    state = {n: a.astype(ml_dtypes.bfloat16) for n, a in state_dict.to_torch(TEMPLATE, ENTRIES).items()}
    cast = state_dict.lazy_from_torch(state, TEMPLATE, ENTRIES)["n"]["scale"]
    kept = state_dict.lazy_from_torch(state, TEMPLATE, ENTRIES, keep_dtype=True)["n"]["scale"]
    assert cast.dtype == cast.read().dtype == np.float32
    assert kept.dtype == kept.read().dtype == ml_dtypes.bfloat16


def test_ten_of_each_kind_are_listed():
    entries = [((f"w{i:02}",), f"w{i:02}", "same") for i in range(30)]
    template = {path[0]: counted(2) for path, _, _ in entries}
    state = {f"w{i:02}": counted(3) for i in range(14)} | {f"s{i}": counted(1) for i in range(13)}
    with pytest.raises(ValueError, match="43 names") as error:
        state_dict.from_torch(state, template, entries)
    text = str(error.value)
    assert [text.count(word) for word in ("missing", "unused", "mis-shaped")] == [10, 10, 10]
    assert (
        "w09 (3,)" in text
        and "w10 (3,)" not in text
        and "6 more" in text
        and "4 more" in text
        and "3 more" in text
    )
