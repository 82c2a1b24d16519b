r"""Inpainting at 256 x 256, on Places: LDM-1, the baseline on pixels.

Run:     python train.py --config configs/inpainting_ldm1.py --config.data.root=PHOTOS --workdir runs/inpainting_ldm1
Smoke:   python train.py --config configs/inpainting_ldm1.py:runlocal --workdir /tmp/inpainting_ldm1
Source:  Rombach et al. 2022, table 6. Its network was not published: here it is that of inpainting_vq4.py with two
         levels before it, so that pixels come to it as latents do there; 220,517,891 parameters.
Result:  table 6, one A100: 0.11 training and 0.26 (256 x 256), 0.07 (512 x 512) sampled pictures a second, 20.66 hours
         an epoch, FID 24.74 of 2,000 pictures after six. Published, not measured here;
         `python benchmarks/inpainting_throughput.py` prints table 6 of this machine.
"""

from ml_collections import ConfigDict

from configs import inpainting_big


def get_config(arg: str = "") -> ConfigDict:
    return inpainting_big.make(
        "inpainting_ldm1",
        arg,
        first_stage="pixels",
        model=dict(inpainting_big.SMALL, channel_mult=[1, 1, 1, 4, 8]),
    )
