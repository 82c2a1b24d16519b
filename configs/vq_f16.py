r"""A first stage: VQ, f = 16, 16384 codes: 256 x 256 -> 16 x 16 x 8.

Run:     python train.py --config configs/vq_f16.py --config.data.root=PHOTOS --workdir runs/vq_f16
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f16.py:runlocal --workdir /tmp/vq_f16
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/vq-f16/config.yaml; 69,593,371 parameters.
Result:  rFID 5.15, PSNR 20.83, PSIM 1.73 on the 50,000 validation images of ImageNet at 256 x 256, after 1,101,166
         steps on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f16",
        arg,
        batch_size=14,
        total_steps=1_101_166,
        loss=dict(codebook_weight=1.0, disc_start=250_001, disc_weight=0.75),
        disc_layers=2,
    )
