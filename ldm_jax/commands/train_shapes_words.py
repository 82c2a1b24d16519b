r"""Trains the text transformer of a config alone, to say what captions of the shapes world hold, and writes it down:

    python -m ldm_jax.commands.train_shapes_words --out runs/shapes_words
    python train.py --config configs/shapes_text.py --config.init_from=runs/shapes_words ...

From what the transformer makes of each word of a phrase ("small", "red", "circle") one linear head each reads the
phrase's shape, color and size, how many there are, and which way it lies from the other phrase. All its words have to
say it: a network that looks for the color at "red" learns nothing from a place that "circle" alone knows. Captions are
of the split `train`; those that it is scored on are of `test`, and its score is the share of words that a head is right
on. With --init_from, a trained model, its
transformer learns this on, held near what its UNet has learned to read by --anchor, and all of the model is written
down. --probe leaves the transformer of --init_from as
it is, trains the heads alone and writes no model: what the words of a trained model hold already.
"""

import argparse
import json
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax import cli
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.checkpoints.warm_start import start_from
from ldm_jax.commands.dry_run import with_first_stage
from ldm_jax.config import load_config
from ldm_jax.models.layers import Linear
from ldm_jax.shapes_world import scenes as world
from ldm_jax.system import System, make_system
from ldm_jax.types import KEY_IMPL, Array, PyTree

LEARNING_RATE = 1e-3
PLACES = ("", *world.RELATIONS)  # of a phrase to the other one; '' is not said
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HEADS = dict(
    shape=len(world.SHAPES),
    color=len(world.COLOR_NAMES),
    size=len(world.SIZES) + 1,
    count=world.MAX_OBJECTS,
    place=len(PLACES),
)
NONE = -1  # the label of a token outside phrases


def labeled(scene: world.Scene, rng: np.random.Generator) -> tuple[str, list[tuple[world.Phrase, list[int]]]]:
    """A caption, and its phrases, each with its labels in the order of HEADS. The size 0 and the place 0 are not
    said."""
    caption, phrases = world.described(scene, rng)
    place = ""
    if len(phrases) == 2:
        between = caption[phrases[0].end : phrases[1].start]
        place = next((where for where in world.RELATIONS if f" {where} " in between), "")
    found = []
    for phrase, where in zip(phrases, (place, OPPOSITE.get(place, ""), ""), strict=False):
        obj = scene.objects[phrase.objects[0]]
        said = obj.size in caption[phrase.start : phrase.end].split()
        size = world.SIZES.index(obj.size) + 1 if said else 0
        color = world.COLOR_NAMES.index(obj.color)
        shape = world.SHAPES.index(obj.shape)
        found.append((phrase, [shape, color, size, len(phrase.objects) - 1, PLACES.index(where)]))
    return caption, found


def captions(system: System, split: str, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the first `number` scenes of a split: tokens [N, L] int32 and labels [N, L, len(HEADS)] int32, NONE outside
    phrases."""
    said = [labeled(world.scene(i, split), np.random.default_rng([seed, i])) for i in range(number)]
    tokens = system.inputs({"prompts": [caption for caption, _ in said]})["tokens"]
    labels = np.full((*tokens.shape, len(HEADS)), NONE, np.int32)
    for row, (caption, found) in zip(labels, said, strict=True):
        for place, (first, last) in enumerate(system.tokenizer.encode(caption).offsets):
            for phrase, known in found:
                if phrase.start <= first < last <= phrase.end:
                    row[place] = known
    return tokens, labels


def context_of(system: System, params: PyTree, tokens: Array) -> Array:
    """[B, L, D] float32 of tokens [B, L]. params: {'conditioner', …}."""
    return system.condition(params, {"tokens": tokens}).context


def logits_of(heads: PyTree, context: Array) -> dict[str, Array]:
    """{head: [B, L, classes] float32} of context [B, L, D]."""
    return {name: Linear(size).apply({"params": heads[name]}, context) for name, size in HEADS.items()}


def train(
    system: System,
    conditioner: PyTree,
    *,
    num_scenes: int,
    num_steps: int,
    batch_size: int,
    probe: bool,
    anchor: float = 0.0,
    seed: int = 0,
) -> PyTree:
    """{'conditioner', 'heads'} after num_steps of AdamW at a cosine; with `probe` the conditioner stays as given.

    anchor: the weight of the mean square by which contexts differ from those of the conditioner as given.
    """
    tokens, labels = captions(system, "train", num_scenes, seed)
    key = jax.random.key(seed, impl=KEY_IMPL)
    width = jax.eval_shape(
        lambda p: system.condition(p, {"tokens": tokens[:1]}), {"conditioner": conditioner}
    )
    row = jnp.zeros((1, width.context.shape[-1]))
    heads = {
        name: Linear(size).init(jax.random.fold_in(key, i), row)["params"]
        for i, (name, size) in enumerate(HEADS.items())
    }
    tx = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, num_steps))

    @jax.jit
    def step(trained, opt_state, tokens, labels):
        def loss(trained):
            given = {"conditioner": conditioner} | trained
            context = context_of(system, given, tokens)
            in_phrase = labels[..., 0] != NONE
            errors = [
                optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels[..., i], 0))
                for i, logits in enumerate(logits_of(given["heads"], context).values())
            ]
            total = (sum(errors) * in_phrase).sum() / in_phrase.sum()
            if anchor:
                moved = context - context_of(system, {"conditioner": conditioner}, tokens)
                total = total + anchor * jnp.square(moved).mean()
            return total

        value, gradient = jax.value_and_grad(loss)(trained)
        updates, opt_state = tx.update(gradient, opt_state, trained)
        return optax.apply_updates(trained, updates), opt_state, value

    trained = {"heads": heads} | ({} if probe else {"conditioner": conditioner})
    opt_state, rng = tx.init(trained), np.random.default_rng(seed)
    for number in range(num_steps):
        drawn = rng.integers(len(tokens), size=batch_size)
        trained, opt_state, value = step(trained, opt_state, tokens[drawn], labels[drawn])
        if (number + 1) % 100 == 0:
            print(f"step {number + 1}/{num_steps}  loss {float(value):.4f}", flush=True)
    return {"conditioner": conditioner} | trained


def accuracy(system: System, params: PyTree, number: int, seed: int = 1) -> dict[str, float]:
    """{head: the share that it is right on of the words of phrases in held-out captions}, and of 'place' also among
    those that have one."""
    tokens, labels = captions(system, "test", number, seed)
    found = jax.jit(lambda p, tokens: logits_of(p["heads"], context_of(system, p, tokens)))(params, tokens)
    right = np.stack([np.asarray(found[name].argmax(-1)) for name in HEADS], axis=-1) == labels
    in_phrase = labels[..., 0] != NONE
    shares = {name: float(right[in_phrase][:, i].mean()) for i, name in enumerate(HEADS)}
    placed = labels[..., list(HEADS).index("place")] > 0
    return shares | {
        "place_said": float(right[placed][:, -1].mean()),
        "all": float(right[in_phrase].all(-1).mean()),
    }


def fresh(system: System, given: bundle.Bundle | None) -> PyTree:
    """params['conditioner'] before the first step. Raises: ValueError if nothing of the given model fits."""
    init = jax.jit(lambda key: {"conditioner": system.init(key)["conditioner"]})  # the network's is left out
    params: Mapping = init(jax.random.key(0, impl=KEY_IMPL))
    if given:
        params, note = start_from(params, given.params, ["conditioner"])
        print(f"init_from: {note}")
    return params["conditioner"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=cli.on_disk, help="the folder to write, which config.init_from takes")
    add("--config", default="shapes_text", help="of the model (default %(default)s)")
    add("--init_from", help="a model whose transformer it begins with; by default a fresh one")
    add(
        "--anchor",
        type=float,
        default=0.0,
        help="how strongly it is held to what it was (default %(default)s)",
    )
    add("--probe", action="store_true", help="leave the transformer as it is and train the heads alone")
    add("--steps", type=int, default=1500, help="default %(default)s")
    add("--batch_size", type=int, default=128, help="default %(default)s")
    add("--num_scenes", type=int, default=20_000, help="to learn from (default %(default)s)")
    add("--test_scenes", type=int, default=2000, help="to be scored on (default %(default)s)")
    args = parser.parse_args(argv)
    if bool(args.out) == args.probe:
        raise ValueError("--out and --probe: expected one of them, as a probe writes no model")
    start, config = time.time(), load_config(args.config)
    config = dict(with_first_stage(dict(config, first_stage_from="shapes")))
    system = make_system(config)
    if "prompts" not in system.takes:
        raise ValueError(
            f"--config {args.config}: expected a model that takes prompts, got {', '.join(system.takes)}"
        )
    given = open_checkpoint(args.init_from).bundle() if args.init_from else None
    params = train(
        system,
        fresh(system, given),
        num_scenes=args.num_scenes,
        num_steps=args.steps,
        batch_size=args.batch_size,
        probe=args.probe,
        anchor=args.anchor,
    )
    scored = accuracy(system, params, args.test_scenes)
    if args.out:
        made = {"conditioner": jax.tree.map(np.asarray, params["conditioner"])}
        if given:
            bundle.save(args.out, given._replace(params={**given.params, **made}))
        else:
            bundle.save(args.out, bundle.Bundle(config, made, system.tokenizer))
    print(json.dumps(scored | {"minutes": round((time.time() - start) / 60, 1)}))


def console() -> None:
    """The console command `python -m ldm_jax.commands.train_shapes_words`."""
    cli.console(main)


if __name__ == "__main__":
    console()
