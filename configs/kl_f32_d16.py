r"""A first stage: KL, f = 32, of 16 channels: 256 x 256 -> 8 x 8 x 16.

Run:     python train.py --config configs/kl_f32_d16.py --config.data.root=PHOTOS --workdir runs/kl_f32_d16
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f32_d16.py:runlocal --workdir /tmp/kl_f32_d16
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of kl_f32, its nearest relative. 103,197,139 parameters.
Result:  rFID 7.3, PSNR 20.38 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f32_d16",
        arg,
        batch_size=6,
        total_steps=406_763,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
