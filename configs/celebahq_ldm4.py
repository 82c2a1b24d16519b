r"""Faces of CelebA-HQ, 256 x 256, unconditional: LDM-4.

Run:     python train.py --config configs/celebahq_ldm4.py --config.data.root=PHOTOS --workdir runs/celebahq_ldm4
Smoke:   python train.py --config configs/celebahq_ldm4.py:runlocal --workdir /tmp/celebahq_ldm4
Source:  CompVis/latent-diffusion@a506df5 models/ldm/celeba256/config.yaml, Rombach et al. 2022, table 12;
         274,056,163 parameters beside the first stage's.
Result:  FID 5.11 of 50,000 samples against the training set, 500 DDIM steps, eta 0. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
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
        batch_size=48,
        total_steps=410_000,
        data=base.folder("faces"),
        sampling=dict(num_steps=500, eta=0.0),
    )
    return base.diffusion(name, arg, **(own | changes))


def get_config(arg: str = "") -> ConfigDict:
    return make("celebahq_ldm4", arg)
