"""Name maps of the original's first stage: autoencoder, discriminator with its running statistics, and LPIPS.

Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/model.py, ldm/models/autoencoder.py;
CompVis/taming-transformers taming/modules/discriminator/model.py. Maps follow from the tree they are to fill,
so one function serves every configuration. Prefixes ('first_stage_model.', 'loss.discriminator.') are taken
off and put on by the caller.
"""

import re
from collections.abc import Mapping

import numpy as np

from ldm_jax.convert import state_dict
from ldm_jax.convert.state_dict import Entry
from ldm_jax.params import ParamPath, flatten
from ldm_jax.types import PyTree

NORMS = ("norm", "norm1", "norm2", "norm_out")
ONE_BY_ONE = ("q", "k", "v", "proj_out", "to_qkv", "to_out")  # convolutions there, Linear here


def _autoencoder_entry(path: ParamPath) -> Entry:
    if path == ("quantize", "embedding"):
        return path, "quantize.embedding.weight", "same"
    *modules, leaf = path
    # down_0_block_1 -> down.0.block.1, up_2_upsample -> up.2.upsample.conv (its own child), mid_attn_1 ->
    # mid.attn_1
    names = [
        re.sub(r"^(down|up)_(\d+)_([a-z]+)(?:_(\d+))?$", r"\1.\2.\3.\4", name).rstrip(".") for name in modules
    ]
    names = [re.sub(r"^mid_", "mid.", name) for name in names]
    kind = "same"
    if leaf == "kernel":
        kind = "linear_conv2d" if modules[-1] in ONE_BY_ONE else "conv"
    return path, ".".join([*names, "bias" if leaf == "bias" else "weight"]), kind


def autoencoder_entries(params: PyTree) -> list[Entry]:
    """The name map of AutoencoderKL's or VQModel's params (arrays or shapes, without the 'params' level)."""
    return [_autoencoder_entry(path) for path in flatten(params)]


def discriminator_entries(variables: PyTree) -> list[Entry]:
    """The name map of NLayerDiscriminator's variables, {'params': ..., 'batch_stats': ...}; no stats with
    ActNorm.

    In the original's Sequential the first conv is main.0, layer n's conv main.{3n - 1} and its norm
    main.{3n}.
    """
    entries = []
    for path in flatten(variables):
        _, module, leaf = path
        part, layer = module.split("_")
        place = 0 if layer == "0" else 3 * int(layer) - (part == "conv")
        if leaf in ("loc", "scale") and "loc" in variables["params"][module]:
            entries.append((path, f"main.{place}.{leaf}", "channels"))
            continue
        name = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(
            leaf, leaf
        )
        entries.append((path, f"main.{place}.{name}", "conv" if leaf == "kernel" else "same"))
    return entries


def unused(name: str) -> bool:
    """Whether a name of an autoencoder is no part of encoding and decoding: its loss, its own running averages, which
    codes were used, and the colors that segmentations are shown in."""
    return name.startswith(("loss.", "model_ema.")) or name in ("quantize.used", "colorize")


def from_torch(state: Mapping[str, np.ndarray], template: PyTree) -> PyTree:
    """An autoencoder's torch state dict as params shaped like `template`; what is `unused` is passed over.

    Raises: ValueError for missing, unused or mis-shaped names, listing the first ten.
    """
    return state_dict.from_torch(state, template, autoencoder_entries(template), unused)


def to_torch(params: PyTree) -> dict[str, np.ndarray]:
    """An autoencoder's params under the original's names, in its layouts."""
    return state_dict.to_torch(params, autoencoder_entries(params))
