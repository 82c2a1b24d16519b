r"""Inpainting on the shapes world: the masked image's latent and the mask beside the latent.

Run:     python train.py --config configs/shapes_inpaint.py --workdir runs/shapes_inpaint
Smoke:   python train.py --config configs/shapes_inpaint.py:runlocal --workdir /tmp/shapes_inpaint
Source:  Rombach et al. 2022, section 4.5, in small, with Stable Diffusion's convention of channels.
Result:  2,767,172 parameters. After 2,400 steps, the first 1,400 on a schedule for as many, 36 minutes on two busy
         cores: 61 % of 100 scenes completed right, 46 % of those whose hole hides something: far from trained, it does
         not yet carry the background on (`ldm-evaluate inpaint`).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_inpaint",
        arg,
        conditioning=dict(name="inpaint", convention="stable_diffusion"),
        model=dict(base.SHAPES_SMALL_UNET, channel_mult=[1, 4], in_channels=4 + 5),
        data=dict(derive=dict(mask=dict(name="mask", full=0.05))),
        total_steps=2400,
        sampling=dict(num_steps=50),
        init_from=None,
    )
