"""A page in the browser to try a model on: prompts, edits, a brush, sliders.

    pip install 'ldm_jax[web]'
    ldm-web                                             the shipped model, at http://127.0.0.1:7860
    ldm-web --checkpoint models/sd15 --adapter style.safetensors:0.7
    ldm-web --host 0.0.0.0 --port 8000                  for everybody in the network

Tabs are those that the model can do (docs/web.md). Everybody's clicks wait in one queue: one drawing runs at a time.
Nothing is fetched, and no path is taken from the page.
"""

import argparse

from ldm_jax import cli


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = found.add_argument
    add(
        "--checkpoint",
        default="shapes",
        help="shipped, bundle, workdir or checkpoint file (default %(default)s)",
    )
    add(
        "--adapter",
        action="append",
        default=[],
        help="PATH or PATH:WEIGHT, which gets a slider; may be repeated",
    )
    add("--host", default="127.0.0.1", help="who can reach it: 0.0.0.0 is everybody (default %(default)s)")
    add("--port", type=int, help="default: the first free one from 7860 on")
    cli.add_checkpoint_arguments(add)
    return found


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    try:
        from ldm_jax.web import page
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}: pip install 'ldm_jax[web]'") from None
    page.serve(open_page(args), args.host, args.port)


def open_page(args: argparse.Namespace):
    """The web.page.Page of the flags."""
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.checkpoints.open import open_checkpoint
    from ldm_jax.inference import pipeline
    from ldm_jax.web import page
    from ldm_jax.web.adapters import Adapted

    bundle = open_checkpoint(args.checkpoint, options_from(args)).bundle()
    kept = cli.executables()
    model = pipeline.from_bundle(bundle, kept)
    adapted = Adapted(bundle, args.adapter, kept) if args.adapter else None
    return page.Page(model, adapted, args.checkpoint)


def console() -> None:
    """The console command `ldm-web`."""
    cli.console(main)


if __name__ == "__main__":
    console()
