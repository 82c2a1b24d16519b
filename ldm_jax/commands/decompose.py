"""What a learned concept is made of: its largest words, and how much of each, as JSON.

    python train.py --config configs/concept_decomposition.py --config.base=MODEL --config.data.root=DIR --workdir RUN
    python -m ldm_jax.commands.decompose RUN --checkpoint MODEL --number 20

RUN: an adapter of the way `concept_decomposition`. Coefficients are given by text encoder, where a model has several,
and come with the cosine of that many words' sum to all of it.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints import adapters, words
from ldm_jax.checkpoints.base import Bundle, Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.params import flatten
from ldm_jax.personalization import base, concept_decomposition

WAY = "concept_decomposition"


def decomposed(model: Bundle, adapter: Any, number: int) -> dict[str, dict[str, Any]]:
    """{text encoder: {'words': {word: coefficient} of the `number` largest, 'cosine'}}.

    Raises: ValueError for an adapter of another way, or a model without a tokenizer.
    """
    if adapter.section["name"] != WAY:
        raise ValueError(f"the adapter is of {adapter.section['name']}, expected one of {WAY}")
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer, expected the names of its words (--tokenizer)")
    new = base.new_words(adapter.section)
    assert new is not None, "this way always adds words"
    told = words.add(model, new)
    found = {}
    for path, values in concept_decomposition.coefficients(told.params, adapter.delta).items():
        values, table = np.asarray(values), np.asarray(flatten(told.params)[path], np.float32)[: len(values)]
        largest = np.argsort(-np.abs(values))[:number]
        few, whole = values[largest] @ table[largest], values @ table
        cosine = few @ whole / max(float(np.linalg.norm(few) * np.linalg.norm(whole)), 1e-12)
        said = {told.tokenizer.id_to_token(int(i)): round(float(values[i]), 5) for i in largest}
        found["/".join(path[1:-2])] = dict(words=said, cosine=round(float(cosine), 4))
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.decompose",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("adapter", help="a workdir or folder of an adapter")
    add("--checkpoint", default="shapes", help="the model that it was learned on (default %(default)s)")
    add("--tokenizer", help="vocabulary file or its folder, of a checkpoint that has none")
    add("--number", type=int, default=20, help="of words (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.number < 1:
        raise ValueError(f"--number is {args.number}, expected at least 1")
    model = open_checkpoint(args.checkpoint, Options(tokenizer=args.tokenizer)).bundle()
    print(json.dumps(decomposed(model, adapters.read(args.adapter, model=model), args.number), indent=1))


if __name__ == "__main__":
    cli.console(main)
