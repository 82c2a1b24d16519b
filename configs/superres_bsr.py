r"""Super-resolution, 64 x 64 to 256 x 256: LDM-4 (BSR), robust to real degradations.

Run:     python train.py --config configs/superres_bsr.py --workdir runs/superres_bsr
Smoke:   python train.py --config configs/superres_bsr.py:runlocal --workdir /tmp/superres_bsr
Source:  CompVis/latent-diffusion@a506df5 models/ldm/bsr_sr/config.yaml, Rombach et al. 2022, table 15; 113,622,563
         parameters. The small image is made by bsrgan_light, as for the published model (ldm_jax/data/degradation.py).
Result:  no figure was published of it; those of the paper's own models are superres_bicubic.py's.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=256,
        first_stage="vq_f4",
        model=dict(
            in_channels=6,
            out_channels=3,
            channels=160,
            channel_mult=[1, 2, 2, 4],
            num_res_blocks=2,
            attention_levels=[3],
            head_dim=32,
        ),
        conditioning=dict(name="superres"),
        beta=(0.0015, 0.0155),
        optimizer=dict(base_lr=1e-6),
        batch_size=64,
        total_steps=860_000,
        data=dict(
            base.IMAGENET,
            recipe="imagenet_sr",
            derive=dict(low_res=dict(name="low_res", factor=4, degradation="bsrgan_light")),
        ),
        sampling=dict(num_steps=100),
    )
    return base.diffusion(name, arg, **(own | changes))


# What the paper's own models are trained on, and measured (table 5).
BICUBIC = dict(
    base.IMAGENET,
    recipe="imagenet_sr",
    derive=dict(low_res=dict(name="low_res", factor=4, degradation="bicubic")),
)


def get_config(arg: str = "") -> ConfigDict:
    return make("superres_bsr", arg)
