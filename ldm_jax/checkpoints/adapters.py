"""An adapter on disk: a delta of personalization/ with the section that says how it is merged; read, written and
merged onto a base.

A folder with adapter.json (the section, and the base that it was trained on) and adapter.safetensors (the delta by
its names), or the workdir of the run that trains it. It knows no way of personalization.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax import text_files
from ldm_jax.convert import files
from ldm_jax.params import flatten, from_names, named_leaves, unflatten
from ldm_jax.personalization import base
from ldm_jax.types import PyTree

SECTION, WEIGHTS = "adapter.json", "adapter.safetensors"


class Adapter(NamedTuple):
    """section: {'name': …, options} of a config's `personalization`. delta: nested dicts of float32 arrays. base:
    its name, as text.
    """

    section: dict[str, Any]
    delta: PyTree
    base: str


def save(folder: str | Path, adapter: Adapter) -> None:
    """Writes the adapter beside its place and renames it into it."""
    with files.replacing(folder, overwrite=True) as partial:
        partial.mkdir()
        files.write_safetensors(partial / WEIGHTS, named_leaves(adapter.delta), "float32")
        about = dict(personalization=adapter.section, base=adapter.base)
        (partial / SECTION).write_text(json.dumps(about, indent=2) + "\n")


def read(path: str | Path, ema: bool = True) -> Adapter:
    """The adapter of a folder, or of a run's newest checkpoint. Raises: ValueError for what is neither."""
    path = Path(path).expanduser()
    if (path / SECTION).is_file():
        about = text_files.read_object(path / SECTION, "adapter")
        if not isinstance(about.get("personalization"), Mapping):
            raise ValueError(
                f"{path / SECTION} does not say how the adapter is merged, expected a section 'personalization'"
            )
        tensors = from_names(files.open_tensors(path / WEIGHTS))
        delta = unflatten({name: tensor.read() for name, tensor in flatten(tensors).items()})
        return Adapter(dict(about["personalization"]), delta, str(about.get("base", "")))
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        config = text_files.read_object(path / "config.json", "the workdir's config")
        if config.get("personalization"):
            return of_run(config, _trained(path, ema))
    raise ValueError(
        f"{path} is no adapter: expected a folder with {SECTION}, or the workdir of a run with config.personalization"
    )


def of_run(config: Mapping[str, Any], trained: PyTree) -> Adapter:
    """The adapter that a run's parameters are. config: the run's."""
    return Adapter(dict(config["personalization"]), trained["delta"], str(config.get("base") or ""))


def _trained(workdir: Path, ema: bool) -> PyTree:
    from ldm_jax.checkpoints import train_state

    checkpoints = train_state.manager(workdir, only_reading=True)
    restored = train_state.restore(checkpoints)
    checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint yet")
    state, _ = restored
    return state["ema_params"] if ema and state["ema_params"] is not None else state["params"]


def merged(params: PyTree, adapters: Sequence[tuple[Adapter, float]]) -> PyTree:
    """params with every adapter added as often as its weight says, in order.

    Raises: ValueError for one that is of another base.
    """
    whole = {name: params[name] for name in ("unet", "conditioner") if name in params}
    for adapter, weight in adapters:
        whole = base.merge_delta(adapter.section, whole, adapter.delta, weight)
    return dict(params, **whole)


def parse(text: str) -> tuple[str, float]:
    """'PATH' or 'PATH:WEIGHT' -> (path, weight), 1 by default. Raises: ValueError for a weight that is no finite
    number.
    """
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        raise ValueError(f"--adapter {text!r}: expected PATH or PATH:WEIGHT, such as runs/lora:0.7") from None
    if not abs(weight) < float("inf"):
        raise ValueError(f"--adapter {text!r}: the weight is {number}, expected a finite number")
    return path, weight
