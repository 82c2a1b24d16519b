r"""ImageNet, 256 x 256, by class: LDM-8, the original's cin256.

Run:     python train.py --config configs/imagenet_ldm8.py --workdir runs/imagenet_ldm8
Smoke:   python train.py --config configs/imagenet_ldm8.py:runlocal --workdir /tmp/imagenet_ldm8
Source:  CompVis/latent-diffusion@a506df5 configs/latent-diffusion/cin-ldm-vq-f8.yaml; 394,984,196 parameters, and
         512,000 of the
         classes. It has no null class: the original guides it with a classifier on noisy latents.
Result:  FID 17.41, IS 72.92 of 50,000 samples, 200 DDIM steps, after 2.9 million steps; 15.51, IS 79.03 after 4.8
         million. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=256,
        first_stage="vq_f8",
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=256,
            channel_mult=[1, 2, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2],
            head_dim=32,
            transformer_depth=1,
            context_dim=512,
        ),
        conditioning=dict(name="class_label", num_classes=1000, width=512, null_class=False),
        beta=(0.0015, 0.0195),
        optimizer=dict(base_lr=1e-6),
        batch_size=64,
        total_steps=4_800_000,
        data=dict(base.IMAGENET),
        sampling=dict(num_steps=200),
    )
    return base.diffusion(name, arg, **(own | changes))


def get_config(arg: str = "") -> ConfigDict:
    return make("imagenet_ldm8", arg)
