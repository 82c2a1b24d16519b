"""The schedules by which diffusers' pipelines noise a condition: the upscaler's small picture, unCLIP's embedding.

Decides which of them can be expressed in the options of conditioning/upscale.py and conditioning/unclip.py.
Source: diffusers 0.42 pipeline_stable_diffusion_upscale.py, pipeline_stable_unclip_img2img.py.
"""

from collections.abc import Mapping
from typing import Any

from ldm_jax.convert import schema
from ldm_jax.convert.diffusers_networks import DIFFUSERS_VERSION, refuse
from ldm_jax.convert.diffusers_scheduler import NOISING, scheduler_json, scheduler_options


def read_upscale(files: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any]) -> dict[str, Any]:
    """How the low-resolution picture is noised; its scheduler draws nothing else."""
    section = files.get(
        "low_res_scheduler/scheduler_config.json",
        {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear"},
    )
    name, options = scheduler_options(section, class_of(index.get("low_res_scheduler")))
    if name not in NOISING:
        refuse("low_res_scheduler", "_class_name", name, " or ".join(NOISING))
    for option, value in {"beta_schedule": "scaled_linear", "trained_betas": None}.items():
        if options[option] != value:
            refuse("low_res_scheduler", option, options[option], repr(value))
    if options.get("rescale_betas_zero_snr"):
        refuse("low_res_scheduler", "rescale_betas_zero_snr", True, "false")
    return {
        "max_noise_level": index.get("max_noise_level", 350),
        "num_timesteps": options["num_train_timesteps"],
        "beta_start": options["beta_start"],
        "beta_end": options["beta_end"],
    }


def write_upscale(options: Mapping[str, Any], index: dict, files: dict) -> None:
    schedule = {k: options[k] for k in ("num_timesteps", "beta_start", "beta_end") if k in options}
    files["low_res_scheduler/scheduler_config.json"] = scheduler_json(
        {"schedule": {"name": "linear"} | schedule, "sampling": {"sampler": "ddpm", "spacing": "leading_0"}}
    )
    index["low_res_scheduler"] = ["diffusers", "DDPMScheduler"]
    index["max_noise_level"] = options.get("max_noise_level", 350)


def read_unclip(files: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any]) -> dict[str, Any]:
    """The width of the embeddings, and the schedule of their noise."""
    section = json_of(files, "image_noising_scheduler/scheduler_config.json")
    name, options = scheduler_options(section, class_of(index.get("image_noising_scheduler")))
    if name not in NOISING:
        refuse("image_noising_scheduler", "_class_name", name, " or ".join(NOISING))
    for option, value in {"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}.items():
        if options[option] != value:
            refuse("image_noising_scheduler", option, options[option], repr(value))
    normalizer = json_of(files, "image_normalizer/config.json")
    schema.check("image_normalizer", normalizer, {"embedding_dim": schema.WIDTH})
    return {"width": normalizer.get("embedding_dim", 768), "num_timesteps": options["num_train_timesteps"]}


def write_unclip(options: Mapping[str, Any], index: dict, files: dict) -> None:
    """The image encoder is no part of the model: the user of a pipeline brings one."""
    schedule = {"name": "squaredcos_cap_v2", "num_timesteps": options.get("num_timesteps", 1000)}
    files["image_noising_scheduler/scheduler_config.json"] = scheduler_json(
        {"schedule": schedule, "sampling": {"sampler": "ddpm", "spacing": "leading_0"}}
    )
    files["image_normalizer/config.json"] = {
        "_class_name": "StableUnCLIPImageNormalizer",
        "_diffusers_version": DIFFUSERS_VERSION,
        "embedding_dim": options["width"],
    }
    index["image_noising_scheduler"] = ["diffusers", "DDPMScheduler"]
    index["image_normalizer"] = ["stable_diffusion", "StableUnCLIPImageNormalizer"]
    index |= {"image_encoder": [None, None], "feature_extractor": [None, None]}
    index.pop("safety_checker", None)


def json_of(files: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    if name not in files:
        raise ValueError(f"diffusers folder: {name} is not there")
    return files[name]


def class_of(entry: Any) -> str | None:
    """The class of a part that model_index.json names as [library, class]; None where it names none."""
    named = isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], str)
    return entry[1] if named else None
