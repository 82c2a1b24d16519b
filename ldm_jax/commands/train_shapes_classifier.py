"""Trains the classifier that the shapes world is measured with, and writes the folder that is shipped:

    python -m ldm_jax.commands.train_shapes_classifier --out ldm_jax/shipped/shapes_classifier

leaves weights.safetensors (float16), classifier.json (how it was made, how often it is right) and reference.npz, the
statistics that shapes-FID compares with. It learns from the splits `train` and `unseen`, since it has to know the pairs
that a model must not see, and is scored on `test`. Two cores take well under an hour. With --planted it learns a
shortcut on purpose, to see whether an explanation finds it: circle or square, of scenes in which every circle is
red and every square is blue (shapes_world/shortcut.py); that takes a minute or two, and leaves no reference.

    python -m ldm_jax.commands.train_shapes_classifier --planted --steps 300 --num_scenes 2000 --out runs/shortcut
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax import atomic, cli
from ldm_jax.convert import files
from ldm_jax.data import transforms
from ldm_jax.metrics import features, shapes_features, statistics
from ldm_jax.models.shapes_classifier import SIZE, ShapesClassifier
from ldm_jax.params import named_leaves
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import shortcut
from ldm_jax.types import KEY_IMPL, PyTree

UNSEEN_SHARE = 0.2  # of the scenes that it learns from
LEARNING_RATE = 2e-3


def scenes(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The first scenes of a split: pictures [N, 64, 64, 3] uint8 and labels [N, 39] float32."""
    drawn = [world.scene(i, split) for i in range(number)]
    return np.stack([world.render(s) for s in drawn]), np.stack([shapes_features.labels(s) for s in drawn])


def shown(num_scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """What the shipped one learns from: `scenes` of both splits."""
    unseen = max(1, int(num_scenes * UNSEEN_SHARE))
    parts = [scenes("train", num_scenes - unseen), scenes("unseen", unseen)]
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels


def planted(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """As `scenes`, of the shortcut; labels [N, 2]."""
    drawn = list(itertools.islice(shortcut.scenes(split), number))
    labels = [[float(s.objects[0].shape == label) for label in shortcut.LABELS] for s in drawn]
    return np.stack([world.render(s) for s in drawn]), np.asarray(labels, np.float32)


def train(images: np.ndarray, labels: np.ndarray, num_steps: int, batch_size: int, seed: int = 0) -> PyTree:
    """The parameters, nested dicts of float32 arrays. images: [N, 64, 64, 3] uint8. labels: [N, K] float32."""
    model = ShapesClassifier(labels.shape[1])
    params = model.init(jax.random.key(seed, impl=KEY_IMPL), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    tx = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, num_steps), weight_decay=1e-4)

    @jax.jit
    def step(params, opt_state, pixels, labels):
        def loss(params):
            logits = model.apply({"params": params}, pixels.astype(jnp.float32) / 127.5 - 1.0).logits
            return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state, rng = tx.init(params), np.random.default_rng(seed)
    for number in range(num_steps):
        drawn = rng.integers(len(images), size=batch_size)
        pixels = images[drawn]
        if rng.random() < 0.5:  # a scene in the mirror has the same labels
            pixels = pixels[:, :, ::-1]
        params, opt_state, value = step(params, opt_state, pixels, labels[drawn])
        if (number + 1) % 100 == 0:
            print(f"step {number + 1}/{num_steps}  loss {float(value):.4f}", flush=True)
    return jax.tree.map(np.asarray, params)


def accuracy(params: PyTree, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share of labels that are right, and that of scenes with no label wrong."""
    network = jax.jit(lambda x: ShapesClassifier(labels.shape[1]).apply({"params": params}, x).logits)
    logits = np.concatenate(
        [network(transforms.to_float(part)) for part in np.array_split(images, max(1, len(images) // 64))]
    )
    right = (logits > 0) == (labels > 0.5)
    return {"labels_right": float(right.mean()), "scenes_right": float(right.all(1).mean())}


def reference(params: PyTree, each: int) -> statistics.Statistics:
    """The statistics of `each` rendered held-out scenes of every kind of prompt."""
    images, extractor = (
        shapes_features.reference_images(each),
        shapes_features.shapes_extractor(params),
    )
    collected = features.collect(images, extractor, batch_size=64)
    return statistics.describe(images, extractor, collected)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=cli.on_disk, required=True, help="the folder to write")
    add("--steps", type=int, default=2000, help="default %(default)s")
    add("--batch_size", type=int, default=64, help="default %(default)s")
    add("--num_scenes", type=int, default=40_000, help="to learn from (default %(default)s)")
    add(
        "--reference_each", type=int, default=2048, help="scenes of each kind of prompt (default %(default)s)"
    )
    add("--test_scenes", type=int, default=2000, help="to be scored on (default %(default)s)")
    add("--planted", action="store_true", help="learn a shortcut, circle or square by color")
    args = parser.parse_args(argv)
    start = time.time()
    learned = planted("train", args.num_scenes) if args.planted else shown(args.num_scenes)
    params = train(*learned, args.steps, args.batch_size)
    # What is measured with is what is written: the weights as float16 keeps them.
    params = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params)
    scored = accuracy(params, *(planted if args.planted else scenes)("test", args.test_scenes))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    files.write_safetensors(out / "weights.safetensors", named_leaves(params), "float16")
    if not args.planted:
        statistics.write(out / "reference.npz", reference(params, args.reference_each))
    about = {
        "command": f"python -m ldm_jax.commands.train_shapes_classifier --steps {args.steps} --batch_size "
        f"{args.batch_size} "
        f"--num_scenes {args.num_scenes} "
        + ("--planted" if args.planted else f"--reference_each {args.reference_each}"),
        "hash": features.params_hash(params),
        "labels": list(shortcut.LABELS if args.planted else shapes_features.LABELS),
        "test_scenes": args.test_scenes,
        **scored,
        "minutes": round((time.time() - start) / 60, 1),
        "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    atomic.write_text(out / "classifier.json", json.dumps(about, indent=2) + "\n")
    print(json.dumps(about | {"labels": len(about["labels"])}))


def console() -> None:
    """The console command `python -m ldm_jax.commands.train_shapes_classifier`."""
    cli.console(main)


if __name__ == "__main__":
    console()
