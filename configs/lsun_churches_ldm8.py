r"""Churches of LSUN, 256 x 256, unconditional: LDM-8, on a KL first stage.

Run:     python train.py --config configs/lsun_churches_ldm8.py --config.data.root=PHOTOS \
         --workdir runs/lsun_churches_ldm8
Smoke:   python train.py --config configs/lsun_churches_ldm8.py:runlocal --workdir /tmp/lsun_churches_ldm8
Source:  CompVis/latent-diffusion@a506df5 models/ldm/lsun_churches256/config.yaml, Rombach et al. 2022, table 12;
         294,966,916 parameters beside the first stage's. The scale of the latents is measured over the data set, where
         the original takes it from its first batch.
Result:  FID 4.02 of 50,000 samples against the training set, 200 DDIM steps, eta 0. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "lsun_churches_ldm8",
        arg,
        image_size=256,
        first_stage="kl_f8",
        scale_factor=None,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=192,
            channel_mult=[1, 2, 2, 4, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2, 3],
            num_heads=8,
            use_scale_shift_norm=True,
            resblock_updown=True,
        ),
        beta=(0.0015, 0.0155),
        loss_type="l1",
        optimizer=dict(base_lr=5e-5, scale_lr=False, schedule=base.warm_up(10_000)),
        batch_size=96,
        total_steps=500_000,
        data=base.folder("lsun"),
        sampling=dict(num_steps=200, eta=0.0),
    )
