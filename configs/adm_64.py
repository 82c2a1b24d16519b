r"""ImageNet, 64 x 64 pixels, by class, with a learned variance: ADM without a first stage.

Run:     python train.py --config configs/adm_64.py --config.data.root=IMAGENET --workdir runs/adm_64
Smoke:   python train.py --config configs/adm_64.py:runlocal --workdir /tmp/adm_64
Source:  Dhariwal & Nichol 2021 (arXiv:2105.05233), tables 4 and 11 and appendix I; openai/guided-diffusion README.md,
         whose flags are attention at 32, 16 and 8, cosine schedule of 1000 steps, learn_sigma, dropout 0.1. 295,904,454
         parameters. No class is dropped in its training: it is guided by a classifier of noised pictures.
Result:  FID 2.61 of 50,000 samples, 250 steps of its ancestral sampler, without guidance. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "adm_64",
        arg,
        image_size=64,
        first_stage="pixels",
        model=dict(
            in_channels=3,
            out_channels=6,
            channels=192,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=3,
            attention_levels=[1, 2, 3],
            head_dim=64,
            num_classes=1000,
            use_scale_shift_norm=True,
            resblock_updown=True,
            new_attention_order=True,
            dropout=0.1,
            remat="full",
        ),
        conditioning=dict(name="class_label", num_classes=1000, mechanism="vector", null_class=False),
        beta=(1e-4, 0.02),
        schedule="cosine",
        learned_variance=True,
        optimizer=dict(base_lr=3e-4, scale_lr=False),
        batch_size=2048,
        total_steps=540_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=250, sampler="ddpm", clip_denoised=1.0),
    )
