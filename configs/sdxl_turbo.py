r"""SDXL-Turbo: the network of SDXL's base, in one to four steps at 512 x 512. It is for sampling: adversarial distillation is not in this repository.

Run:     python sample.py --checkpoint FILE --config configs/sdxl_turbo.py --steps 1 --guidance_scale 1 --sampler euler_ancestral --spacing trailing
Smoke:   python train.py --config configs/sdxl_turbo.py:runlocal --workdir /tmp/sdxl_turbo
         trains the plain loop on the same structure, in small, and samples from it as Turbo does.
Source:  Sauer et al. 2023 (arXiv:2311.17042); 2,567,463,684 parameters beside the text encoders'.
Result:  judged by users in the paper's figures; sampled in 1 to 4 steps of Euler ancestral without guidance.
"""

from ml_collections import ConfigDict

from configs import sdxl_base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/sdxl_turbo.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = sdxl_base.get_config(arg)
    c.image_size = min(c.image_size, 512)
    c.sampling = dict(num_steps=1, guidance_scale=1.0, sampler="euler_ancestral", spacing="trailing")
    return c
