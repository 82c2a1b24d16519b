r"""Inpainting on the shapes world: the masked image's latent and the mask beside the latent.

Run:     python train.py --config configs/shapes_inpaint.py --workdir runs/shapes_inpaint
Smoke:   python train.py --config configs/shapes_inpaint.py:runlocal --workdir /tmp/shapes_inpaint
Source:  Rombach et al. 2022, section 4.5, in small, with Stable Diffusion's convention of channels.
On:      --config.init_from=shapes_inpaint --config.first_stage_from=shapes_inpaint goes on from the shipped one.
Result:  874,884 parameters. After 26,600 steps, 3 hours and 50 minutes of one core of two that were busy (2026-11-30):
         84.6 % of 512 scenes completed right, 78.6 % of those whose hole hides something of an object (`ldm-evaluate
         inpaint`). It is shipped. The first 8,000 of them, this command, reached 75 and 66 %; 9,000 and then 2,600 went
         on, with --config.timestep_density.mean=0.5, so that more are of high noise, where the color of what is
         completed is settled: that was wrong mostly; 83.4 and 77.2 %. 7,000 more, the same way, on latents whose
         directions weigh more alike: python -m ldm_jax.commands.whiten shapes_inpaint --latents_at 5 --out WHITE, and
         WHITE as first_stage_from and init_from. 2,000 steps reached 62 and 48 % of 100, as much as three times the
         parameters (channel_mult 1,4) after 2,400 steps on a schedule for so many.
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
