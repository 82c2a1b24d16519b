r"""What guidance methods do, at three strengths each, as one picture:

    python benchmarks/guidance_figure.py --kept runs/guidance_figure --out docs/pictures/guidance.png

A row for each method with its strengths, two pictures for each, the weakest first; all of the same seeds. Methods that
lead a model that is told nothing draw the empty prompt; classifier guidance has a row where --classifier names a run of
configs/shapes_noisy_classifier.py. Each row is kept in the folder --kept and is drawn once, for this model and number
of steps: the same command goes on where it was stopped, and --rows draws the first so many alone.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ldm_jax
from ldm_jax import grid
from ldm_jax.params import fingerprint
from ldm_jax.shapes_world import scenes as world

PROMPT, SEEDS = "a red circle and a blue square", (3, 5)
PALETTE = [*world.COLORS.values(), (235, 235, 235)]
WORDS, ZOOM = 260, 1.5  # pixels of the column of words; how much larger pictures are shown
LAYOUT = [{"box": [0.1, 0.55, 0.35, 0.35], "color": 0}, {"box": [0.6, 0.1, 0.3, 0.3], "color": 3}]
# (what it is called, its guidance at three strengths, what is drawn: None is PROMPT)
ROWS = [
    ("classifier_free", [{"classifier_free": {"scale": s}} for s in (1.5, 3.0, 7.0)], None),
    ("interval", [{"interval": {"scale": 7.0, "start": a, "stop": 0.8}} for a in (0.6, 0.3, 0.0)], None),
    ("cfg_plus_plus", [{"cfg_plus_plus": {"scale": s}} for s in (0.2, 0.5, 1.0)], None),
    ("composable", [{"composable": {"prompts": ["a green triangle"], "weights": w}} for w in (1.0, 2.0, 4.0)], None),
    ("perp_neg", [{"perp_neg": {"prompts": ["a blue square"], "weights": w}} for w in (0.3, 0.6, 1.0)], None),
    ("self_attention", [{"self_attention": {"scale": s}} for s in (0.5, 1.0, 2.0)], None),
    ("perturbed_attention", [{"perturbed_attention": {"scale": s}} for s in (1.0, 2.0, 4.0)], None),
    ("universal class", [{"universal": {"loss": "class", "target": "red circle", "scale": s}} for s in (1, 4, 16)], ""),
    ("universal boxes", [
        {"universal": {"loss": "boxes", "target": LAYOUT, "palette": PALETTE, "background": 6, "scale": s}}
        for s in (1, 4, 16)
    ], ""),
]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", required=True, help="the .png to write")
    add("--kept", required=True, help="a folder for the rows that are drawn")
    add("--checkpoint", default="shapes", help="a text model of the shapes world (default %(default)s)")
    add("--classifier", help="a classifier of noised latents, for the row of classifier guidance")
    add("--steps", type=int, default=50, help="default %(default)s")
    add("--rows", type=int, default=99, help="the first so many alone")
    args = parser.parse_args(argv)
    model, rows = ldm_jax.load(args.checkpoint), list(ROWS)
    if args.classifier:
        led = [{"labels": "red circle", "scale": s} for s in (1, 4, 16)]
        rows.append(
            ("classifier", [{"classifier": {"classifier": args.classifier} | options} for options in led], "")
        )
    of_model, strips = fingerprint(model.params), []
    for name, strengths, prompt in rows[: args.rows]:
        path = Path(args.kept) / f"{of_model[:12]}_{args.steps}_{name.replace(' ', '_')}.png"
        if not path.is_file():
            more = {} if prompt is None else dict(guidance_scale=1.0)
            said = PROMPT if prompt is None else prompt
            drawn = [
                model.sample(said, SEEDS, num_steps=args.steps, guidance=guidance, **more)
                for guidance in strengths
            ]
            grid.write_png(path, grid.grid(np.concatenate(drawn), columns=3 * len(SEEDS)))
        strips.append(labeled(name, strengths, Image.open(path)))
        print(name, flush=True)
    grid.write_png(args.out, np.concatenate(strips), {"prompt": PROMPT, "model": of_model})


def labeled(name: str, strengths: list[dict], strip: Image.Image) -> np.ndarray:
    """The strip, enlarged, behind what it is of."""
    pictures = strip.resize([round(ZOOM * side) for side in strip.size], Image.Resampling.LANCZOS)
    row = Image.new("RGB", (WORDS + pictures.width, pictures.height), "white")
    row.paste(pictures, (WORDS, 0))
    (varies, values) = varied([next(iter(one.values())) for one in strengths])
    words = f"{name}\n{varies} {', '.join(f'{v:g}' for v in values)}"
    font = ImageFont.load_default(16)
    ImageDraw.Draw(row).multiline_text(
        (8, row.height // 2), words, fill="black", font=font, anchor="lm", spacing=6
    )
    return np.asarray(row)


def varied(options: list[dict]) -> tuple[str, list]:
    """The option that differs, and its values."""
    (name,) = [key for key in options[0] if len({repr(one[key]) for one in options}) > 1]
    return name, [one[name] for one in options]


if __name__ == "__main__":
    main()
