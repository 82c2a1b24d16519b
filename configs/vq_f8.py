r"""A first stage: VQ, f = 8, 16384 codes: 256 x 256 -> 32 x 32 x 4.

Run:     python train.py --config configs/vq_f8.py --config.data.root=PHOTOS --workdir runs/vq_f8
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f8.py:runlocal --workdir /tmp/vq_f8
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/vq-f8/config.yaml; 67,717,295 parameters.
Result:  rFID 1.14, PSNR 23.07, PSIM 1.17 on the 50,000 validation images of ImageNet at 256 x 256, after 971,043 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f8",
        arg,
        batch_size=10,
        total_steps=971_043,
        loss=dict(codebook_weight=1.0, disc_start=1, disc_weight=0.6),
        disc_layers=2,
    )
