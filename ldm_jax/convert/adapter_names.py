"""The names that files of LoRA and its kin have for the layers of a model, and for the factors of their updates.

Decides which of our kernels a name means, in every spelling that is common, and how one is written. Names in which dots
became underscores cannot be split, so the table is made from the model's own layers and looked up. It reads no file and
knows no arithmetic.
Source: kohya-ss/sd-scripts@48d368f networks/lora.py, KohakuBlueleaf/LyCORIS@f49d30d, huggingface/diffusers 0.11 to 0.42
(loaders/lora_conversion_utils.py), huggingface/peft 0.21, comfyanonymous/ComfyUI comfy/lora.py.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_jax.config import by_kind, conditioning_kinds
from ldm_jax.convert import clip, compvis_unet, diffusers_unet
from ldm_jax.params import ParamPath
from ldm_jax.types import PyTree

LAYOUTS = ("kohya", "diffusers", "comfy")

# How the part of a name that says the layer begins, and the component that it is of; the first that fits counts.
_BEGINNINGS = (
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("lycoris_text_model_", "text_encoder"),
    ("lycoris_", "unet"),
    ("base_model.model.text_model.", "text_encoder"),
    ("base_model.model.", "unet"),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_h.transformer.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("unet.", "unet"),
    ("", "unet"),
)

# The end of a name, and the factor that it says (personalization/low_rank.py).
_PRODUCTS = (
    (".lora_{}.weight", "down", "up"),
    ("_lora.{}.weight", "down", "up"),
    (".lora.{}.weight", "down", "up"),
    (".lora_linear_layer.{}.weight", "down", "up"),
    (".lora_{}.default.weight", "A", "B"),
    (".lora_{}.weight", "A", "B"),
    (".lora_{}", "A", "B"),
)
_LYCORIS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w1_a")
_LYCORIS += ("lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
FACTORS = {
    **{end.format(down): "down" for end, down, _ in _PRODUCTS},
    **{end.format(up): "up" for end, _, up in _PRODUCTS},
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude_vector",
    ".lora_magnitude_vector.weight": "magnitude_vector",
    ".diff": "diff",
    ".diff_b": "diff_b",
    **{f".{name}": name for name in _LYCORIS},
}
# Forms that are told apart, to say that they are not read.
UNREAD = {
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".on_input": "(IA)^3",
    ".a1.weight": "GLoRA",
    ".w_norm": "norms",
    ".lora_B.bias": "biases of LoRA",
}


class Layer(NamedTuple):
    """One layer of a model under other libraries' names.

    path: of our kernel. part: 'q', 'k' or 'v' of one that is all three, or ''. kind: convert.state_dict's, of the
    kernel. component: 'unet', 'text_encoder' or 'text_encoder_2'. diffusers, compvis: its dotted name within it.
    """

    path: ParamPath
    part: str
    kind: str
    component: str
    diffusers: str
    compvis: str


def layers(config: Mapping[str, Any], template: PyTree) -> list[Layer]:
    """Every layer with a kernel of the network and the text encoders.

    config: a model's. template: the tree of its {'unet', 'conditioner'}. Raises: ValueError for a network that
    diffusers has no names for.
    """
    model = config["model"]
    original = compvis_unet.entries(template["unet"], bool(model.get("use_linear_projection")))
    theirs = {path: name for path, name, _ in original}
    kinds = {path: kind for path, _, kind in original}
    found = []
    for path, names, _ in diffusers_unet.entries(template["unet"], model, "add_embedding"):
        if path[-1] == "kernel" and isinstance(names, str):
            module, compvis = names.removesuffix(".weight"), theirs[path].removesuffix(".weight")
            found.append(Layer(("unet", *path), "", kinds[path], "unet", module, compvis))
    return found + _text_layers(config, template.get("conditioner", {}))


def _text_layers(config: Mapping[str, Any], template: PyTree) -> list[Layer]:
    text = {kind: tree for kind, tree in by_kind(config.get("conditioning"), template)}
    text = {kind: tree for kind, tree in text.items() if kind in ("clip", "sdxl", "text") and tree}
    section = {k: v for k, v in conditioning_kinds(config.get("conditioning")).items() if k in text}
    found = []
    for path, names, kind in clip.diffusers_entries(section, text):
        if path[-1] != "kernel":
            continue
        parts = zip("qkv", names, strict=True) if isinstance(names, tuple) else (("", names),)
        for part, name in parts:
            component, _, module = name.removesuffix(".weight").partition(".")
            component = "text_encoder" if component == "bert" else component
            kind = "linear" if part else kind
            found.append(Layer(("conditioner", *path), part, kind, component, module, module))
    return found


def table(found: list[Layer]) -> dict[tuple[str, str], Layer]:
    """{(component, name with underscores): layer} in both layouts."""
    names = {}
    for layer in found:
        for name in (layer.diffusers, layer.compvis):
            key = (layer.component, name.replace(".", "_"))
            assert names.setdefault(key, layer) is layer, f"two layers are called {key}"
    return names


def is_adapter(names: Mapping[str, Any]) -> bool:
    """Whether a file with these names holds LoRA or its kin."""
    ends = (*FACTORS, *UNREAD)
    return any(name.endswith(ends) for name in names)


def split(name: str) -> tuple[str, str] | None:
    """(what says the layer, factor) of a tensor's name; None for one that ends otherwise."""
    fitting = [end for end in FACTORS if name.endswith(end)]
    if not fitting:
        return None
    end = max(fitting, key=len)
    return name.removesuffix(end), FACTORS[end]


def key_of(module: str) -> tuple[str, str]:
    """The key of `table` for what says the layer."""
    beginning, component = next(b for b in _BEGINNINGS if module.startswith(b[0]))
    name = module.removeprefix(beginning).replace(".processor", "").replace(".", "_")
    if beginning == "lycoris_text_model_" or beginning.endswith(".text_model."):
        name = f"text_model_{name}"
    if component != "unet":
        name = re.sub(r"^(?=encoder_layers_)", "text_model_", name)
        name = re.sub(r"self_attn_to_([qkv])$", r"self_attn_\1_proj", name)
        return component, re.sub(r"self_attn_to_out$", "self_attn_out_proj", name)
    return component, re.sub(r"_to_out$", "_to_out_0", name)


def written(layer: Layer, layout: str, components: int, compvis: bool) -> str:
    """What says this layer in a file of `layout`.

    components: how many text encoders the model has. compvis: kohya's names of SDXL's network are the original's.
    """
    if layout == "kohya":
        encoder = "lora_te" if components == 1 else "lora_te1"
        before = {"unet": "lora_unet", "text_encoder": encoder, "text_encoder_2": "lora_te2"}[layer.component]
        return f"{before}_{(layer.compvis if compvis else layer.diffusers).replace('.', '_')}"
    if layout == "comfy":
        tower = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}.get(layer.component)
        before = f"text_encoders.{tower}.transformer" if tower else "diffusion_model"
        return f"{before}.{layer.compvis}"
    return f"{layer.component}.{layer.diffusers}"


def suffix(factor: str, layout: str) -> str:
    """The end of the name of a factor in a file of `layout`."""
    if layout == "diffusers":
        return {"down": ".lora_A.weight", "up": ".lora_B.weight", "dora_scale": ".lora_magnitude_vector"}[
            factor
        ]
    products = {"down": ".lora_down.weight", "up": ".lora_up.weight", "mid": ".lora_mid.weight"}
    return products.get(factor, f".{factor}")
