r"""Gray to color on the shapes world: the gray image's latent beside the latent.

Run:     python train.py --config configs/shapes_colorize.py --workdir runs/shapes_colorize
Smoke:   python train.py --config configs/shapes_colorize.py:runlocal --workdir /tmp/shapes_colorize
Source:  Rombach et al. 2022, section 4.3.2 (conditioning by concatenation), with one more condition, in small.
Result:  874,596 parameters. After 1,800 steps, 17 minutes of one core of two that were busy (2026-11-30): of 512
         scenes 86 % have all shapes where they were, 98 % of the objects are of one of the world's colors
         (`ldm-evaluate colorize`). It is shipped.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_colorize",
        arg,
        conditioning=dict(name="colorize"),
        model=dict(base.SHAPES_SMALL_UNET, in_channels=4 + 4),
        data={},
        total_steps=1800,
        sampling=dict(num_steps=50),
        init_from=None,
    )
