r"""A first stage: KL, f = 2: 256 x 256 -> 128 x 128 x 2.

Run:     python train.py --config configs/kl_f2.py --config.data.root=PHOTOS --workdir runs/kl_f2
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/kl_f2.py:runlocal --workdir /tmp/kl_f2
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of kl_f4, its nearest relative, whose first two levels it has. 13,314,465
         parameters.
Result:  rFID 0.086, PSNR 32.47 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "kl_f2",
        arg,
        batch_size=10,
        total_steps=176_991,
        loss=dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5),
    )
