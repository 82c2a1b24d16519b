r"""A first stage: KL, f = 16, of 8 channels: 256 x 256 -> 16 x 16 x 8.

Run:     python train.py --config configs/kl_f16_d8.py --config.data.root=PHOTOS --workdir runs/kl_f16_d8
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f16_d8.py:runlocal --workdir /tmp/kl_f16_d8
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of kl_f16, its nearest relative. 69,499,371 parameters.
Result:  rFID 2.63, PSNR 21.94 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f16_d8",
        arg,
        batch_size=6,
        total_steps=442_998,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
