r"""Faces of FFHQ, 256 x 256, unconditional: LDM-4.

Run:     python train.py --config configs/ffhq_ldm4.py --config.data.root=PHOTOS --workdir runs/ffhq_ldm4
Smoke:   python train.py --config configs/ffhq_ldm4.py:runlocal --workdir /tmp/ffhq_ldm4
Source:  CompVis/latent-diffusion@a506df5 models/ldm/ffhq256/config.yaml, Rombach et al. 2022, table 12;
         274,056,163 parameters beside the first stage's.
Result:  FID 4.98 of 50,000 samples against the training set, 200 DDIM steps, eta 1. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import celebahq_ldm4


def get_config(arg: str = "") -> ConfigDict:
    return celebahq_ldm4.make(
        "ffhq_ldm4", arg, batch_size=42, total_steps=635_000, sampling=dict(num_steps=200, eta=1.0)
    )
