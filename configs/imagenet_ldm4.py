r"""ImageNet, 256 x 256, by class, guided: LDM-4-G, the original's cin256-v2.

Run:     python train.py --config configs/imagenet_ldm4.py --workdir runs/imagenet_ldm4
Smoke:   python train.py --config configs/imagenet_ldm4.py:runlocal --workdir /tmp/imagenet_ldm4
Source:  CompVis/latent-diffusion@a506df5 configs/latent-diffusion/cin256-v2.yaml, Rombach et al. 2022, table 13 and
         section 4.3; 400,920,579 parameters, and 512,512 of the classes with the null class. How often the class is
         dropped in training is
         not published: 0.1 stands here.
Result:  FID 3.60, IS 247.67 of 50,000 samples at scale 1.5, 250 DDIM steps, after 178,000 steps; 10.56, IS 103.49
         without guidance. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "imagenet_ldm4",
        arg,
        image_size=256,
        first_stage="vq_f4",
        model=dict(
            in_channels=3,
            out_channels=3,
            channels=192,
            channel_mult=[1, 2, 3, 5],
            num_res_blocks=2,
            attention_levels=[1, 2, 3],
            num_heads=1,
            transformer_depth=1,
            context_dim=512,
        ),
        conditioning=dict(name="class_label", num_classes=1000, width=512),
        condition_dropout=0.1,
        beta=(0.0015, 0.0195),
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=1200,
        total_steps=178_000,
        data=dict(base.IMAGENET),
        sampling=dict(num_steps=250, guidance_scale=1.5),
    )
