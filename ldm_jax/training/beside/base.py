"""Small networks that stand beside a diffusion model: how they are trained, written down and read.

One of them is one file of this folder that defines
    learner(*, …) -> Learner      its options are plain data, kept with the weights
Training is a loop of its own, on one device, with AdamW whose rate rises in the first steps and falls by a cosine. It
knows no network and no loss.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ldm_jax import atomic
from ldm_jax.config import call
from ldm_jax.convert import files
from ldm_jax.data import pipeline, transforms
from ldm_jax.find import find
from ldm_jax.params import from_names, named_leaves
from ldm_jax.text_files import read_json
from ldm_jax.types import KEY_IMPL, Array, PyTree

ROOM = "training/beside"
WARMUP = 0.05  # of the steps

Loss = Callable[[PyTree, Mapping[str, Array], Array], tuple[Array, dict[str, Array]]]


class Learner(NamedTuple):
    """network: what the parameters are of. init(key) -> params, nested dicts.
    loss(params, batch, key) -> (scalar, what is reported of it; arrays under 'state' are for `after` alone).
    example(example of a source, rng) -> the fields of a batch, of fixed shapes; its `caption` is another each time,
        where the source has many, and has its `phrases`, where the source knows them (data/pipeline.py).
    after(params before the step, params, state, part of the run in [0, 1]) -> params: what is done after each step.
    learning_rate, weight_decay (of what is called 'kernel' alone), clip (of the gradient's norm): the optimizer's.
    """

    network: nn.Module
    init: Callable[[Array], PyTree]
    loss: Loss
    example: Callable[[Mapping[str, Any], np.random.Generator], dict[str, np.ndarray]]
    after: Callable[[PyTree, PyTree, Any, Array], PyTree] = lambda before, params, state, part: params
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0


class Trained(NamedTuple):
    """name: the file of this folder. params: nested dicts of float32 arrays. about: what network.json says."""

    name: str
    learner: Learner
    params: PyTree
    about: dict[str, Any]


def make_learner(name: str, options: Mapping[str, Any]) -> Learner:
    """The learner of ldm_jax/training/beside/<name>.py. Raises: ValueError for a name or an option it has not."""
    return call(find(ROOM, name).learner, options, name)


def check_fields(name: str, example: Mapping[str, Any], *needed: str) -> None:
    """Raises: ValueError for an example of a source that lacks what the network `name` needs."""
    if any(field not in example for field in needed):
        has = ", ".join(sorted(map(str, example)))
        raise ValueError(f"{name} needs {' and '.join(needed)}, and the example has {has}")


def picture(example: Mapping[str, Any], size: int) -> np.ndarray:
    """The image of an example as [size, size, 3] uint8, squeezed where it is no square."""
    return transforms.resize(np.asarray(example["image"]), size, size, "bilinear")


def pixels(images: Array) -> Array:
    """uint8 -> float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def train(
    learner: Learner,
    source: pipeline.Source,
    *,
    num_steps: int,
    batch_size: int,
    seed: int = 0,
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    kept: Path | None = None,
    about: str = "",
) -> PyTree:
    """The parameters after num_steps, nested dicts of numpy arrays. report(step, figures): called now and then.

    kept: a file in which the state is kept now and then, from which the same training goes on to the bit where it was
    stopped; who has written down what came of it takes it away. about: what else the training depends on.
    Raises: ValueError where the file is of another training, or parameters are not finite at the end.
    """
    params = learner.init(jax.random.key(seed, impl=KEY_IMPL))
    warm = max(1, int(WARMUP * num_steps))
    rate = optax.warmup_cosine_decay_schedule(0.0, learner.learning_rate, warm, max(num_steps, warm + 1))
    decayed = jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
    tx = optax.chain(
        optax.clip_by_global_norm(learner.clip),
        optax.adamw(rate, weight_decay=learner.weight_decay, mask=decayed),
    )

    @jax.jit
    def step(params: PyTree, opt_state: Any, batch: Mapping[str, Array], number: Array) -> tuple:
        key = jax.random.fold_in(jax.random.key(seed, impl=KEY_IMPL), number)
        (value, about), gradient = jax.value_and_grad(learner.loss, has_aux=True)(params, batch, key)
        updates, opt_state = tx.update(gradient, opt_state, params)
        state = about.pop("state", None)
        moved = optax.apply_updates(params, updates)
        return learner.after(params, moved, state, number / num_steps), opt_state, {"loss": value} | about

    can = pipeline.abilities(source)

    def transform(example: dict, rng: np.random.Generator) -> dict:
        if can.described:
            example["caption"], example["phrases"] = can.described(example["index"], rng)
        elif can.caption:
            example["caption"] = can.caption(example["index"], rng)
        return learner.example(example, rng)

    about = json.dumps([about, num_steps, batch_size, seed, source.fingerprint()])
    first, (params, opt_state) = _kept(kept, about, (params, tx.init(params)))
    fed = pipeline.batches(source, batch_size=batch_size, transform=transform, seed=seed, start_step=first)
    for number in range(first, num_steps):
        params, opt_state, figures = step(params, opt_state, next(fed), number)
        if (number + 1) % max(1, num_steps // 20) == 0:
            report(number + 1, {name: float(value) for name, value in figures.items()})
            if kept is not None and number + 1 < num_steps:
                _keep(kept, about, number + 1, (params, opt_state))
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        raise ValueError(f"after {num_steps} steps parameters are not finite; expected a lower learning rate")
    return jax.tree.map(np.asarray, params)


def _keep(path: Path, about: str, number: int, state: PyTree) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    with atomic.writing(path) as partial, open(partial, "wb") as file:
        np.savez(file, about=about, number=number, **leaves)


def _kept(path: Path | None, about: str, state: PyTree) -> tuple[int, PyTree]:
    """(how many steps have been made, the state after them): those of the file, or 0 and `state` without one."""
    if path is None or not path.is_file():
        return 0, state
    with np.load(path) as file:
        if str(file["about"]) != about:
            raise ValueError(
                f"{path} is of another training, {file['about']}, expected {about}: name another folder, or remove it"
            )
        leaves, structure = jax.tree.flatten(state)
        return int(file["number"]), structure.unflatten([file[str(i)] for i in range(len(leaves))])


def save(folder: str | Path, name: str, options: Mapping[str, Any], params: PyTree, **about: Any) -> None:
    """Writes weights.safetensors and network.json. about: what else is said of it, plain data."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_safetensors(folder / "weights.safetensors", named_leaves(params), "float32")
    said = {"network": name, "options": dict(options), **about, "written": time.strftime("%Y-%m-%d")}
    atomic.write_text(folder / "network.json", json.dumps(said, indent=2) + "\n")


def load(folder: str | Path) -> Trained:
    """What `save` wrote. Raises: ValueError for a folder that holds no such network."""
    folder = Path(folder).expanduser()
    if not (folder / "network.json").is_file():
        raise ValueError(
            f"network {str(folder)!r} not found: expected a folder with network.json and weights.safetensors, as "
            "ldm_jax.commands.train_beside writes it"
        )
    about = read_json(folder / "network.json", "network")
    tensors = files.open_tensors(folder / "weights.safetensors")
    params = from_names({name: np.asarray(t.read(), np.float32) for name, t in tensors.items()})
    return Trained(about["network"], make_learner(about["network"], about["options"]), params, about)


def apply_in_parts(
    apply: Callable[..., PyTree], params: PyTree, *arrays: np.ndarray, batch_size: int = 32
) -> PyTree:
    """apply(params, *arrays), compiled, on batch_size rows at a time, the last part padded: a tree of numpy arrays
    whose first axis is the rows'."""
    compiled, found, number = jax.jit(apply), [], len(arrays[0])
    for start in range(0, number, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), number - 1)
        made = compiled(params, *(array[rows] for array in arrays))
        found.append(jax.tree.map(lambda a, start=start: np.asarray(a)[: number - start], made))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
