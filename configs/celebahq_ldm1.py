r"""Faces of CelebA-HQ, 256 x 256, unconditional, on pixels: LDM-1 of the compression study.

Run:     python train.py --config configs/celebahq_ldm1.py --config.data.root=PHOTOS --workdir runs/celebahq_ldm1
Smoke:   python train.py --config configs/celebahq_ldm1.py:runlocal --workdir /tmp/celebahq_ldm1
Source:  Rombach et al. 2022, table 14 (270 million parameters) and figure 7; 270,458,115 parameters. 500,000 steps at
         a rate of 9e-05.
Result:  one of the lines of figure 7, FID over samples per second at 10 to 200 DDIM steps; not measured here.
         `python -m ldm_jax.commands.compression` draws that figure in small (docs/paper.md).
"""

from ml_collections import ConfigDict

from configs import celebahq_ldm4


def get_config(arg: str = "") -> ConfigDict:
    return celebahq_ldm4.make(
        "celebahq_ldm1",
        arg,
        first_stage="pixels",
        model=dict(
            in_channels=3,
            out_channels=3,
            channels=192,
            channel_mult=[1, 1, 2, 2, 4, 4],
            num_res_blocks=2,
            attention_levels=[3, 4, 5],
            head_dim=32,
        ),
        optimizer=dict(base_lr=9e-05, scale_lr=False),
        batch_size=9,
        total_steps=500_000,
        sampling=dict(num_steps=200),
    )
