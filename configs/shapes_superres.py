r"""Super-resolution on the shapes world, 16 x 16 to 64 x 64 pixels.

Run:     python train.py --config configs/shapes_superres.py --workdir runs/shapes_superres
Smoke:   python train.py --config configs/shapes_superres.py:runlocal --workdir /tmp/shapes_superres
Source:  Rombach et al. 2022, section 4.4 (the low-resolution image beside the latent, bicubic degradation), in small.
Result:  874,308 parameters. After 700 steps, 6 minutes of one core of two that were busy (2026-11-30): PSNR 29.5 dB,
         SSIM 0.918 on 512 scenes; bicubic 24.5 dB and 0.863 (`ldm-evaluate superres`). It is shipped.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_superres",
        arg,
        conditioning=dict(name="superres"),
        model=dict(base.SHAPES_SMALL_UNET, in_channels=4 + 3),
        data=dict(derive=dict(low_res=dict(name="low_res", factor=4))),
        total_steps=700,
        sampling=dict(num_steps=50),
        init_from=None,
    )
