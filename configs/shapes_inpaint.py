r"""Inpainting on the shapes world: the masked image's latent and the mask beside the latent.

Run:     python train.py --config configs/shapes_inpaint.py --workdir runs/shapes_inpaint
Smoke:   python train.py --config configs/shapes_inpaint.py:runlocal --workdir /tmp/shapes_inpaint
Source:  Rombach et al. 2022, section 4.5, in small, with Stable Diffusion's convention of channels.
On:      --config.init_from=shapes_inpaint goes on from the shipped one.
Result:  874,884 parameters. After 8,000 steps, 78 minutes of one core of two that were busy (2026-11-30): 75 % of 512
         scenes completed right, 66 % of those whose hole hides something of an object (`ldm-evaluate inpaint`). It is
         shipped. After 2,000 of them it were 62 and 48 % of 100, as many as of three times the parameters
         (channel_mult 1,4) after 2,400 steps on a schedule for so many. What is wrong is mostly the color of what it
         completes.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_inpaint",
        arg,
        conditioning=dict(name="inpaint", convention="stable_diffusion"),
        model=dict(base.SHAPES_SMALL_UNET, in_channels=4 + 5),
        data=dict(derive=dict(mask=dict(name="mask", full=0.05))),
        total_steps=8000,
        sampling=dict(num_steps=50),
        init_from=None,
    )
