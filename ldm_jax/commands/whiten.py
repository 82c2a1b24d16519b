"""Turns and scales the latents of a model's KL autoencoder, so that a diffusion loss sees all of their directions.

    python -m ldm_jax.commands.whiten shapes --out runs/whitened
    python train.py --config configs/shapes_text.py --config.first_stage_from=runs/whitened \\
        --config.init_from=runs/whitened --workdir RUN

The autoencoder decodes as before what it encodes, to float32 rounding. A network that the model has goes with it as far
as it can (training/whitening.py says what it then has to learn), to be trained on, not to draw. The covariance is that
of the pictures that the model's config names, or another's: --config as train.py takes it.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax import cli
from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import config_flag
from ldm_jax.data import pipeline
from ldm_jax.first_stage import make_first_stage
from ldm_jax.training import whitening
from ldm_jax.training.precompute import open_data

BATCH = 50


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.whiten",
        description=__doc__,
        epilog=config_flag.epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkpoint", help="a bundle, a workdir or another model with a KL autoencoder")
    add("--out", type=cli.on_disk, required=True, help="the folder to write, a bundle")
    add(
        "--power",
        type=float,
        default=0.5,
        help="what of the deviations is divided by: 1 whitens, 0 turns alone (default %(default)s)",
    )
    add("--num_images", type=int, default=300, help="to measure by (default %(default)s)")
    add(
        "--latents_at",
        type=int,
        nargs="*",
        default=[],
        metavar="CHANNEL",
        help="input channels of the network, beside the first, where a latent begins: 5 in an inpainting model",
    )
    return parser


def whitened(
    model: Bundle, data: Mapping[str, Any], power: float, num_images: int, latents_at: Sequence[int]
) -> tuple[Bundle, whitening.Whitening]:
    """(the model with the map in it, the map). data: a config, whose pictures are encoded.

    Raises: ValueError for an autoencoder that is not of kind 'kl', a config that names no pictures, and as
    whitening.whitening.
    """
    kind = model.config["first_stage"]["name"]
    if kind != "kl":
        raise ValueError(f"the first stage is of kind {kind!r}, expected 'kl', whose latents nothing rounds")
    if num_images < 1:
        raise ValueError(f"--num_images is {num_images}, expected at least 1")
    if "data" not in data:
        raise ValueError(
            "the model does not say what pictures it was trained on, expected --config to name some"
        )
    first_stage, params = make_first_stage(model.config["first_stage"]), model.params["first_stage"]
    source, crop = open_data(data)
    batches = pipeline.evaluation_batches(
        source, batch_size=BATCH, transform=lambda example, rng: {"image": crop(example["image"], rng)}
    )
    encode = jax.jit(first_stage.encode)
    moments = np.concatenate(
        [
            np.asarray(encode(params, batch["image"]))[batch["valid"]]
            for batch in itertools.islice(batches, -(-num_images // BATCH))
        ]
    )[:num_images]
    means, log_variances = np.split(moments, 2, axis=-1)
    white = whitening.whitening(*whitening.moments_of(means), power)
    variance = np.exp(np.clip(log_variances, -30.0, 20.0)).mean((0, 1, 2), dtype=np.float64)
    changed = {"first_stage": whitening.whitened_first_stage(params, white, variance)}
    if "unet" in model.params:
        changed["unet"] = whitening.turned_network(model.params["unet"], white, [0, *latents_at])
    config = {key: value for key, value in model.config.items() if key not in ("latents_mean", "latents_std")}
    if "scale_factor" in config:
        config["scale_factor"] = float(np.mean(white.std**2) ** -0.5)
    return Bundle(config, {**model.params, **changed}, model.tokenizer), white


def main(argv: list[str] | None = None) -> None:
    args, rest = make_parser().parse_known_args(argv)
    model = open_checkpoint(args.checkpoint).bundle()
    data = config_flag.read_config(rest) if rest else model.config
    model, white = whitened(model, data, args.power, args.num_images, args.latents_at)
    bundle.save(args.out, model)
    after = np.diag(white.forward @ white.turn.T) * white.std
    print(f"{args.out}: deviations {_said(white.std)} along the principal directions, now {_said(after)}")


def _said(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


if __name__ == "__main__":
    cli.console(main)
