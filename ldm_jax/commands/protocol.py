"""The paper's protocols on files of your own; the last line of output is one JSON object.

    ldm-protocol text --checkpoint X --captions captions_val2014.json --reference VAL2014 --crop 256 --out RESULT
    ldm-protocol layout --checkpoint X --images COCO --min_objects 3 --max_objects 8 --min_area 0.02 --out RESULT
    ldm-protocol superres --checkpoint X --images IMAGENET_VAL --out RESULT
    ldm-protocol inpaint --checkpoint X --images PLACES --crop 512 --out RESULT

Each leaves RESULT/table.md, what was measured above what was published, and goes on where it was stopped. Every option
of `ldm-evaluate` can be given as well, such as --batch_size, --metrics, --bootstrap and the files of weights.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from ldm_jax import cli
from ldm_jax.commands import evaluate
from ldm_jax.find import did_you_mean, find, names

ROOM = "evaluation/protocols"


def parser(name: str) -> argparse.ArgumentParser:
    """Of one protocol: `ldm-evaluate`'s, with its own options and defaults."""
    module, made = find(ROOM, name), evaluate.parser()
    made.prog, made.description = f"ldm-protocol {name}", f"{module.__doc__}\n\n{module.measure.__doc__}"
    for flag, options in getattr(module, "OPTIONS", {}).items():
        made.add_argument(flag, **options)
    made.set_defaults(**module.DEFAULTS, protocol=name)
    return made


def run(argv: Sequence[str]) -> dict:
    """argv: a protocol and its options. Returns what the last line says.

    Raises: ValueError for what cannot be asked.
    """
    known = names(ROOM)
    if not argv or argv[0] not in known:
        got = repr(argv[0]) if argv else "none"
        near = did_you_mean(argv[0], known) if argv else ""
        raise ValueError(f"protocol {got} not found; there are: {', '.join(known)}{near}")
    args = parser(argv[0]).parse_args(argv[1:])
    for name in ("checkpoint", "out"):
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing")
    if argv[0] in ("superres", "inpaint") and not args.images:
        raise ValueError("--images is missing: the folder of pictures")
    evaluate.check_numbers(args)
    return find(ROOM, argv[0]).measure(args, argv)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv in (["--help"], ["-h"]):
        print(__doc__)
        return
    start = time.time()
    result = run(argv)
    print(json.dumps(dict(result, seconds=round(time.time() - start, 1))))


def console() -> None:
    """The console command `ldm-protocol`."""
    cli.console(main)


if __name__ == "__main__":
    console()
