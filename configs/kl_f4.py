r"""A first stage: KL, f = 4: 256 x 256 -> 64 x 64 x 3.

Run:     python train.py --config configs/kl_f4.py --config.data.root=PHOTOS --workdir runs/kl_f4
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f4.py:runlocal --workdir /tmp/kl_f4
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/kl-f4/config.yaml; 55,312,063 parameters.
         Its own training files, configs/autoencoder/, take ImageNet instead: batch 12, gradients of two batches
         together.
Result:  rFID 0.27, PSNR 27.53, PSIM 0.55 on the 50,000 validation images of ImageNet at 256 x 256, after 176,991 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f4",
        arg,
        batch_size=10,
        total_steps=176_991,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
