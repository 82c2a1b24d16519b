"""The spatial rescaler against torch's bilinear interpolation, and a case by hand."""

import numpy as np
import pytest

from ldm_jax.conditioning import semantic
from tests.conditioning.examples import setting


def test_a_checkerboard_becomes_halves():
    """Each 2 x 2 pixels hold two of class 0 and two of class 1; without a mapper the channels are the shares."""
    board = np.indices((16, 16)).sum(0) % 2
    conditioner = semantic.Conditioner(num_classes=3, num_stages=2, out_channels=None)
    inputs = semantic.inputs({"segmentations": [board]}, setting(conditioner))
    concat = conditioner.apply({}, inputs).concat
    np.testing.assert_array_equal(concat, np.broadcast_to([0.5, 0.5, 0.0], (1, 4, 4, 3)))


@pytest.mark.parametrize("size", [(16, 12), (13, 10)])
def test_is_torchs_interpolation_and_a_mapping_without_bias(size):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    labels, kernel = rng.integers(4, size=(2, *size)).astype(np.int32), rng.normal(size=(4, 3))
    h = torch.nn.functional.one_hot(torch.tensor(labels).long(), 4).permute(0, 3, 1, 2).double()
    for _ in range(2):
        h = torch.nn.functional.interpolate(h, scale_factor=0.5, mode="bilinear")
    expected = h.permute(0, 2, 3, 1).numpy() @ kernel
    params = {"channel_mapper": {"kernel": kernel[None, None].astype(np.float32)}}
    conditioner = semantic.Conditioner(num_classes=4)
    concat = conditioner.apply({"params": params}, {"segmentations": labels}).concat
    np.testing.assert_allclose(concat, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((8, 16), int), r"shape \(8, 16\)"),
        (np.zeros((16, 16)), "integers"),
        (np.full((16, 16), 3), "classes 3 to 3, expected 0 to 2"),
        (np.full((16, 16), -1), "classes -1 to -1"),
    ],
)
def test_what_is_no_map(labels, message):
    with pytest.raises(ValueError, match=message):
        semantic.inputs({"segmentations": [labels]}, setting(semantic.Conditioner(3)))
