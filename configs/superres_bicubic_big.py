r"""Super-resolution, 64 x 64 to 256 x 256, of what the bicubic filter made small: LDM-4 big of the paper.

Run:     python train.py --config configs/superres_bicubic_big.py --workdir runs/superres_bicubic_big
Smoke:   python train.py --config configs/superres_bicubic_big.py:runlocal --workdir /tmp/superres_bicubic_big
Source:  Rombach et al. 2022, tables 5 and 11 (552 million parameters with the first stage). Its network was not
         published: here it is superres_bicubic.py's at twice the width, with attention at two levels and the
         resampling blocks of inpainting_big.py; 498,239,683 parameters, and 53,219,486 of vq_f4_noattn, together 551
         million.
Result:  FID 2.4 against the validation set and 4.3 against the training set, IS 174.9, PSNR 24.7, SSIM 0.71 on
         ImageNet. Published, not measured here: `ldm-protocol superres` measures it.
"""

from ml_collections import ConfigDict

from configs import superres_bsr


def get_config(arg: str = "") -> ConfigDict:
    return superres_bsr.make(
        "superres_bicubic_big",
        arg,
        first_stage="vq_f4_noattn",
        model=dict(
            in_channels=6,
            out_channels=3,
            channels=320,
            channel_mult=[1, 2, 2, 4],
            num_res_blocks=2,
            attention_levels=[2, 3],
            head_dim=32,
            resblock_updown=True,
        ),
        optimizer=dict(base_lr=6.4e-5, scale_lr=False),
        data=dict(superres_bsr.BICUBIC),
    )
