r"""Super-resolution, 64 x 64 to 256 x 256, on pixels: the baseline of the paper.

Run:     python train.py --config configs/superres_pixel.py --workdir runs/superres_pixel
Smoke:   python train.py --config configs/superres_pixel.py:runlocal --workdir /tmp/superres_pixel
Source:  Rombach et al. 2022, tables 4 and 11 ("Pixel-DM"). Its network was not published: here it is
         superres_bicubic.py's with two levels before it, so that pixels come to it as latents do there; 121,880,483
         parameters. It sees the small picture enlarged by the bicubic filter.
Result:  FID 5.1 against the validation set and 7.1 against the training set; in 29.4 % of the pairs it was preferred
         to LDM-4. Published, not measured here: `ldm-protocol superres` measures it.
"""

from ml_collections import ConfigDict

from configs import superres_bsr


def get_config(arg: str = "") -> ConfigDict:
    return superres_bsr.make(
        "superres_pixel",
        arg,
        first_stage="pixels",
        model=dict(
            in_channels=6,
            out_channels=3,
            channels=160,
            channel_mult=[1, 1, 1, 2, 2, 4],
            num_res_blocks=2,
            attention_levels=[5],
            head_dim=32,
        ),
        conditioning=dict(name="superres", enlarge=4),
        optimizer=dict(base_lr=6.4e-5, scale_lr=False),
        data=dict(superres_bsr.BICUBIC),
    )
