r"""What guidance methods do, at three strengths each, as one picture:

    python benchmarks/guidance_figure.py --out docs/images/guidance.png

A row for each method, two pictures for each strength, the weakest first; all of the same seeds. Methods that lead a
model that is told nothing draw the empty prompt; classifier guidance has a row where --classifier names a run of
configs/shapes_noisy_classifier.py. Each row is kept in a folder beside the picture, docs/images/guidance/, and is drawn
once: the same command goes on where it was stopped.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import ldm_jax
from ldm_jax import grid
from ldm_jax.shapes_world import scenes as world

PROMPT, SEEDS = "a red circle and a blue square", (3, 5)
PALETTE = [*world.COLORS.values(), (235, 235, 235)]
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
    parser.add_argument("--out", required=True, help="the .png to write")
    parser.add_argument(
        "--checkpoint", default="shapes", help="a text model of the shapes world (default %(default)s)"
    )
    parser.add_argument(
        "--classifier", help="a classifier of noised latents, for the row of classifier guidance"
    )
    parser.add_argument("--steps", type=int, default=50, help="default %(default)s")
    args = parser.parse_args(argv)
    model, rows = ldm_jax.load(args.checkpoint), list(ROWS)
    if args.classifier:
        led = [
            {"classifier": {"classifier": args.classifier, "labels": "red circle", "scale": s}}
            for s in (1, 4, 16)
        ]
        rows.append(("classifier", led, ""))
    strips, kept = [], Path(args.out).with_suffix("")
    for name, strengths, prompt in rows:
        path = kept / f"{name.replace(' ', '_')}.png"
        if not path.is_file():
            more = {} if prompt is None else dict(guidance_scale=1.0)
            said = PROMPT if prompt is None else prompt
            drawn = [
                model.sample(said, SEEDS, num_steps=args.steps, guidance=guidance, **more)
                for guidance in strengths
            ]
            grid.write_png(path, grid.grid(np.concatenate(drawn), columns=3 * len(SEEDS)))
        strips.append(np.asarray(Image.open(path)))
        print(name, flush=True)
    grid.write_png(args.out, np.concatenate(strips), {"rows": ", ".join(row[0] for row in rows)})


if __name__ == "__main__":
    main()
