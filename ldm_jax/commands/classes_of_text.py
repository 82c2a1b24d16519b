"""Makes a class model of a text model: a class is what the text encoder makes of its name, and the network stays.

    python -m ldm_jax.commands.classes_of_text --checkpoint shapes --classes "red circle,blue square" --out classes
    python sample.py --checkpoint classes --task class --class_label "red circle"

It draws what the text model draws of these texts, and can be mixed and trained further as any class model. Of a shipped
model OUT shares the first stage and the network (docs/checkpoints.md).
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints import write
from ldm_jax.checkpoints.base import Bundle, Checkpoint, options_from, with_arrays
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.convert.tensor import as_tensor
from ldm_jax.system import make_system


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.classes_of_text",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        default="shapes",
        help="a text model: shipped, bundle, workdir or file (default %(default)s)",
    )
    add("--classes", required=True, help="their names, a,b,…")
    add("--text", default="a {}", help="what is said of a class, {} is its name (default %(default)s)")
    add("--out", type=cli.on_disk, required=True, help="the folder to write, a bundle")
    cli.add_checkpoint_arguments(add)
    return parser


def of_text(opened: Checkpoint, names: Sequence[str], text: str) -> Checkpoint:
    """The text model, but for its conditioning: class i is what its encoder makes of `text` with names[i], and no class
    what it makes of no text.

    Raises: ValueError for names that are empty or said twice, a text without {}, and a model of other conditions.
    """
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--classes: got {', '.join(map(repr, names))}, expected names, each once")
    if "{}" not in text:
        raise ValueError(f"--text is {text!r}, expected {{}} where the name of a class goes")
    system = make_system(opened.config, opened.tokenizer)
    if system.takes != ("prompts",):
        took = ", ".join(system.takes) or "no conditions"
        raise ValueError(f"--checkpoint takes {took}, expected a model that takes prompts alone")
    texts = [*(text.replace("{}", name) for name in names), ""]
    encoder = Bundle(opened.config, {"conditioner": opened.params["conditioner"]})  # the rest is not read
    cond = system.condition(with_arrays(encoder).params, system.inputs({"prompts": texts}))
    if cond.context is None or any(part is not None for part in (cond.vector, cond.concat, cond.hints)):
        raise ValueError(
            "--checkpoint: its network is told of a text by more than its tokens, which no class has"
        )
    context = np.asarray(jax.device_get(cond.context), np.float32)  # [C + 1, L, D], the last is no class
    length, width = context.shape[1:]
    classes = dict(name="class_label", num_classes=len(names), width=width, tokens=length)
    config = {k: v for k, v in opened.config.items() if k != "condition_dropout"}  # which may name the text
    table = {"embedding": {"embedding": as_tensor(context.reshape(len(texts), -1))}}
    return opened._replace(
        config=config | dict(conditioning=classes, class_names=list(names)),
        params=opened.params | {"conditioner": {"class_label": table}},
        tokenizer=None,
    )


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    opened = open_checkpoint(args.checkpoint, options_from(args))
    made = of_text(opened, [name.strip() for name in args.classes.split(",")], args.text)
    if args.checkpoint in bundle_files.shipped_names():
        made = bundle_files.with_shared(made, args.checkpoint)
    write.write(made, args.out, "bundle")
    print(f"{args.out}: {len(made.config['class_names'])} classes of {args.text!r}")


if __name__ == "__main__":
    cli.console(main)
