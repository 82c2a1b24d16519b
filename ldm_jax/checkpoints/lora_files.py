"""Files of LoRA and its kin as they are exchanged: read as a delta of personalization/, and written.

Decides how the tensors of a file become factors of our kernels, and back, what a file must have to be one, and what of
its header is kept. Names are convert/adapter_names.py's, arithmetic is personalization/low_rank.py's.
kohya: prefix, underscores, lora_down, lora_up, alpha. diffusers: dots, lora_A, lora_B; with alpha only in the header.
comfy: the original's names with dots. In all of them a layer's update is alpha / r times up down.
"""

import collections
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax.config import conditioning_kinds
from ldm_jax.convert import adapter_names, files, state_dict
from ldm_jax.convert.adapter_names import Layer
from ldm_jax.convert.safetensors_file import read_metadata
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten, unflatten
from ldm_jax.personalization import low_rank
from ldm_jax.types import PyTree

WEIGHTS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin")
PEFT_CONFIG, PEFT_HEADER = "adapter_config.json", "lora_adapter_metadata"
Factors = dict[str, np.ndarray]
# {width of the context: (what such a model is called, its name in kohya's header)}
BASES = {
    768: ("Stable Diffusion 1", "sd_v1"),
    1024: ("Stable Diffusion 2", "sd_v2"),
    2048: ("Stable Diffusion XL", "sdxl_base_v1-0"),
}
_PAIRS = (
    ("down", "up"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w1_a", "hada_w2_a"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
)


def locate(path: Path) -> Path:
    """The file that a path means: itself, or the one of a folder that diffusers or PEFT wrote. Raises: ValueError for
    another folder.
    """
    if not path.is_dir():
        return path
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise ValueError(f"{path} holds no adapter: expected one of {', '.join(WEIGHTS)} in it")
    return file


def read_header(file: Path) -> dict[str, str]:
    """The strings that lie with the tensors: of a .safetensors file its header, with PEFT's adapter_config.json."""
    header = read_metadata(file) if file.suffix == ".safetensors" else {}
    beside = file.with_name(PEFT_CONFIG)
    if beside.is_file() and PEFT_HEADER not in header:
        header[PEFT_HEADER] = beside.read_text(encoding="utf-8")
    return {k: v for k, v in header.items() if k != "format"}


def read(
    file: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, str],
    config: Mapping[str, Any],
    template: PyTree,
) -> PyTree:
    """The delta that a file's tensors are, for a model of this config and this tree of parameters.

    Raises: ValueError for a form that is not read, half a pair, numbers that are not finite, a rank above a layer's
    width, and a file of another base, naming the nearest.
    """
    names = adapter_names.table(adapter_names.layers(config, template))
    modules: dict[str, Factors] = collections.defaultdict(dict)
    for name, tensor in tensors.items():
        modules_name, factor = _split(file, name)
        modules[modules_name][factor] = _finite(file, name, tensor)
    _check_whole(file, modules)
    placed = {module: names.get(adapter_names.key_of(module)) for module in modules}
    _check_base(file, modules, placed, config, template)
    alphas = _peft_alphas(file, header)
    flat: dict[tuple, np.ndarray] = {}
    for module, factors in modules.items():
        layer = placed[module]
        if "alpha" not in factors and "down" in factors:
            alpha = alphas(layer, factors["down"].shape[0])
            factors |= {} if alpha is None else {"alpha": np.float32(alpha)}
        place = (*layer.path, layer.part) if layer.part else layer.path
        for factor, array in factors.items():
            if factor == "diff_b":
                flat[*layer.path[:-1], "bias", *place[len(layer.path) :], "diff"] = array
            else:
                name = "dora_scale" if factor == "magnitude_vector" else factor
                flat[*place, name] = _ours(factor, array, layer)
    return unflatten(flat)


def _split(file: Path, name: str) -> tuple[str, str]:
    found = adapter_names.split(name)
    if found is None:
        form = next((f for end, f in adapter_names.UNREAD.items() if name.endswith(end)), None)
        said = f"{form}, which is not read" if form else "no factor of LoRA, LoHa or LoKr"
        raise ValueError(f"{file}: {name} is {said}; expected names that end like lora_down.weight or alpha")
    return found


def _finite(file: Path, name: str, tensor: Tensor) -> np.ndarray:
    array = np.asarray(tensor.read(), np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{file}: {name} has NaN or infinity in it, expected finite numbers")
    return array


def _check_whole(file: Path, modules: Mapping[str, Factors]) -> None:
    for module, factors in modules.items():
        for one, other in _PAIRS:
            if (one in factors) != (other in factors):
                there, absent = (one, other) if one in factors else (other, one)
                raise ValueError(
                    f"{file}: {module} has {there} and no {absent}, expected both: the file is not whole"
                )
        if not factors.keys() - {"alpha", "dora_scale", "magnitude_vector"}:
            raise ValueError(f"{file}: {module} has {', '.join(factors)} alone, expected factors beside")


def _check_base(
    file: Path,
    modules: Mapping[str, Factors],
    placed: Mapping[str, Layer | None],
    config: Mapping[str, Any],
    template: PyTree,
) -> None:
    kernels, wrong = flatten(template), []
    for module, factors in modules.items():
        layer = placed[module]
        if layer is None:
            wrong.append(f"{module} is not there")
            continue
        shape = tuple(kernels[layer.path].shape)
        shape = (*shape[:-1], shape[-1] // 3) if layer.part else shape
        if "down" in factors and "mid" not in factors:
            rank, out = factors["down"].shape[0], factors["up"].shape[0]
            got = _kernel_shape(factors["down"], layer.kind, out)
            most = min(int(np.prod(shape[:-1])), shape[-1])
            if got == shape and rank > most:
                raise ValueError(
                    f"{file}: {module} has rank {rank}, expected at most {most}, the layer's width"
                )
            if got != shape or factors["up"].shape[1] != rank:
                wrong.append(f"{module} is for {got}, here {shape}")
    if wrong:
        told = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"{file} is an adapter for another base{_nearest(modules, config)}: {len(wrong)} of its {len(modules)} "
            f"layers do not fit this model: {told}"
        )


def _kernel_shape(down: np.ndarray, kind: str, out: int) -> tuple[int, ...]:
    if kind == "conv" and down.ndim == 4:
        return (*down.shape[2:], down.shape[1], out)
    return (down.shape[1], out)


def _nearest(modules: Mapping[str, Factors], config: Mapping[str, Any]) -> str:
    """', of the kind of Stable Diffusion XL, …' by the width of the context that its cross-attention reads."""
    widths = [
        factors["down"].shape[1]
        for module, factors in modules.items()
        if "down" in factors and module.replace(".", "_").endswith(("attn2_to_k", "attn2_to_v"))
    ]
    if not widths or widths[0] == config["model"].get("context_dim"):
        return ""
    name = BASES.get(widths[0], (f"a model whose context is {widths[0]} wide",))[0]
    return f", it fits {name} and this model's context is {config['model'].get('context_dim')} wide"


def _ours(factor: str, array: np.ndarray, layer: Layer) -> np.ndarray:
    if factor == "down":
        kind = "conv" if layer.kind == "conv" and array.shape[2:] not in ((), (1, 1)) else "linear"
        return np.ascontiguousarray(state_dict.array_from_torch(array, kind))
    if factor == "up":
        return np.ascontiguousarray(state_dict.array_from_torch(array, "linear"))
    if factor == "mid":
        return np.ascontiguousarray(state_dict.array_from_torch(array, "conv"))
    if factor == "alpha":
        return array.reshape(())
    if factor == "magnitude_vector":  # PEFT's, one for each output
        return array.reshape(-1, *[1] * (3 if layer.kind == "conv" else 1))
    return array


def _peft_alphas(file: Path, header: Mapping[str, str]):
    """(layer, rank) -> the alpha that PEFT's config among the header's strings says, None where it is the rank."""
    try:
        said = json.loads(header.get(PEFT_HEADER) or "{}")
        said = dict(said)
    except (ValueError, TypeError):
        raise ValueError(f"{file}: {PEFT_HEADER} in its header is no JSON object") from None

    def alpha(layer: Layer, rank: int) -> float | None:
        before = f"{layer.component}."
        own = {k.removeprefix(before): v for k, v in said.items() if k.startswith(before)} or said
        fitting = [
            v
            for name, v in (own.get("alpha_pattern") or {}).items()
            if re.fullmatch(rf"(.*\.)?({name})", layer.diffusers)
        ]
        found = fitting[0] if fitting else own.get("lora_alpha")
        if found is None:
            return None
        found = found * rank**0.5 if own.get("use_rslora") else found
        return None if found == rank else found

    return alpha


def write(
    file: Path,
    layout: str,
    section: Mapping[str, Any],
    delta: PyTree,
    header: Mapping[str, str],
    config: Mapping[str, Any],
    params: PyTree,
    dtype: Any = None,
) -> None:
    """Writes a delta under the names of `layout`, one of convert.adapter_names.LAYOUTS, beside its place.

    section: of the config, for its alpha. header: kept, with what readers of kohya's files ask for. config, params: of
    the base. diffusers' readers know no alpha without a header that says it: where there is none it is multiplied in.
    Raises: ValueError for an update that the layout cannot express, and for a delta of another base.
    """
    found = adapter_names.layers(config, params)
    encoders = len({layer.component for layer in found} - {"unet"})
    original = "sdxl" in conditioning_kinds(config.get("conditioning"))
    kernels, updates = flatten(params), dict(low_rank.by_kernel(delta))
    by_path = collections.defaultdict(list)
    for layer in found:
        by_path[layer.path].append(layer)
    tensors: dict[str, np.ndarray] = {}
    for path, factors in updates.items():
        kernel = (*path[:-1], "kernel")
        if kernel not in by_path:
            raise ValueError(
                f"{'/'.join(path)} has no name in {layout} files, expected a layer of a text-to-image model"
            )
        for layer in by_path[kernel]:
            own = _of_part(factors, layer.part)
            if path[-1] == "bias":
                own = {"diff_b": own["diff"]} if own else {}
            elif own:
                own = _stored(
                    own, layer, kernels[kernel], section.get("alpha"), layout, PEFT_HEADER in header
                )
            module = adapter_names.written(layer, layout, encoders, original)
            for factor, array in own.items():
                tensors[module + _suffix(file, factor, layout)] = np.asarray(array, np.float32, order="C")
    files.write_safetensors(file, tensors, dtype, _header(header, layout, config, tensors))


def _of_part(factors: Factors, part: str) -> Factors:
    """The factors of one of q, k and v; of an update of all three at once, its columns."""
    if not part or part in factors or factors.keys() & set(low_rank.PARTS):
        return dict(factors.get(part, {}) if part else factors)
    i, own = low_rank.PARTS.index(part), dict(factors)
    for name in {"up", "magnitude"} & own.keys():
        own[name] = np.split(np.asarray(own[name]), 3, axis=-1)[i]
    return own


def _stored(
    own: Factors, layer: Layer, kernel: Any, alpha: float | None, layout: str, has_config: bool
) -> Factors:
    """Factors in torch's layout, with the alpha that the layout states."""
    own = {name: np.asarray(array) for name, array in own.items()}
    if "magnitude" in own:
        kernel = np.asarray(kernel, np.float32)
        if layer.part:
            kernel = np.split(kernel, 3, axis=-1)[low_rank.PARTS.index(layer.part)]
        lengths = np.asarray(low_rank.norms(kernel)) + own.pop("magnitude")
        own["dora_scale"] = lengths.reshape(-1, *[1] * (1 if layer.kind == "linear" else 3))
    if "down" in own:
        rank = own["down"].shape[-1]
        scale = float(own.get("alpha", rank if alpha is None else alpha))
        if layout == "diffusers":
            own.pop("alpha", None)
            own["up"] = own["up"] if has_config else own["up"] * np.float32(scale / rank)
        else:
            own["alpha"] = np.float32(scale)
        for name in ("down", "up", "mid"):
            if name in own:
                own[name] = _torch_factor(own[name], layer.kind)
    elif alpha is not None and "diff" not in own:
        own.setdefault("alpha", np.float32(alpha))
    if layout == "diffusers" and "dora_scale" in own:
        if own["dora_scale"].shape[1] != 1:
            raise ValueError(f"{layer.diffusers}: diffusers has no lengths by input, which this adapter has")
        lengths = own["dora_scale"].reshape(-1)
        own["dora_scale"] = lengths if layer.kind == "linear" else lengths[None, :, None, None]
    return own


def _torch_factor(array: np.ndarray, kind: str) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if kind == "linear" else array.T[..., None, None]


def _suffix(file: Path, factor: str, layout: str) -> str:
    try:
        return adapter_names.suffix(factor, layout)
    except KeyError:
        raise ValueError(
            f"{file}: {layout} has no names for {factor}, which this adapter has; write kohya"
        ) from None


def _header(
    header: Mapping[str, str], layout: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """The strings of the file: those that were kept, and what readers decide by."""
    kept = dict(header)
    if layout == "diffusers":
        return {"format": "pt"} | kept
    kept.pop(PEFT_HEADER, None)
    _, name = BASES.get(config["model"].get("context_dim"), (None, None))
    if name:
        kept.setdefault("ss_base_model_version", name)
        kept.setdefault("ss_v2", str(name == "sd_v2"))
    kept.setdefault(
        "ss_network_module", "networks.lora" if any(".lora_" in n for n in tensors) else "lycoris.kohya"
    )
    return {"format": "pt"} | kept
