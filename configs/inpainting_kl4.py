r"""Inpainting at 256 x 256, on Places: LDM-4, KL.

Run:     python train.py --config configs/inpainting_kl4.py --config.data.root=PHOTOS --workdir runs/inpainting_kl4
Smoke:   python train.py --config configs/inpainting_kl4.py:runlocal --workdir /tmp/inpainting_kl4
Source:  Rombach et al. 2022, tables 6, 7 and 15 (215 million parameters); 215,230,467 parameters. What they do not say
         is inpainting_big.py's.
Result:  table 6, one A100: 0.32 training and 0.97 (256 x 256), 0.34 (512 x 512) sampled pictures a second, 7.66 hours
         an epoch, FID 15.21 of 2,000 pictures after six. Published, not measured here;
         `python benchmarks/inpainting_throughput.py` prints table 6 of this machine.
"""

from ml_collections import ConfigDict

from configs import inpainting_big


def get_config(arg: str = "") -> ConfigDict:
    return inpainting_big.make(
        "inpainting_kl4",
        arg,
        first_stage="kl_f4",
        model=dict(inpainting_big.SMALL),
        scale_factor=None,  # of KL latents, measured over the data
    )
