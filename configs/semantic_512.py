r"""Semantic map to landscape at 512 x 512: LDM-4.

Run:     python train.py --config configs/semantic_512.py --config.data.root=PHOTOS --workdir runs/semantic_512
Smoke:   python train.py --config configs/semantic_512.py:runlocal --workdir /tmp/semantic_512
Source:  CompVis/latent-diffusion@a506df5 models/ldm/semantic_synthesis512/config.yaml, Rombach et al. 2022, table 15;
         215,229,315 parameters, and 546 of the rescaler. Examples need a field `semantic_mask`, a class of 182 for
         every pixel, which a folder does not give, cut like the image.
Result:  no figure was published.
"""

from ml_collections import ConfigDict

from configs import semantic_256


def get_config(arg: str = "") -> ConfigDict:
    return semantic_256.make("semantic_512", arg, image_size=512, batch_size=8)
