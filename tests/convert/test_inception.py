import numpy as np
import pytest

from ldm_jax.convert import inception
from ldm_jax.convert.cached_weights import find_cached
from ldm_jax.params import flatten, unflatten

SHAPES = {
    "Conv2d_1a_3x3": {"kernel": (3, 3, 3, 4), "scale": (4,), "bias": (4,), "mean": (4,), "var": (4,)},
    "Mixed_5b": {
        "branch1x1": {"kernel": (1, 7, 4, 2), "scale": (2,), "bias": (2,), "mean": (2,), "var": (2,)}
    },
    "fc": {"kernel": (5, 6), "bias": (6,)},
}


@pytest.fixture
def template():
    flat = flatten(SHAPES)
    return unflatten({path: np.broadcast_to(np.float32(0), shape) for path, shape in flat.items()})


@pytest.fixture
def state(template):
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (4, 3, 3, 3),
        "Mixed_5b.branch1x1.conv.weight": (2, 4, 1, 7),
        "fc.weight": (6, 5),
        "fc.bias": (6,),
    }
    for block, width in (("Conv2d_1a_3x3", 4), ("Mixed_5b.branch1x1", 2)):
        shapes |= {f"{block}.bn.{n}": (width,) for n in ("weight", "bias", "running_mean", "running_var")}
    return {
        name: np.random.default_rng(i).normal(size=s).astype(np.float32)
        for i, (name, s) in enumerate(shapes.items())
    }


def test_every_array_reaches_its_place(state, template):
    params = inception.from_state(state, template)
    np.testing.assert_array_equal(
        params["Mixed_5b"]["branch1x1"]["kernel"][0, 3, 2, 1],
        state["Mixed_5b.branch1x1.conv.weight"][1, 2, 0, 3],
    )
    for leaf, theirs in (
        ("scale", "weight"),
        ("bias", "bias"),
        ("mean", "running_mean"),
        ("var", "running_var"),
    ):
        np.testing.assert_array_equal(params["Conv2d_1a_3x3"][leaf], state[f"Conv2d_1a_3x3.bn.{theirs}"])
    np.testing.assert_array_equal(params["fc"]["kernel"], state["fc.weight"].T)


def test_only_counters_and_the_auxiliary_head_may_be_left_over(state, template):
    extra = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0), "AuxLogits.fc.weight": np.zeros((3, 3))}
    inception.from_state(state | extra, template)
    with pytest.raises(ValueError, match="unused: Mixed_9z.bn.weight"):
        inception.from_state(state | {"Mixed_9z.bn.weight": np.zeros(3)}, template)
    with pytest.raises(ValueError, match=r"mis-shaped: fc.weight \(1000, 5\), expected \(6, 5\)"):
        inception.from_state(state | {"fc.weight": np.zeros((1000, 5))}, template)


def test_a_file_of_torch_is_read(state, template, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ldm_jax.convert.files")
    torch.save({name: torch.tensor(array) for name, array in state.items()}, tmp_path / inception.NAMES[0])
    params = inception.load_inception(tmp_path / inception.NAMES[0], template)
    np.testing.assert_array_equal(params["fc"]["bias"], state["fc.bias"])


def test_weights_are_found_where_they_are_kept_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(
        ValueError, match="FID: found no weights; .*pt_inception-2015-12-05.*https://.*ours or .*checkpoints"
    ):
        find_cached("FID", inception.NAMES, url=inception.URL)
    with pytest.raises(ValueError, match="FID: weights 'gone.pth' are not there"):
        find_cached("FID", inception.NAMES, "gone.pth")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    for folder in (hub, tmp_path / "ours"):
        folder.mkdir(parents=True)
        (folder / inception.NAMES[1]).touch()
        assert find_cached("FID", inception.NAMES) == folder / inception.NAMES[1]
    named = tmp_path / "mine.pth"
    named.touch()
    assert find_cached("FID", inception.NAMES, named) == named
