r"""A first stage: VQ, f = 4, 8192 codes, without attention: 256 x 256 -> 64 x 64 x 3.

Run:     python train.py --config configs/vq_f4_noattn.py --config.data.root=PHOTOS --workdir runs/vq_f4_noattn
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f4_noattn.py:runlocal --workdir /tmp/vq_f4_noattn
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/vq-f4-noattn/config.yaml; 53,219,486 parameters.
Result:  rFID 1.06, PSNR 25.21, PSIM 0.72 on the 50,000 validation images of ImageNet at 256 x 256, after 658,131 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f4_noattn",
        arg,
        batch_size=8,
        total_steps=658_131,
        loss=dict(codebook_weight=1.0, disc_start=11, disc_weight=0.75),
    )
