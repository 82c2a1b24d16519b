r"""ImageNet, 256 x 256, by class, in the latents of vq_f16: LDM-16 of the compression study.

Run:     python train.py --config configs/imagenet_ldm16.py --workdir runs/imagenet_ldm16
Smoke:   python train.py --config configs/imagenet_ldm16.py:runlocal --workdir /tmp/imagenet_ldm16
Source:  Rombach et al. 2022, table 13 (395 million parameters) and figure 6; 395,002,632 parameters, and 512,000 of
         the classes. 2 million steps at a rate of 4.5e-05.
Result:  one of the lines of figure 6, 100 DDIM steps; not measured here. `python -m ldm_jax.commands.compression`
         draws that figure in small (docs/paper.md).
"""

from ml_collections import ConfigDict

from configs import imagenet_ldm8


def get_config(arg: str = "") -> ConfigDict:
    return imagenet_ldm8.make(
        "imagenet_ldm16",
        arg,
        first_stage="vq_f16",
        model=dict(
            in_channels=8,
            out_channels=8,
            channels=256,
            channel_mult=[1, 2, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2],
            num_heads=1,
            transformer_depth=1,
            context_dim=512,
        ),
        optimizer=dict(base_lr=4.5e-05, scale_lr=False),
        batch_size=112,
        total_steps=2_000_000,
        sampling=dict(num_steps=100),
    )
