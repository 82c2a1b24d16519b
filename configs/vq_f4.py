r"""A first stage: VQ, f = 4, 8192 codes: 256 x 256 -> 64 x 64 x 3.

Run:     python train.py --config configs/vq_f4.py --config.data.root=PHOTOS --workdir runs/vq_f4
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f4.py:runlocal --workdir /tmp/vq_f4
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/vq-f4/config.yaml; 55,322,782 parameters.
Result:  rFID 0.58, PSNR 27.43, PSIM 0.53 on the 50,000 validation images of ImageNet at 256 x 256, after 533,066 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f4",
        arg,
        batch_size=8,
        total_steps=533_066,
        loss=dict(codebook_weight=1.0, disc_start=0, disc_weight=0.75),
    )
