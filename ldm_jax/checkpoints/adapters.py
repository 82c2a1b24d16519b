"""An adapter on disk: a delta of personalization/ with the section that says how it is merged; read, written and
merged onto a base.

A folder with adapter.json (the section, and the base that it was trained on) and adapter.safetensors (the delta by
its names), the workdir of the run that trains it, or a file as others exchange it (lora_files.py), which is read for
the model that it is to be merged onto. It knows no way of personalization.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax import paths, text_files
from ldm_jax.checkpoints import (
    conditions,
    controlnet_files,
    embedding_files,
    ip_adapter_files,
    lora_files,
    t2i_adapter_files,
    words,
)
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.checkpoints.bundle import is_workdir
from ldm_jax.convert import adapter_names, files, schema, t2i_adapter
from ldm_jax.params import check_params, flatten, from_names, named_leaves, unflatten
from ldm_jax.personalization import base, low_rank
from ldm_jax.personalization import words as word_rows
from ldm_jax.types import PyTree

LOW_RANK = ("lora", "loha", "lokr")  # whose deltas are factors of kernels, in files that others read
SECTION, WEIGHTS = "adapter.json", "adapter.safetensors"


class Adapter(NamedTuple):
    """section: {'name': …, options} of a config's `personalization`. delta: nested dicts of float32 arrays. base:
    its name, as text. header: what its file said beside. sampling: of a config, how a model with it is sampled where it
    was distilled.
    """

    section: dict[str, Any]
    delta: PyTree
    base: str
    header: Mapping[str, str] = {}
    sampling: Mapping[str, Any] = {}


def save(folder: str | Path, adapter: Adapter) -> None:
    """Writes the adapter beside its place and renames it into it."""
    with files.replacing(folder, overwrite=True) as partial:
        partial.mkdir()
        header = {"format": "pt"} | dict(adapter.header)
        files.write_safetensors(partial / WEIGHTS, named_leaves(adapter.delta), "float32", header)
        about = dict(personalization=adapter.section, base=adapter.base)
        about |= dict(sampling=adapter.sampling) if adapter.sampling else {}
        (partial / SECTION).write_text(json.dumps(about, indent=2) + "\n")


def read(path: str | Path, ema: bool = True, model: Bundle | None = None) -> Adapter:
    """The adapter of a folder, of a run's newest checkpoint, or of a file that others exchange.

    model: what it is to be merged onto, whose layers such a file is read for. Raises: ValueError for what is neither.
    """
    path = paths.of(path).expanduser()
    paths.check(path)
    if paths.in_bucket(path) and path.exists() and not is_workdir(path):
        with paths.reading(path) as here:
            return read(here, ema, model)
    if (path / SECTION).is_file():
        about = text_files.read_object(path / SECTION, "adapter")
        if not isinstance(about.get("personalization"), Mapping):
            raise ValueError(
                f"{path / SECTION} does not say how the adapter is merged, expected a section 'personalization'"
            )
        tensors = from_names(files.open_tensors(path / WEIGHTS))
        flat = {name: tensor.read() for name, tensor in flatten(tensors).items()}
        wrong = ["/".join(name) for name, array in flat.items() if not np.isfinite(array).all()]
        if wrong:
            raise ValueError(
                f"{path / WEIGHTS}: {wrong[0]} has NaN or infinity in it, expected finite numbers"
            )
        delta = unflatten(flat)
        header = lora_files.read_header(path / WEIGHTS)
        sampling = about.get("sampling") or {}
        schema.check_config(dict(sampling=sampling), f"{path / SECTION}")
        return Adapter(dict(about["personalization"]), delta, str(about.get("base", "")), header, sampling)
    if is_workdir(path):
        config = text_files.read_object(path / "config.json", "the workdir's config")
        if config.get("personalization"):
            from ldm_jax.checkpoints import train_state

            return of_run(config, train_state.trained(path, ema))
    known = any((path / name).is_file() for name in lora_files.WEIGHTS) or _is_net(path)
    if path.is_file() or known:
        return _read_file(path, model)
    raise ValueError(
        f"{path} is no adapter: expected a folder with {SECTION}, the workdir of a run with config.personalization, "
        f"or a file of LoRA or its kin"
    )


def _is_net(path: Path) -> bool:
    """Whether a folder is a ControlNet or a T2I-Adapter that diffusers wrote."""
    return controlnet_files.is_folder(path) or t2i_adapter_files.is_folder(path)


def _read_file(path: Path, model: Bundle | None) -> Adapter:
    if model is None:
        raise ValueError(
            f"{path} names the layers of a model: it is read together with that, which --base says"
        )
    file = path if _is_net(path) else lora_files.locate(path)
    tensors = files.open_tensors(file)
    if ip_adapter_files.is_ip_adapter(tensors):
        section, delta = ip_adapter_files.read(file, tensors, _adapted(model.params))
        return Adapter(section, delta, "")
    if controlnet_files.is_controlnet(tensors):
        section, delta = controlnet_files.read(file, tensors, model)
        return Adapter(section, delta, "")
    if t2i_adapter.is_adapter(tensors):
        section, delta = t2i_adapter_files.read(file, tensors, model)
        return Adapter(section, delta, "")
    if embedding_files.is_embedding(tensors):
        section, delta = embedding_files.read(file, tensors, _adapted(model.params))
        return Adapter(section, delta, "", lora_files.read_header(file))
    if not adapter_names.is_adapter(tensors):
        raise ValueError(
            f"{file} is no adapter: got names such as {', '.join(list(tensors)[:2])}, expected lora_… or embeddings"
        )
    header = lora_files.read_header(file)
    delta = lora_files.read(file, tensors, header, model.config, _adapted(model.params))
    return Adapter({"name": "lora"}, delta, "", header)


def write_file(path: str | Path, adapter: Adapter, layout: str, model: Bundle, dtype: Any = None) -> None:
    """Writes the adapter as others exchange it: lora_files.write, embedding_files.write. model: its base.

    A word that is learned beside LoRA or its kin goes into a file of its own, `word_file` of the path.
    """
    new = base.new_words(adapter.section)
    if new is not None and adapter.section["name"] not in LOW_RANK:
        embedding_files.write(Path(path), layout, adapter.section, adapter.delta, adapter.header, dtype)
        return
    if adapter.section["name"] == "ip_adapter":
        ip_adapter_files.write(Path(path), adapter.delta, _adapted(model.params), dtype)
        return
    if adapter.section["name"] == "controlnet":
        controlnet_files.write(Path(path), layout, adapter.section, adapter.delta, model, dtype)
        return
    if adapter.section["name"] == "t2i_adapter":
        t2i_adapter_files.write(Path(path), layout, adapter.section, adapter.delta, dtype)
        return
    if adapter.section["name"] == "instances":
        raise ValueError(
            f"{path}: nobody reads instances as {layout}, expected adapter, the layout of our own"
        )
    given = model.config, _adapted(model.params)
    factors, rows = word_rows.apart(adapter.delta)
    lora_files.write(Path(path), layout, adapter.section, factors, adapter.header, *given, dtype)
    if new is not None:
        section = dict(name="textual_inversion", token=new.tokens[0])
        embedding_files.write(word_file(path, adapter), "diffusers", section, rows, {}, dtype)


def word_file(path: str | Path, adapter: Adapter) -> Path | None:
    """Where `write_file` writes the word that is learned beside LoRA, which it writes at `path`; None: no word is."""
    beside = adapter.section["name"] in LOW_RANK and base.new_words(adapter.section) is not None
    return Path(path).with_name(f"{Path(path).stem}_word.safetensors") if beside else None


def extract(base: Bundle, tuned: Bundle, rank: int, name: str = "") -> Adapter:
    """The adapter of this rank that is nearest to what lies between two models of one architecture.

    name: of the base, which the adapter keeps. Raises: ValueError for models of different structure.
    """
    before, after = _adapted(base.params), _adapted(tuned.params)
    check_params(before, after, "the second model", "the first")
    return Adapter({"name": "lora"}, low_rank.extracted(before, after, rank), name)


def _adapted(params: PyTree) -> PyTree:
    """Of a model's parameters, those that may be adapted."""
    return {name: params[name] for name in ("unet", "conditioner") if name in params}


def of_run(config: Mapping[str, Any], trained: PyTree) -> Adapter:
    """The adapter that a run's parameters are. config: the run's."""
    sampling = config["sampling"] if config.get("distillation") else {}
    return Adapter(
        dict(config["personalization"]), trained["delta"], str(config.get("base") or ""), {}, sampling
    )


def applied(bundle: Bundle, adapters: Sequence[tuple[Adapter, float]]) -> Bundle:
    """The model with every adapter added as often as its weight says, in order, and with the words and conditions that
    they bring, sampled as those say that were distilled.

    Raises: ValueError for one that is of another base, and for a word that is there already.
    """
    for adapter, weight in adapters:
        new = base.new_words(adapter.section)
        if new is not None:
            bundle = words.add(bundle, new._replace(begins=""))
        kinds = base.new_conditions(adapter.section)
        if kinds:
            bundle = conditions.add(bundle, kinds)
        bundle = bundle._replace(params=merged(bundle.params, [(adapter, weight)]))
        if adapter.sampling:
            sampling = dict(bundle.config.get("sampling") or {}) | dict(adapter.sampling)
            bundle = bundle._replace(config=dict(bundle.config, sampling=sampling))
    return bundle


def merged(params: PyTree, adapters: Sequence[tuple[Adapter, float]]) -> PyTree:
    """params with every adapter added as often as its weight says, in order.

    Raises: ValueError for one that is of another base.
    """
    whole = _adapted(params)
    for adapter, weight in adapters:
        whole = base.merge_delta(adapter.section, whole, adapter.delta, weight)
    return dict(params, **whole)


def parse(text: str) -> tuple[str, float]:
    """'PATH' or 'PATH:WEIGHT' -> (path, weight), 1 by default. Raises: ValueError for a weight that is no finite
    number.
    """
    path, colon, number = text.rpartition(":")
    if not colon or number.startswith("//") or paths.of(text).exists():  # gs://…
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        raise ValueError(f"--adapter {text!r}: expected PATH or PATH:WEIGHT, such as runs/lora:0.7") from None
    if not abs(weight) < float("inf"):
        raise ValueError(f"--adapter {text!r}: the weight is {number}, expected a finite number")
    return path, weight
