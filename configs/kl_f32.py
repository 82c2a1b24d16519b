r"""A first stage: KL, f = 32: 256 x 256 -> 8 x 8 x 64.

Run:     python train.py --config configs/kl_f32.py --config.data.root=PHOTOS --workdir runs/kl_f32
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f32.py:runlocal --workdir /tmp/kl_f32
Source:  CompVis/latent-diffusion@a506df5 models/first_stage_models/kl-f32/config.yaml; 103,880,131 parameters.
         Its own training files, configs/autoencoder/, take ImageNet instead: batch 12, gradients of two batches
         together.
Result:  rFID 2.04, PSNR 22.27, PSIM 1.41 on the 50,000 validation images of ImageNet at 256 x 256, after 406,763 steps
         on OpenImages (Rombach et al. 2022, table 8, and the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f32",
        arg,
        batch_size=6,
        total_steps=406_763,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
