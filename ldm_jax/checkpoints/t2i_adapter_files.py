"""Files of T2I-Adapters as they are exchanged: the original's, a file of torch.save, and diffusers', a folder with a
config.json; both are read as a delta of personalization/t2i_adapter.py, and written.

Decides that what the file does not say, the factor and whether it is one of SDXL, follows from the shape of the first
convolution and the factor of the model's first stage. Names are convert/t2i_adapter.py's.
Source: TencentARC/T2I-Adapter@168f87f ldm/modules/encoders/adapter.py, diffusers 0.42 models/adapter.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax.checkpoints.base import Bundle, as_float32
from ldm_jax.convert import files, state_dict
from ldm_jax.convert import t2i_adapter as names
from ldm_jax.convert.tensor import Tensor
from ldm_jax.first_stage import make_first_stage
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization.base import init_delta
from ldm_jax.types import PyTree

LAYOUTS = ("compvis", "diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"
_TYPES = {"full": "full_adapter", "xl": "full_adapter_xl", "light": "light_adapter"}


def is_folder(path: Path) -> bool:
    """Whether a folder is a T2I-Adapter that diffusers wrote."""
    try:
        return json.loads((path / "config.json").read_text())["_class_name"] == "T2IAdapter"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(file: Path, tensors: Mapping[str, Tensor], model: Bundle) -> tuple[dict[str, Any], PyTree]:
    """(section of personalization, delta) of a file, for this model.

    Raises: ValueError for a form that is not read, and for an adapter whose shapes do not fit the model.
    """
    theirs, tensors = names.is_theirs(tensors), names.plain(tensors)
    strange = next((n for n in tensors if ".skep." in n or ".down_opt." in n), None)
    if strange:
        raise ValueError(
            f"{file}: {strange} is of a T2I-Adapter with strided convolutions, which is not read"
        )
    section = dict(name="t2i_adapter") | _spec(file, tensors, theirs, model)
    template = jax.eval_shape(lambda: init_delta(section, jax.random.key(0), {}))["unet"]["t2i_adapter"]
    try:
        found = state_dict.from_torch(tensors, template, names.entries(template, theirs))
    except ValueError as error:
        raise ValueError(f"{file} is no whole T2I-Adapter: {error}") from None
    found = unflatten({path: as_float32(np.asarray(leaf)) for path, leaf in flatten(found).items()})
    if not all(np.isfinite(leaf).all() for leaf in flatten(found).values()):
        raise ValueError(f"{file} has NaN or infinity in it, expected finite numbers")
    return section, {"unet": {"t2i_adapter": found}}


def _spec(file: Path, tensors: Mapping[str, Tensor], theirs: bool, model: Bundle) -> dict[str, Any]:
    """The options of personalization/t2i_adapter.py that the shapes of a file's tensors say."""
    light, levels, blocks = names.structure(tensors, theirs)
    first = tensors["body.0.in_conv.weight" if light else "conv_in.weight"].shape[1]
    last = "out_conv" if light else f"{'resnets.0.' if theirs else ''}block2"
    places = [level if light or theirs else level * blocks for level in range(levels)]
    absent = [f"body.{i}.{last}.weight" for i in places if f"body.{i}.{last}.weight" not in tensors]
    if absent:
        raise ValueError(f"{file} has no {absent[0]}, expected a whole T2I-Adapter")
    widths = [tensors[f"body.{i}.{last}.weight"].shape[0] for i in places]
    own = make_first_stage(model.config["first_stage"]).factor
    sizes = {c * f**2: (c, f) for f in (own, 2 * own) for c in (1, 3)}
    if first not in sizes:
        raise ValueError(
            f"{file} is a T2I-Adapter of another base: its first convolution has {first} channels, expected one of "
            f"{', '.join(map(str, sizes))}"
        )
    channels, factor = sizes[first]
    kind = "light" if light else "full" if factor == own else "xl"
    return dict(kind=kind, widths=widths, num_res_blocks=blocks, factor=factor, channels=channels)


def write(path: Path, layout: str, section: Mapping[str, Any], delta: PyTree, dtype: Any = None) -> None:
    """Writes an adapter as a file of the original's names (.pth, .ckpt of torch.save; .safetensors), or a folder of
    diffusers'.

    Raises: ValueError for another layout, and for a full adapter of other than two blocks a level, which the
    original's names cannot say.
    """
    if layout not in LAYOUTS:
        raise ValueError(
            f"{path}: a T2I-Adapter cannot be written as {layout}, expected one of {', '.join(LAYOUTS)}"
        )
    own, theirs = delta["unet"]["t2i_adapter"], layout == "diffusers"
    kind, blocks = section.get("kind", "full"), section.get("num_res_blocks", 2)
    if not theirs and kind != "light" and blocks != 2:
        raise ValueError(
            f"{path}: the original's T2I-Adapter has 2 blocks a level, got {blocks}: write diffusers"
        )
    tensors = state_dict.to_torch(own, names.entries(own, theirs))
    if not theirs:
        if path.suffix == ".safetensors":
            files.write_safetensors(path, tensors, dtype)
        else:
            files.write_ckpt(path, tensors, dtype, wrapped=False)
        return
    widths = list(section["widths"])
    config = dict(
        _class_name="T2IAdapter",
        in_channels=section.get("channels", 3),
        channels=widths[:-1] if kind == "light" else widths,  # its last two levels are equally wide there
        num_res_blocks=blocks,
        downscale_factor=section.get("factor", 8),
        adapter_type=_TYPES[kind],
    )
    with files.replacing(path) as partial:
        partial.mkdir()
        files.write_safetensors(partial / WEIGHTS, {names.BEGINS + k: v for k, v in tensors.items()}, dtype)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
