r"""A first stage: VQ, f = 8, 256 codes: 256 x 256 -> 32 x 32 x 4.

Run:     python train.py --config configs/vq_f8_n256.py --config.data.root=PHOTOS --workdir runs/vq_f8_n256
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f8_n256.py:runlocal --workdir /tmp/vq_f8_n256
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/vq-f8-n256/config.yaml; 67,652,783 parameters.
Result:  rFID 1.49, PSNR 22.35, PSIM 1.26 on the 50,000 validation images of ImageNet at 256 x 256, after 1,608,649
         steps on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f8_n256",
        arg,
        batch_size=10,
        total_steps=1_608_649,
        loss=dict(codebook_weight=1.0, disc_start=250_001, disc_weight=0.75),
        disc_layers=2,
    )
