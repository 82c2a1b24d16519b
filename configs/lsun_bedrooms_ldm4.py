r"""Bedrooms of LSUN, 256 x 256, unconditional: LDM-4.

Run:     python train.py --config configs/lsun_bedrooms_ldm4.py --config.data.root=PHOTOS \
         --workdir runs/lsun_bedrooms_ldm4
Smoke:   python train.py --config configs/lsun_bedrooms_ldm4.py:runlocal --workdir /tmp/lsun_bedrooms_ldm4
Source:  CompVis/latent-diffusion@a506df5 models/ldm/lsun_beds256/config.yaml, Rombach et al. 2022, table 12;
         274,056,163 parameters beside the first stage's.
Result:  FID 2.95 of 50,000 samples against the training set, 200 DDIM steps, eta 1. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base, celebahq_ldm4


def get_config(arg: str = "") -> ConfigDict:
    return celebahq_ldm4.make(
        "lsun_bedrooms_ldm4",
        arg,
        total_steps=1_900_000,
        data=base.folder("lsun"),
        sampling=dict(num_steps=200, eta=1.0),
    )
