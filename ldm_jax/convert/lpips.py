"""The weights of LPIPS: torchvision's VGG16 and the five heads, read from files that the user has.

Names and shapes are those of torchvision's vgg16 and of taming/modules/losses/lpips.py.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldm_jax.convert import cached_weights, files, state_dict
from ldm_jax.params import flatten, unflatten
from ldm_jax.types import PyTree

# What the files are called where cached_weights looks for them.
VGG_FILES = ("vgg16-397923af.pth", "vgg16.safetensors")
VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
HEAD_FILES = ("lpips_vgg.safetensors", "vgg_lpips.pth", "vgg.pth")
# Convs of torchvision's vgg16().features: place, slice of the original's VGG wrapper, channels in and out.
CONVS = (
    *((0, 1, 3, 64), (2, 1, 64, 64), (5, 2, 64, 128), (7, 2, 128, 128), (10, 3, 128, 256), (12, 3, 256, 256)),
    *((14, 3, 256, 256), (17, 4, 256, 512), (19, 4, 512, 512), (21, 4, 512, 512)),
    *((24, 5, 512, 512), (26, 5, 512, 512), (28, 5, 512, 512)),
)
HEADS = (64, 128, 256, 512, 512)


def _heads() -> list[state_dict.Entry]:
    return [((f"lin_{i}", "kernel"), f"lin{i}.model.1.weight", "linear_conv2d") for i in range(len(HEADS))]


def entries() -> list[state_dict.Entry]:
    """The name map of the original's LPIPS module; its two scaling buffers are constants here."""
    named = [state_dict.conv((f"conv_{place}",), f"net.slice{part}.{place}") for place, part, _, _ in CONVS]
    return sum(named, []) + _heads()


def template() -> PyTree:
    """The tree of parameters, as arrays without memory: what the name map must fill."""
    shapes = {}
    for place, _, channels, features in CONVS:
        shapes[f"conv_{place}"] = {"kernel": (3, 3, channels, features), "bias": (features,)}
    for i, channels in enumerate(HEADS):
        shapes[f"lin_{i}"] = {"kernel": (channels, 1)}
    flat = flatten(shapes)
    return unflatten({path: np.broadcast_to(np.float32(0), shape) for path, shape in flat.items()})


def _read(path: str | Path) -> Mapping[str, np.ndarray]:
    if Path(path).suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    return {name: tensor.read() for name, tensor in files.open_tensors(path).items()}


def find(vgg: str | Path | None = None, heads: str | Path | None = None) -> tuple[Path, Path | None]:
    """The files of VGG16 and of the five heads: those given, or those in the folders of cached_weights; None for heads
    that are in the first file.

    Raises: ValueError that says which is not there.
    """
    vgg = cached_weights.find_cached("VGG16 of LPIPS", VGG_FILES, vgg, VGG_URL)
    if heads is None and any(name.startswith("lin0.") for name in files.open_tensors(vgg)):
        return vgg, None
    return vgg, cached_weights.find_cached("heads of LPIPS", HEAD_FILES, heads)


def load_lpips(vgg_path: str | Path, heads_path: str | Path | None = None) -> PyTree:
    """The parameters of models/lpips.py, nested dicts of float32 numpy arrays, from .safetensors, .pth or .npz
    files.

    vgg_path: torchvision's vgg16 state dict (`features.N.weight`, ...; its classifier is passed over).
    heads_path: the learned heads (`lin0.model.1.weight` [1, C, 1, 1], ...); None when they are in the first
    file.
    Raises: ValueError for a file that cannot be read, and for names or shapes that do not fit, listing the first
    ten.
    """
    state = dict(_read(vgg_path))
    if heads_path is not None:
        state.update(_read(heads_path))
    named = [state_dict.conv((f"conv_{place}",), f"features.{place}") for place, _, _, _ in CONVS]
    return state_dict.from_torch(
        state, template(), sum(named, []) + _heads(), lambda name: name.startswith("classifier.")
    )
