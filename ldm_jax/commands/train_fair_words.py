"""Learns words that, said before a prompt, make a model draw groups as often as they should be drawn.

    python -m ldm_jax.commands.train_fair_words --prompts "a circle" "a square" --groups red,blue,black --out fair
    python sample.py --checkpoint shapes --adapter fair --prompt "<fair> a circle"
    python -m ldm_jax.commands.train_fair_words --checkpoint MODEL --clip CLIP --prompts "a photo of a nurse" \\
        --groups "a photo of a man,a photo of a woman" --out fair

Groups are labels of the classifier (--classifier, of the shapes world as it is shipped) or, with --clip, texts. OUT is
an adapter. Source: Shen et al. 2024 (arXiv:2311.07604).
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ldm_jax import cli
from ldm_jax.checkpoints import adapters
from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.evaluation import networks
from ldm_jax.find import did_you_mean
from ldm_jax.inference import classifiers
from ldm_jax.training import fair_words
from ldm_jax.training.fair_words import Judge


def by_labels(name: str, groups: Sequence[str]) -> Judge:
    """The odds of labels of a classifier of pictures, and its pooled features. Raises: ValueError for a label that it
    does not have."""
    network, params, labels = classifiers.of_pictures(name)
    for group in groups:
        if group not in labels:
            there = ", ".join(labels) or "none"
            raise ValueError(
                f"--groups: {group!r} not found; there are: {there}{did_you_mean(group, labels)}"
            )
    places = jnp.asarray([labels.index(group) for group in groups])
    return Judge(
        lambda images: network.apply({"params": params}, images).logits[:, places],
        lambda images: network.apply({"params": params}, images).pool,
    )


def by_texts(folder: str, groups: Sequence[str]) -> Judge:
    """CLIP's cosines of pictures to texts, times 100, and its embeddings of pictures."""
    network, params, _ = classifiers.of_pictures(folder)
    texts = jnp.asarray(networks.clip(folder).embed(list(groups)))
    texts = texts / jnp.linalg.norm(texts, axis=-1, keepdims=True)

    def embed(images: jax.Array) -> jax.Array:
        found = network.apply({"params": params}, images)
        return found / jnp.linalg.norm(found, axis=-1, keepdims=True)

    return Judge(lambda images: 100 * embed(images) @ texts.T, embed)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.train_fair_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", default="shapes", help="shipped, bundle, workdir or file (default %(default)s)")
    add("--prompts", nargs="+", default=["a circle"], help="that say no group (default: 'a circle')")
    add("--groups", default="red,blue", help="a,b (default %(default)s)")
    add("--shares", help="a,b: how often each is to be drawn (default: all alike)")
    add("--classifier", default="shapes_classifier", help="whose labels groups are (default %(default)s)")
    add("--clip", help="a folder of transformers' CLIPModel, to which groups are texts")
    add("--token", default="<fair>", help="what the words are called (default %(default)s)")
    add("--steps", type=int, default=200, help="default %(default)s")
    add("--number", type=int, default=24, help="pictures in a step (default %(default)s)")
    add("--sampling_steps", type=int, default=20, help="default %(default)s")
    add("--guidance_scale", type=float, default=1.0, help="1 is off, and half the cost (default %(default)s)")
    add("--learning_rate", type=float, default=1e-3, help="default %(default)s")
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--out", type=cli.on_disk, default="fair_words", help="the adapter to write (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    groups = [group.strip() for group in args.groups.split(",")]
    shares = [float(s) for s in args.shares.split(",")] if args.shares else [1 / len(groups)] * len(groups)
    if len(groups) < 2 or len(shares) != len(groups):
        raise ValueError(
            f"--groups and --shares: got {len(groups)} and {len(shares)}, expected two or more of each"
        )
    judge = by_texts(args.clip, groups) if args.clip else by_labels(args.classifier, groups)

    def report(step, loss, found):
        if step % 10 == 0 or step == args.steps:
            said = ", ".join(f"{group} {share:.2f}" for group, share in zip(groups, found, strict=True))
            print(f"step {step}/{args.steps}  loss {loss:.4f}  drawn: {said}", flush=True)

    made = fair_words.tune(
        open_checkpoint(args.checkpoint, Options()).bundle(), args.prompts, judge, shares, token=args.token,
        number=args.number, num_steps=args.steps, sampling_steps=args.sampling_steps, seed=args.seed,
        guidance_scale=args.guidance_scale, learning_rate=args.learning_rate, report=report,
    )  # fmt: skip
    adapters.save(args.out, made._replace(base=args.checkpoint))
    print(f'{args.out}: say {args.token} before a prompt, such as "{args.token} {args.prompts[0]}"')


if __name__ == "__main__":
    cli.console(main)
