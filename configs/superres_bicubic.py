r"""Super-resolution, 64 x 64 to 256 x 256, of what the bicubic filter made small: LDM-4 of the paper.

Run:     python train.py --config configs/superres_bicubic.py --workdir runs/superres_bicubic
Smoke:   python train.py --config configs/superres_bicubic.py:runlocal --workdir /tmp/superres_bicubic
Source:  Rombach et al. 2022, tables 5, 11 and 15 (169 million parameters, which are those of the first stage as well);
         113,622,563 parameters, the network of superres_bsr.py, and 55,322,782 of vq_f4.
Result:  FID 2.8 against the validation set and 4.8 against the training set, IS 166.3, PSNR 24.4, SSIM 0.69 on
         ImageNet, 100 DDIM steps; after 15 more epochs FID 2.6 and 4.6. Published, not measured here:
         `ldm-protocol superres` measures it.
"""

from ml_collections import ConfigDict

from configs import superres_bsr


def get_config(arg: str = "") -> ConfigDict:
    return superres_bsr.make(
        "superres_bicubic",
        arg,
        optimizer=dict(base_lr=6.4e-5, scale_lr=False),
        data=dict(superres_bsr.BICUBIC),
    )
