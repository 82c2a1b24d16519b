r"""Faces of CelebA-HQ, 256 x 256, in the latents of a VQ autoencoder of 32 channels: LDM-32 of the compression study.

Run:     python train.py --config configs/celebahq_ldm32.py --config.data.root=PHOTOS --workdir runs/celebahq_ldm32
Smoke:   python train.py --config configs/celebahq_ldm32.py:runlocal --workdir /tmp/celebahq_ldm32
Source:  Rombach et al. 2022, table 14 (258 million parameters) and figure 7; 257,862,176 parameters. The first stage
         is imagenet_ldm32.py's. 500,000 steps at a rate of 0.00013.
Result:  one of the lines of figure 7, FID over samples per second at 10 to 200 DDIM steps; not measured here.
         `python -m ldm_jax.commands.compression` draws that figure in small (docs/paper.md).
"""

from ml_collections import ConfigDict

from configs import celebahq_ldm4


def get_config(arg: str = "") -> ConfigDict:
    return celebahq_ldm4.make(
        "celebahq_ldm32",
        arg,
        first_stage="vq_f32_d32",
        model=dict(
            in_channels=32,
            out_channels=32,
            channels=256,
            channel_mult=[1, 2, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2],
            head_dim=32,
        ),
        optimizer=dict(base_lr=0.00013, scale_lr=False),
        batch_size=128,
        total_steps=500_000,
        sampling=dict(num_steps=200),
    )
