r"""A first stage: KL, f = 8: 256 x 256 -> 32 x 32 x 4.

Run:     python train.py --config configs/kl_f8.py --config.data.root=PHOTOS --workdir runs/kl_f8
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f8.py:runlocal --workdir /tmp/kl_f8
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/kl-f8/config.yaml; 83,653,863 parameters.
         Its own training files, configs/autoencoder/, take ImageNet instead: batch 12, gradients of two batches
         together.
Result:  rFID 0.90, PSNR 24.19, PSIM 1.02 on the 50,000 validation images of ImageNet at 256 x 256, after 246,803 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f8",
        arg,
        batch_size=4,
        total_steps=246_803,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
