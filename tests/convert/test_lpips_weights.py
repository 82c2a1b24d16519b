import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ldm_jax.convert import lpips, state_dict


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """torchvision-like VGG16 weights and heads.

    Every conv is filled with its own place, every bias with its negative.
    """
    folder = tmp_path_factory.mktemp("weights")
    vgg, heads = {}, {}
    for name, array in state_dict.to_torch(lpips.template(), lpips.entries()).items():
        if name.startswith("lin"):
            heads[name] = np.full(array.shape, float(name[3]), np.float32)
        else:
            place, leaf = name.split(".")[2:]
            vgg[f"features.{place}.{leaf}"] = np.full(
                array.shape, float(place) * (1 if leaf == "weight" else -1), np.float32
            )
    vgg["classifier.0.bias"] = np.zeros(3, np.float32)
    save_file(vgg, folder / "vgg.safetensors")
    np.savez(folder / "heads.npz", **heads)
    return folder


def test_weights_reach_their_places(files):
    params = lpips.load_lpips(files / "vgg.safetensors", files / "heads.npz")
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, lpips.template())
    assert (params["conv_17"]["kernel"] == 17).all() and (params["conv_5"]["bias"] == -5).all()
    assert (params["lin_3"]["kernel"] == 3).all()


def test_what_is_missing_and_what_cannot_be_read_are_said(files):
    with pytest.raises(ValueError, match="5 names.*\n.*missing: lin0.model.1.weight"):
        lpips.load_lpips(files / "vgg.safetensors")
    with pytest.raises(ValueError, match=r"vgg16.pth"):
        lpips.load_lpips("vgg16.pth")
