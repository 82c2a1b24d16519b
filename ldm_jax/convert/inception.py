"""The weights of models/inception.py: the file pt_inception-2015-12-05, which pytorch-fid, torch-fidelity and
others share.

It is a torch state dict of the graph that TensorFlow published on that day, under torchvision's names. Decides the
name map; where a user keeps the file is convert/cached_weights.py's business.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.params import flatten
from ldm_jax.types import PyTree

NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAMES[0]}"

_TORCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def entries(template: PyTree) -> list[state_dict.Entry]:
    """The name map of every array of `template`, the parameters of InceptionV3 (nested dicts of shapes)."""
    named: list[state_dict.Entry] = []
    for path in flatten(template):
        *block, leaf = path
        place = ".".join(block)
        if block == ["fc"]:
            named.append(
                (
                    path,
                    f"fc.{'weight' if leaf == 'kernel' else 'bias'}",
                    "linear" if leaf == "kernel" else "same",
                )
            )
        elif leaf == "kernel":
            named.append((path, f"{place}.conv.weight", "conv"))
        else:
            named.append((path, f"{place}.bn.{_TORCH_NORM[leaf]}", "same"))
    return named


def unneeded(name: str) -> bool:
    """Whether a name of the file may be left over: torch's batch counters and the auxiliary head of training."""
    return name.endswith("num_batches_tracked") or name.startswith("AuxLogits.")


def from_state(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """The parameters of InceptionV3, nested dicts of float32 numpy arrays, from a torch state dict.

    template: nested dicts of anything with shape and dtype. Raises: ValueError that lists the first ten names that
    are missing, unused or mis-shaped.
    """
    return state_dict.from_torch(state, template, entries(template), unneeded)


def load_inception(path: str | Path, template: PyTree) -> PyTree:
    """`from_state` of a .pth or .safetensors file. Raises: ValueError for what cannot be read or does not fit."""
    from ldm_jax.convert.files import open_tensors

    return from_state({name: tensor.read() for name, tensor in open_tensors(path).items()}, template)
