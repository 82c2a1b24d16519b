"""Which model a file of the original's layout holds: the config that its names, its YAML or the user tell.

Decides in which order sources are asked (docs/checkpoints.md), and what is assumed where all are silent. Names and
shapes are read by convert/detect.py, YAML by convert/original_config.py, released models are in convert/published.py.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ldm_jax import text_files
from ldm_jax.config import conditioning_kinds, conditioning_section, load_config
from ldm_jax.convert import detect, original_config, published, safetensors_file, schema

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
CONFIG_KEY = "ldm_jax"  # of a single file's metadata, where checkpoints/write.py leaves the config
MARKERS = (
    "v_pred",
    "ztsnr",
    "edm_",
)  # tensors that some files of SDXL's descendants hold for their name alone
# Guidance that the releases with each kind of condition recommend, for a model whose config does not say.
GUIDANCE = {"clip": 7.5, "sdxl": 5.0, "text": 5.0, "class_label": 1.5}


def diffusion_config(shapes: Mapping[str, tuple], path: Path, options: Any) -> tuple[dict, list[str]]:
    """(config, sentences on where it comes from) of a file with these names and shapes.

    options: base.Options. The config may lack a first_stage, where the file holds none.
    Raises: ValueError for what is not known, or not said.
    """
    fields = detect.unet_fields(_inner(shapes, UNET))
    first = _inner(shapes, FIRST_STAGE)
    learned = detect.conditioner_sections(shapes)
    given, source, ours = _given(path, options)
    name, release = _release(fields, needed=given is None)
    if given is not None:
        if given.get("task") != "diffusion":
            raise ValueError(f"{source}: a config of a first stage alone, and {path} holds a diffusion model")
        config, notes = dict(given), [source]
        config["model"] = fields | {k: v for k, v in dict(given["model"]).items() if v is not None}
        config["conditioning"] = _merge(given.get("conditioning"), learned)
        if not config.get("sampling"):
            config["sampling"] = (
                release.process()["sampling"] if release else _sampling(config["conditioning"])
            )
    else:
        config, notes = release.process(), [f"recognized as {name}"]
        if "model_ema.decay" in shapes:  # as the release has it beside the pruned one that its YAML is for
            config["original"] = dict(use_ema=True)
        config["model"] = fields | dict(release.heads)
        parts = {k: dict(v) for k, v in release.parts.items()}
        config["conditioning"] = _merge(parts, learned, learned_first=True)
    if fields.get("context_dim") and not config["conditioning"]:
        raise ValueError(
            f"{path} holds no conditioner (cond_stage_model.…), and its UNet wants a context of width "
            f"{fields['context_dim']}"
        )
    if first:
        config["first_stage"] = detect.first_stage_section(first) | dict(config.get("first_stage") or {})
    notes += _marked(config, shapes, path)
    if options.prediction_type:
        config["prediction_type"] = options.prediction_type
    if "prediction_type" not in config:
        raise ValueError(
            f"{path} has the shapes of Stable Diffusion 2, of which 512-base predicts eps and 768-v predicts v: "
            "say --prediction_type eps or v, or name its --original_config"
        )
    if name == "sd2" and config["prediction_type"] == "v" and not ours:
        config["image_size"] = 768  # what it was trained at; its YAML says 512
    return schema.check_config(dict(task="diffusion", dtype="float32") | config, str(path)), notes


def _marked(config: dict, shapes: Mapping[str, tuple], path: Path) -> list[str]:
    """Enters into `config` what a file says by tensors that hold no weights; returns sentences on it.

    v_pred: the model predicts v. ztsnr: its schedule ends without signal, so that sampling begins at the last
    timestep (Lin et al. 2024, arXiv:2305.08891, section 3.3).
    Raises: ValueError for a model whose noise levels are EDM's.
    """
    if edm := [name for name in shapes if name.startswith("edm_")]:
        raise ValueError(
            f"{path} is marked by {edm[0]} as a model of EDM's noise levels, expected timesteps of a schedule"
        )
    notes = []
    if "v_pred" in shapes:
        config["prediction_type"] = "v"
        notes.append("marked as predicting v")
    if "ztsnr" in shapes:
        config["schedule"] = dict(config["schedule"], zero_terminal_snr=True)
        config["sampling"] = {"spacing": "trailing"} | dict(config["sampling"])
        notes.append("marked as trained with zero terminal SNR")
    return notes


def has_diffusers_names(names: Iterable[str]) -> bool:
    """Whether these are the names that diffusers gives an autoencoder's parameters."""
    return any(name.startswith("encoder.down_blocks.") for name in names)


def first_stage_config(shapes: Mapping[str, tuple], path: Path, options: Any) -> tuple[dict, list[str]]:
    """The same of an autoencoder alone. The scale of its latents is nowhere in such a file: kl-f8 is taken for Stable
    Diffusion's."""
    section = (
        detect.diffusers_first_stage_section if has_diffusers_names(shapes) else detect.first_stage_section
    )(shapes)
    given, source, _ = _given(path, options)
    config = dict(task="first_stage", image_size=256, first_stage=section)
    notes = [source] if given else []
    if given:
        config["first_stage"] = section | dict(given["first_stage"])
        config |= {k: given[k] for k in ("image_size", "scale_factor") if given.get(k) is not None}
    if "scale_factor" not in config:
        stable_diffusion = (
            section["name"] == "kl" and section["z_channels"] == 4 and len(section["channel_mult"]) == 4
        )
        config["scale_factor"] = 0.18215 if stable_diffusion else 1.0
        notes.append(f"the file does not say the scale of its latents; {config['scale_factor']} is assumed")
    return schema.check_config(config, str(path)), notes


def _release(fields: Mapping[str, Any], needed: bool) -> tuple[str, Any]:
    """(name, release) of a released UNet, or ('', None) of another unless one is needed."""
    try:
        return published.recognize(fields)
    except ValueError:
        if needed:
            raise
        return "", None


def _sampling(conditioning: Mapping[str, Any] | None) -> dict:
    kinds = [kind for kind in conditioning_kinds(conditioning) if kind in GUIDANCE]
    return dict(num_steps=50, guidance_scale=GUIDANCE[kinds[0]] if kinds else 1.0)


def _inner(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _merge(
    given: Mapping[str, Any] | None, learned: dict[str, dict], learned_first: bool = False
) -> dict | None:
    """Options by kind, those given before those that the shapes tell; in the form of a config's conditioning
    section."""
    given, learned = conditioning_kinds(given), dict(learned)
    for kind, same in (
        ("text", "layout"),
        ("layout", "text"),
    ):  # one network, whose tokens only a config can tell apart
        if kind in given and same in learned:
            learned[kind] = learned.pop(same)
    order = [*learned, *given] if learned_first else [*given, *learned]
    parts = {kind: learned.get(kind, {}) | given.get(kind, {}) for kind in dict.fromkeys(order)}
    for options in parts.values():
        if "num_rows" in options:  # of a table of classes, whose last row may stand for none
            rows = options.pop("num_rows")
            options.setdefault("num_classes", rows)
            options.setdefault("null_class", rows == options["num_classes"] + 1)
    return conditioning_section(parts)


def _given(path: Path, options: Any) -> tuple[dict | None, str, bool]:
    """(the config that the user names or that lies with the checkpoint, which, whether it is one of ours)."""
    if options.config:
        config = load_config(options.config)
        return schema.check_config(config, f"config {options.config}"), f"config {options.config}", True
    if options.original_config:
        return _read_yaml(options.original_config, f"config {options.original_config}")
    if path.suffix == ".safetensors" and CONFIG_KEY in (kept := safetensors_file.read_metadata(path)):
        return _kept(kept[CONFIG_KEY], path), "config kept in the file", True
    beside = [path.parent / f"{path.stem}{suffix}" for suffix in (".yaml", ".yml")] + [
        path.parent / "config.yaml"
    ]
    for candidate in beside:
        if candidate.is_file():
            return _read_yaml(candidate, f"config {candidate}, which lies beside it")
    return None, "", False


def _read_yaml(path: str | Path, source: str) -> tuple[dict, str, bool]:
    """(config, source, whether it is one of ours), which write.py leaves beside the original's."""
    ours = original_config.content(path).get(CONFIG_KEY)
    if ours is None:
        return original_config.read(path), source, False
    return schema.check_config(ours, f"{path}: {CONFIG_KEY}"), source, True


def _kept(text: str, path: Path) -> dict:
    """The config that a single file keeps of itself. Raises: ValueError that names the file."""
    what = f"{path}: {CONFIG_KEY} of its metadata"
    try:
        config = text_files.parse_json(text)
    except ValueError as error:
        raise ValueError(f"{what} is {error}") from None
    return schema.check_config(config, what)
