"""What a diffusion model sees in pictures, drawn over them.

    ldm-recognize daam --prompt "a red circle above a blue square" --out seen                 of a picture that it draws
    ldm-recognize daam --image x.png --prompt "a red circle" --word circle --threshold 0.5
    ldm-recognize daam --image x.png --prompt "a red circle" --inversion ddim                inverted, and not noised
    ldm-recognize diffseg --image a.png b.png                                                segments without a word
    ldm-recognize correspondence --image a.png b.png --points "[[20, 31]]"                   points of one in all
    ldm-recognize label_efficient --image a.png b.png c.png --labels a_labels.png             from one labeled picture

writes <n>.png, each picture with what was found over it, <n>_labels.png with the class or segment of each pixel as its
gray level, and found.json: points, and where each word is seen most. METHOD is a file of ldm_jax/recognition; its
options, and --levels and --noises of any, are --NAME VALUE (JSON, or text).
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_jax import cli

if TYPE_CHECKING:
    import numpy as np

    from ldm_jax.inference.analysis import Analysis

COLORS = (
    (230, 60, 60),
    (60, 130, 230),
    (70, 170, 80),
    (235, 160, 40),
    (150, 80, 190),
    (60, 190, 190),
    (130, 130, 130),
)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = found.add_argument
    add("method", help="a file of ldm_jax/recognition")
    add(
        "--checkpoint",
        default="shapes",
        help="shipped, bundle, workdir or checkpoint file (default %(default)s)",
    )
    add("--image", nargs="+", help="pictures, of one size; without, one is drawn of --prompt")
    add("--prompt", nargs="+", help="what they show, one for all or one each, or what is drawn")
    add("--seed", type=int, default=0, help="of the noise, counting up over pictures (default %(default)s)")
    add("--inversion", help="a file of ldm_jax/inversion: of a given picture, in the place of noise")
    add(
        "--like",
        nargs="+",
        help="pictures in whose light those of --image are put first (Fourier domain adaptation)",
    )
    add(
        "--beta",
        type=float,
        default=0.05,
        help="with --like: up to which part of the side (default %(default)s)",
    )
    add(
        "--labels",
        nargs="+",
        help="pictures whose gray levels are the classes, or the masks, of the first of --image",
    )
    add("--batch_size", type=int, default=8, help="pictures at once on each device (default %(default)s)")
    add("--out", type=cli.on_disk, default="recognized", help="folder (default %(default)s)")
    return found


def main(argv: list[str] | None = None) -> None:
    args, rest = parser().parse_known_args(argv)
    from ldm_jax import atomic, grid
    from ldm_jax.data import pictures
    from ldm_jax.inference import methods, pipeline

    options = read_options(rest)
    if args.labels:
        takes = methods.options_of("recognition", args.method)
        options["masks" if "masks" in takes else "labels"] = [read_labels(path) for path in args.labels]
    images = [pictures.read_picture(path) for path in args.image] if args.image else None
    if args.like:
        options |= dict(like=[pictures.read_picture(path) for path in args.like], beta=args.beta)
    if args.inversion:
        options["inversion"] = args.inversion
    prompts = args.prompt[0] if args.prompt and len(args.prompt) == 1 else args.prompt
    seeds = [args.seed + i for i in range(len(images or args.prompt or [1]))]
    made = pipeline.load(args.checkpoint).analyze(
        images, prompts, args.method, seeds, batch_size=args.batch_size, **options
    )
    out, text = Path(args.out), dict(method=args.method, prompt=" | ".join(args.prompt or []))
    for i in range(len(made.images)):
        grid.write_png(out / f"{i}.png", drawn_over(made, i), text)
        if made.found.labels is not None:
            grid.write_png(
                out / f"{i}_labels.png", made.found.labels[i].clip(0, 255).astype("uint8")[..., None], text
            )
    said = {"method": args.method, "pictures": [in_words(made, i) for i in range(len(made.images))]}
    atomic.write_text(out / "found.json", json.dumps(said, indent=1))
    print(f"{len(made.images)} pictures analyzed: {out}")


def read_options(rest: list[str]) -> dict[str, Any]:
    """{name: value} of --name value ... Raises: ValueError for what is no pair."""
    found = {}
    names, values = rest[::2], rest[1::2]
    for i, name in enumerate(names):
        if not name.startswith("--") or i >= len(values):
            raise ValueError(f"{name}: expected options of the method as --NAME VALUE")
        try:
            found[name[2:]] = json.loads(values[i])
        except json.JSONDecodeError:
            found[name[2:]] = values[i]
    return found


def read_labels(path: str) -> "np.ndarray":
    """[H, W] uint8, the gray levels of a picture. Raises: ValueError for one in colors."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(path)
        labels = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(
            f"--labels {path}: expected a picture whose gray levels are classes ({error})"
        ) from None
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise ValueError(f"--labels {path}: got mode {picture.mode}, expected one gray level for each pixel")
    return labels.astype(np.uint8)


def drawn_over(made: "Analysis", i: int) -> "np.ndarray":
    """[H', W', 3] uint8: picture i and, beside it, each of its maps, its labels in colors and its points."""
    import numpy as np

    from ldm_jax.tasks import sheet

    image, found = made.images[i], made.found
    tiles = [sheet.Tile(image, "picture")]
    if found.maps is not None:
        tiles += [sheet.Tile(sheet.heat(values, image), name) for name, values in found.maps[i]]
    if found.labels is not None:
        colors = np.asarray(COLORS, np.float32)[found.labels[i] % len(COLORS)]
        tiles.append(sheet.Tile(np.uint8(0.35 * image + 0.65 * colors), "labels"))
    if found.points is not None:
        marked = image.copy()
        for number, (x, y) in enumerate(found.points[i].astype(int)):
            marked[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = COLORS[number % len(COLORS)]
        tiles.append(sheet.Tile(marked, "points"))
    return sheet.contact_sheet([sheet.Row("", tiles)])


def in_words(made: "Analysis", i: int) -> dict[str, Any]:
    """Of picture i: {'points': [[x, y], …]}, {'seen_most': {word: [x, y]}}, {'segments': their number}."""
    import numpy as np

    found, (height, width) = made.found, made.images.shape[1:3]
    said: dict[str, Any] = {}
    if found.maps is not None:
        said["seen_most"] = {}
        for name, values in found.maps[i]:
            y, x = np.unravel_index(values.argmax(), values.shape)
            at = (x + 0.5) * width / values.shape[1], (y + 0.5) * height / values.shape[0]
            said["seen_most"][name] = [round(float(v), 1) for v in at]
    if found.labels is not None:
        said["classes"] = sorted(int(v) for v in np.unique(found.labels[i]))
    if found.points is not None:
        said["points"] = [[round(float(v), 1) for v in point] for point in found.points[i]]
    return said


def console() -> None:
    """The console command `ldm-recognize`."""
    cli.console(main)


if __name__ == "__main__":
    console()
