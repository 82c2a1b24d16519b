r"""SD-Turbo: the network of Stable Diffusion 2, in one to four steps at 512 x 512. It is for sampling;
configs/adversarial.py distills one.

Run:     python sample.py --checkpoint FILE --config configs/sd_turbo.py --steps 1 --guidance_scale 1 \
         --sampler euler_ancestral --spacing trailing
Smoke:   python train.py --config configs/sd_turbo.py:runlocal --workdir /tmp/sd_turbo
         trains the plain loop on the same structure, in small, and samples from it as Turbo does.
Source:  Sauer et al. 2023 (arXiv:2311.17042); 865,910,724 parameters beside OpenCLIP ViT-H/14's.
Result:  judged by users in the paper's figures; sampled in 1 to 4 steps of Euler ancestral without guidance.
"""

from ml_collections import ConfigDict

from configs import base, sd2


def get_config(arg: str = "") -> ConfigDict:
    return sd2.make("sd_turbo", arg, sampling=base.TURBO_SAMPLING)
