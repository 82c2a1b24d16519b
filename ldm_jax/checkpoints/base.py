"""What every layout of checkpoints is read with and written from: what a user may say of one, what an opened one is.

Knows no layout: those are a file each, which reads it and writes it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.conditioning import clip
from ldm_jax.config import by_kind, conditioning_kinds
from ldm_jax.convert import state_dict
from ldm_jax.convert.tensor import Tensor, is_floating
from ldm_jax.params import flatten, unflatten
from ldm_jax.types import PyTree

FirstStage = tuple[dict, PyTree]  # (its section of a config, its parameters)


class Options(NamedTuple):
    """What a user may say about a checkpoint. Each is used where the checkpoint needs it.

    ema: running averages where there are any. config: a config of ours, .py or .json. original_config: the original's
    YAML.
    tokenizer: a vocabulary file, or a folder with one. first_stage: a checkpoint to take it from. prediction_type:
    where
    neither file nor table tells. variant: of a diffusers folder's files, such as 'fp16'. ignore_objects: see
    convert.torch_file.read_zip.
    null_class: the last row of the table of classes stands for no class, for guidance, where nothing else says so.
    clip_skip: which layer of CLIP's text encoders is read, counted from the last, which is 1 (config.clip_skip).
    """

    ema: bool = True
    config: str | None = None
    original_config: str | None = None
    tokenizer: str | None = None
    first_stage: str | None = None
    prediction_type: str | None = None
    variant: str | None = None
    ignore_objects: bool = False
    null_class: bool = False
    clip_skip: int | None = None


def options_from(args: Any) -> Options:
    """Options from the parsed flags of cli.add_checkpoint_arguments."""
    return Options(
        ema=not args.raw, **{name: getattr(args, name) for name in Options._fields if name != "ema"}
    )


class Bundle(NamedTuple):
    """config: plain data. params: nested dicts of arrays, {'first_stage', 'unet', 'conditioner': {kind: tree}} or the
    first alone.
    tokenizer: a tokenizers.Tokenizer, or None."""

    config: dict
    params: PyTree
    tokenizer: Any = None


def as_float32(array: np.ndarray) -> np.ndarray:
    """Parameters are float32 in memory, whatever they are stored in; other dtypes pass."""
    return array.astype(np.float32, copy=False) if is_floating(array.dtype) else array


def with_arrays(unread: Bundle) -> Bundle:
    """`unread`, whose parameters are Tensors, with every one of them read, in float32."""
    flat = {path: as_float32(tensor.read()) for path, tensor in flatten(unread.params).items()}
    return unread._replace(params={name: {} for name in unread.params} | unflatten(flat))


class Checkpoint(NamedTuple):
    """config: as a bundle's. params: nested dicts of convert.Tensor. tokenizer: a tokenizers.Tokenizer, or None.

    layout: 'compvis', 'diffusers', 'bundle' or 'workdir'. notes: sentences on what was recognized and what was left
    out.
    apart: {name: Tensor} of a file of the original's layout that are no part of the model, for one that is written from
    it.
    """

    config: dict
    params: PyTree
    tokenizer: Any
    layout: str
    notes: tuple[str, ...] = ()
    apart: Mapping[str, Tensor] = {}

    def bundle(self) -> Bundle:
        """With every array read, in float32."""
        return with_arrays(Bundle(self.config, self.params, self.tokenizer))


def fit(
    state: Mapping[str, Tensor],
    template: PyTree,
    entries: Any,
    ignore: Callable[[str], bool] = lambda name: False,
) -> PyTree:
    """Unread arrays of a file as the tree `template` is, in the dtypes that the file has."""
    return state_dict.lazy_from_torch(state, template, entries, ignore, keep_dtype=True)


def without_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those of the names that begin with prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def prefixed(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The same with prefix before every name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def find_tokenizer(config: dict, path: Path, options: Options, notes: list[str]) -> Any:
    """The tokenizer of a text model: the one that the user names, or the one that lies with the checkpoint, or None.

    Raises: ValueError if the user names one that is not there.
    """
    kinds = conditioning_kinds(config.get("conditioning"))
    text = next((kinds[kind] for kind in ("text", "clip", "sdxl") if kind in kinds), None)
    if text is None:
        return None
    if options.tokenizer and not Path(options.tokenizer).exists():
        raise ValueError(
            f"tokenizer {options.tokenizer} is not there; expected a vocabulary file, or a folder with one"
        )
    pad_id = 0 if text.get("activation") == "gelu" else None  # OpenCLIP's; CLIP's and BERT's their files tell
    try:
        return clip.find_tokenizer(options.tokenizer or path, text.get("max_length", 77), pad_id)
    except ValueError as error:
        if options.tokenizer:
            raise
        notes.append(f"no tokenizer, so it cannot read prompts until --tokenizer names one: {error}")
        return None


def conditioners(checkpoint: Checkpoint) -> list[tuple[str, PyTree, dict]]:
    """[(kind, its parameters, its options)] of the kinds of conditioning that have parameters."""
    section, params = checkpoint.config.get("conditioning"), checkpoint.params.get("conditioner", {})
    options = conditioning_kinds(section)
    return [(kind, tree, options[kind]) for kind, tree in by_kind(section, params) if tree]
