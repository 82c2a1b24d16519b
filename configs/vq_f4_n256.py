r"""A first stage: VQ, f = 4, 256 codes: 256 x 256 -> 64 x 64 x 3.

Run:     python train.py --config configs/vq_f4_n256.py --config.data.root=PHOTOS --workdir runs/vq_f4_n256
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f4_n256.py:runlocal --workdir /tmp/vq_f4_n256
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of vq_f4, its nearest relative. 55,298,974 parameters.
Result:  rFID 0.47, PSNR 26.43 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f4_n256",
        arg,
        batch_size=8,
        total_steps=533_066,
        loss=dict(codebook_weight=1.0, disc_start=0, disc_weight=0.75),
    )
