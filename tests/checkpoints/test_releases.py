"""Every released model is recognized from its names and shapes alone, and its parts come out as configs/ has them.

A few here; all of them with python -m pytest -m slow tests/checkpoints/test_releases.py
"""

import importlib

import numpy as np
import pytest

from ldm_jax.checkpoints import compvis
from ldm_jax.checkpoints.base import Checkpoint, Options
from ldm_jax.checkpoints.open import open_file
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten, unflatten
from ldm_jax.system import make_system

# config file: how its checkpoint is named in the table of releases, and what has to be said beside
NAMES = dict(celebahq_ldm4="celebahq_ldm4 (also ffhq, lsun_bedrooms)", sd2_v="sd2")
SAID = dict(sd2="eps", sd2_v="v")
CONFIGS = [
    "celebahq_ldm4", "lsun_churches_ldm8", "imagenet_ldm8", "imagenet_ldm4", "text2img_256", "text2img_1p4b",
    "layout_openimages",
    "semantic_256", "superres_bsr", "inpainting_big", "rdm_768", "sd1", "sd1_inpainting", "sd2", "sd2_v",
    "sd2_inpainting",
    "sd2_depth", "sd_x4_upscaler", "sdxl_base", "sdxl_refiner",
]  # fmt: skip
QUICK = ("semantic_256", "inpainting_big", "sd2")


def unread(config: dict) -> Checkpoint:
    """The model of a config with parameters that nobody reads."""
    shapes = make_system(config).param_shapes()

    def tensor(leaf) -> Tensor:
        return Tensor(tuple(leaf.shape), np.dtype("float32"), lambda: np.zeros(leaf.shape, np.float32))

    flat = {path: tensor(leaf) for path, leaf in flatten(shapes).items()}
    return Checkpoint(config, unflatten(flat), None, "bundle")


def network(unet):
    """Without what changes nothing: remat, and what would be attended to at levels without attention."""
    disabled = unet.disable_self_attention
    if disabled is not None:
        disabled = tuple(d and level in unet.attention_levels for level, d in enumerate(disabled))
    return unet.clone(remat=False, disable_self_attention=disabled)


def fields(conditioner) -> dict:
    """Its fields; of SDXL's towers, with those that they share."""
    found = {
        k: getattr(conditioner, k)
        for k in type(conditioner).__dataclass_fields__
        if k not in ("parent", "name")
    }
    for tower in ("clip_l", "clip_g"):
        if found.get(tower) is not None:
            shared = {k: found[k] for k in ("vocab_size", "max_length")}
            found[tower] = shared | dict(found[tower])
    if "clip_l" in found:  # None says that it follows from whether there is a clip_l
        refiner = found["clip_l"] is None
        for name, value in dict(use_aesthetic=refiner, force_zeros=not refiner).items():
            found[name] = value if found[name] is None else found[name]
    return found


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS]
)
def test_released_models_are_recognized(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config().to_dict()
    config["scale_factor"] = (
        config.get("scale_factor") or 0.22
    )  # None is measured in training, and then lies in the file
    (tensors,) = compvis.parts(unread(config)).values()
    tensors = {
        k: t if isinstance(t, Tensor) else Tensor(t.shape, t.dtype, lambda t=t: t) for k, t in tensors.items()
    }
    if name == "inpainting_big":  # the published file has its first stage twice
        twice = {k: t for k, t in tensors.items() if k.startswith("first_stage_model.")}
        tensors |= {k.replace("first_stage_model.", "cond_stage_model."): t for k, t in twice.items()}
    options = Options(prediction_type=SAID.get(name))
    if name in SAID:
        with pytest.raises(
            ValueError, match="512-base predicts eps and 768-v predicts v: say --prediction_type"
        ):
            open_file(tensors, tmp_path / "model.ckpt", Options())
    opened = open_file(tensors, tmp_path / "model.ckpt", options)
    assert f"recognized as {NAMES.get(name, name)}" in opened.notes
    for entry in ("image_size", "prediction_type"):
        assert opened.config[entry] == config.get(entry, "eps"), entry
    assert opened.config["scale_factor"] == pytest.approx(config["scale_factor"], rel=1e-7)
    for entry in ("num_timesteps", "beta_start", "beta_end", "name"):
        assert opened.config["schedule"][entry] == config["schedule"][entry]
    given = make_system(config)
    again = make_system(opened.config)
    assert network(again.unet) == network(given.unet)
    assert again.first_stage.module == given.first_stage.module
    assert [p.name for p in again.parts] == [p.name for p in given.parts]
    assert [fields(p.conditioner) for p in again.parts] == [fields(p.conditioner) for p in given.parts]
