r"""A first stage: VQ, f = 32, 16384 codes: 256 x 256 -> 8 x 8 x 16.

Run:     python train.py --config configs/vq_f32.py --config.data.root=PHOTOS --workdir runs/vq_f32
         with the perceptual loss where its weights are at hand (README, Weights of others), else the log says so.
Smoke:   python train.py --config configs/vq_f32.py:runlocal --workdir /tmp/vq_f32
Source:  Rombach et al. 2022, table 8. Neither weights nor a configuration were released: what the table does not say is
         that of kl_f32, and of vq_f16 for its loss, its nearest relative. 103,384,755 parameters.
Result:  rFID 31.83, PSNR 17.45 on the 50,000 validation images of ImageNet at 256 x 256 (table 8). Published, not
         measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.first_stage(
        "vq_f32",
        arg,
        batch_size=14,
        total_steps=1_101_166,
        loss=dict(codebook_weight=1.0, disc_start=250_001, disc_weight=0.75),
        disc_layers=2,
    )
