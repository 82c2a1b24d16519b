r"""Faces of FFHQ, 256 x 256, unconditional: LDM-4.

Run:     python train.py --config configs/ffhq_ldm4.py --config.data.root=PHOTOS --workdir runs/ffhq_ldm4
Smoke:   python train.py --config configs/ffhq_ldm4.py:runlocal --workdir /tmp/ffhq_ldm4
Source:  CompVis/latent-diffusion@a506df5 models/ldm/ffhq256/config.yaml, Rombach et al. 2022, table 12;
         274,056,163 parameters beside the first stage's.
Result:  FID 4.98 of 50,000 samples against the training set, 200 DDIM steps, eta 1. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "ffhq_ldm4",
        arg,
        image_size=256,
        first_stage="vq_f4",
        model=dict(
            in_channels=3,
            out_channels=3,
            channels=224,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=2,
            attention_levels=[1, 2, 3],
            head_dim=32,
        ),
        beta=(0.0015, 0.0195),
        optimizer=dict(base_lr=2e-6),
        batch_size=42,
        total_steps=635_000,
        data=base.folder("faces"),
        sampling=dict(num_steps=200, eta=1.0),
    )
