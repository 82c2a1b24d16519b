"""The task `edit` of sample.py: an edited picture beside its source, and a contact sheet of how it came about.

    python sample.py --task edit --method prompt_to_prompt --source "a red circle" --prompt "a blue circle" --out edited

writes for each seed edited/<seed>.png, <seed>_source.png, <seed>_mask.png where the method has one, and
<seed>_sheet.png: source, edited at each of --strengths, masks, and the attention map under each word. Decides what lies
on the sheet.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm_jax.tasks import sheet

STRENGTHS = "0,0.33,0.67,1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "edits (--task edit); options of the method are --edit.NAME VALUE"
    ).add_argument
    add("--method", help="a file of ldm_jax/editing, such as prompt_to_prompt")
    add("--source", help="the prompt of the picture that is edited; default: --prompt")
    add(
        "--strengths", default=STRENGTHS,
        help="columns of the contact sheet: 0 is no edit, 1 what is asked for (default %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace, model: Any, seeds: Sequence[int], settings: dict) -> int:
    """Draws and writes. Returns: the number of edited pictures. Raises: ValueError as LatentDiffusion.edit."""
    import numpy as np

    from ldm_jax import grid, paths
    from ldm_jax.commands.draw import write
    from ldm_jax.data import pictures
    from ldm_jax.inference import methods
    from ldm_jax.tasks import sheet

    if not args.prompt:
        raise ValueError(f"--method {args.method}: expected --prompt, what the edited picture shows")
    strengths = read_strengths(args.strengths)
    source = args.prompt if args.source is None else args.source
    asked = (args.edit or {}).get(args.method, {})
    given = dict(negative_prompts=args.negative_prompt, batch_size=args.batch_size, **settings)
    if args.image:
        given |= dict(image=pictures.read_picture(args.image), inversion=args.inversion)
    made = []
    for strength in strengths:
        options = methods.at_strength("editing", args.method, asked, strength)
        made.append(model.edit(source, args.prompt, args.method, seeds, options=options, **given))
    out, last = paths.of(args.out), made[-1]
    told = {k: v for k, v in settings.items() if v is not None and k != "num_steps"}
    told |= dict(steps=settings["num_steps"], checkpoint=args.checkpoint)
    told |= dict(negative_prompt=args.negative_prompt) if args.negative_prompt else {}
    for i, seed in enumerate(seeds):
        text = dict(prompt=args.prompt, source=source, method=args.method, seed=seed, **asked)
        write(out / f"{seed}.png", last.images[i], text | told)
        for name, images in last.sources.items():
            grid.write_png(out / f"{seed}_{name}.png", images[i], text)
        for name, masks in last.masks.items():
            white = np.uint8(255 * np.clip(masks[i], 0, 1))[..., None]
            grid.write_png(out / f"{seed}_{name}.png", white, text)
        title = f"{args.method}: {source!r} to {args.prompt!r}, seed {seed}"
        grid.write_png(
            out / f"{seed}_sheet.png", sheet.contact_sheet(rows_of(made, strengths, i), title), text
        )
    return len(seeds)


def read_strengths(text: str) -> list[float]:
    """'0,0.5,1' as numbers. Raises: ValueError for others, or none, or one out of [0, 1]."""
    try:
        found = [float(part) for part in str(text).split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= strength <= 1 for strength in found):
        raise ValueError(f"--strengths {text}: expected numbers from 0 to 1, such as {STRENGTHS}")
    return found


def rows_of(made: Sequence[Any], strengths: Sequence[float], i: int) -> "list[sheet.Row]":
    """What the sheet of picture i shows. made: the Edited of each strength; sources and maps are the last one's."""
    from ldm_jax.tasks import sheet

    last = made[-1]
    sources = [sheet.Tile(images[i], name) for name, images in last.sources.items()]
    edited = [sheet.Tile(one.images[i], f"{s:g}") for one, s in zip(made, strengths, strict=True)]
    rows = [sheet.Row("source, and edited at each strength", [*sources, *edited])]
    for name in last.masks:
        tiles = [sheet.blank(tile.image) for tile in sources]  # each mask under its picture
        for one, s in zip(made, strengths, strict=True):
            there = name in one.masks
            shown = sheet.Tile(sheet.masked(one.masks[name][i], one.images[i]), f"{s:g}") if there else None
            tiles.append(shown or sheet.blank(one.images[i]))
        rows.append(sheet.Row(f"{name}, at each strength", tiles))
    for name, each in last.maps.items():
        over = last.images[i] if name == "edited" else last.sources[name][i]
        tiles = [sheet.Tile(sheet.heat(values, over), word) for word, values in each[i]]
        rows.append(sheet.Row(f"attention to each word of the {name} prompt", tiles))
    return rows
