r"""A first stage: VQ, f = 2, 2048 codes: 256 x 256 -> 128 x 128 x 2.

Run:     python train.py --config configs/vq_f2.py --config.data.root=PHOTOS --workdir runs/vq_f2
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f2.py:runlocal --workdir /tmp/vq_f2
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of vq_f4, its nearest relative, whose first two levels it has. 13,313,937
         parameters.
Result:  rFID 0.16, PSNR 30.85 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f2",
        arg,
        batch_size=8,
        total_steps=533_066,
        loss=dict(codebook_weight=1.0, disc_start=0, disc_weight=0.75),
    )
