"""Image to image: scenes as the pictures to begin with."""

import argparse

import numpy as np

from ldm_jax import grid
from ldm_jax.data import transforms
from ldm_jax.evaluation.shapes.base import Model, Outcome, mean_finite, scenes_and_images
from ldm_jax.metrics.psnr import psnr

STRENGTHS = (0.25, 0.5, 0.75)


def score(args: argparse.Namespace) -> Outcome:
    """Scenes as the pictures to begin with. The two ends of strength are tried on one batch."""
    model = Model(args)
    scenes, images = scenes_and_images(args.num_samples)
    told = model.told(scenes)
    few = min(args.num_samples, args.batch_size)
    others = scenes_and_images(few, first=args.num_samples)[1]

    def at(strength: float, init: np.ndarray) -> np.ndarray:
        given = {name: values[: len(init)] for name, values in told.items()}
        return model.draw(
            f"strength {strength:g}", len(init), init_images=list(init), strength=strength, **given
        )

    latents = model.model.encode(transforms.to_float(images[:few]))
    rebuilt = grid.to_uint8(model.model.decode(latents))
    kept = at(0.0, images[:few])
    anew = [at(1.0, init) for init in (images[:few], others)]
    between = {strength: at(strength, images) for strength in STRENGTHS}
    figures = dict(
        strength_0_is_reconstruction=bool(np.array_equal(kept, rebuilt)),
        strength_1_ignores_image=bool(np.array_equal(*anew)),
        psnr_to_image={f"{s:g}": mean_finite(psnr(images, drawn)) for s, drawn in between.items()},
    )
    rows = [images[:few], kept, *(drawn[:few] for drawn in between.values()), anew[0]]
    return Outcome(figures | model.settings(), {"img2img": rows})
