r"""SDXL-Turbo: the network of SDXL's base, in one to four steps at 512 x 512. It is for sampling: adversarial
distillation is not in this repository.

Run:     python sample.py --checkpoint FILE --config configs/sdxl_turbo.py --steps 1 --guidance_scale 1 \
         --sampler euler_ancestral --spacing trailing
Smoke:   python train.py --config configs/sdxl_turbo.py:runlocal --workdir /tmp/sdxl_turbo
         trains the plain loop on the same structure, in small, and samples from it as Turbo does.
Source:  Sauer et al. 2023 (arXiv:2311.17042); 2,567,463,684 parameters beside the text encoders'.
Result:  judged by users in the paper's figures; sampled in 1 to 4 steps of Euler ancestral without guidance.
"""

from ml_collections import ConfigDict

from configs import base, sdxl_base


def get_config(arg: str = "") -> ConfigDict:
    return sdxl_base.make("sdxl_turbo", arg, image_size=512, sampling=base.TURBO_SAMPLING)
