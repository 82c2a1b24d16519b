"""What a picture was drawn with, as one text that other tools read: the PNG text chunk `parameters`.

The form is AUTOMATIC1111's (stable-diffusion-webui modules/infotext_utils.py, modules/processing.py create_infotext):
the prompt; a line `Negative prompt: …` if there is one; and one last line of `Key: value` pairs. It knows no model; our
own text chunks, one per setting, say all that there is to say (commands/draw.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHUNK = "parameters"
# Our samplers by the names that AUTOMATIC1111 has for them; others keep their own.
SAMPLERS = {
    "ddim": "DDIM", "plms": "PLMS", "euler": "Euler", "euler_ancestral": "Euler a", "heun": "Heun", "lms": "LMS",
    "dpm2": "DPM2", "dpm2_ancestral": "DPM2 a", "dpm_solver": "DPM++ 2M", "dpm_solver_sde": "DPM++ 2M SDE",
    "unipc": "UniPC", "lcm": "LCM",
}  # fmt: skip
SCHEDULES = {
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm": "SGM Uniform",
    "beta": "Beta",
    "uniform": "Uniform",
    "ays": "Align Your Steps",
}
# The further settings that have a name there.
MORE = {"strength": "Denoising strength", "clip_skip": "Clip skip", "eta": "Eta"}


def parameters(said: Mapping[str, Any], image_shape: tuple[int, int]) -> str:
    """The text. said: `prompt`, `negative_prompt`, `steps`, `sampler`, `spacing`, `guidance_scale`, `seed`,
    `checkpoint` and those of MORE, as far as there are any. image_shape: (H, W) in pixels.

    A spacing is called by its kind alone: 'karras_leading' and 'ays_sdxl' have no other name there.
    A value with a comma, a colon or a line break is written as JSON, and the model's name without its folder, ending,
    commas and colons, as there.
    """
    sampler, height, width = said.get("sampler"), *image_shape
    pairs = {
        "Steps": said.get("steps"),
        "Sampler": SAMPLERS.get(sampler, sampler),
        "Schedule type": SCHEDULES.get(str(said.get("spacing")).partition("_")[0]),
        "CFG scale": said.get("guidance_scale"),
        "Seed": said.get("seed"),
        "Size": f"{width}x{height}",
        "Model": _model(said.get("checkpoint")),
    } | {name: said.get(key) for key, name in MORE.items()}
    lines = [said["prompt"]] if said.get("prompt") else []
    if said.get("negative_prompt"):
        lines.append(f"Negative prompt: {said['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_value(value)}" for key, value in pairs.items() if value is not None))
    return "\n".join(lines)


def _value(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def _model(checkpoint: Any) -> str | None:
    if not checkpoint:
        return None
    path = Path(str(checkpoint))
    name = path.stem if path.suffix in (".ckpt", ".safetensors", ".pt", ".bin") else path.name
    return name.replace(",", "").replace(":", "")
