r"""Inpainting at 256 x 256 (sampled at 512 x 512), on Places: LDM-4 big.

Run:     python train.py --config configs/inpainting_big.py --config.data.root=PHOTOS --workdir runs/inpainting_big
Smoke:   python train.py --config configs/inpainting_big.py:runlocal --workdir /tmp/inpainting_big
Source:  CompVis/latent-diffusion@a506df5 models/ldm/inpainting_big/config.yaml; 387,245,827 parameters. Batch size and
         steps are those of Rombach et al. 2022, table 15; masks are of LaMa's kind, strokes and rectangles.
Result:  FID 1.50, LPIPS 0.137 on 30,000 crops of Places at 512 x 512 after fine-tuning there, 2.40 and 0.142 before, 50
         DDIM steps, eta 0. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    schedule = dict(
        name="lambda_warmup_cosine",
        warm_up_steps=1000,
        lr_min=1e-4,
        lr_max=0.1,
        lr_start=1e-3,
        max_decay_steps=50_000,
    )
    own = dict(
        image_size=256,
        first_stage="vq_f4_noattn",
        model=dict(
            in_channels=7,
            out_channels=3,
            channels=256,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=2,
            attention_levels=[1, 2, 3],
            num_heads=8,
            resblock_updown=True,
        ),
        conditioning=dict(name="inpaint", convention="original"),
        beta=(0.0015, 0.0205),
        loss_type="l1",
        optimizer=dict(base_lr=1e-6, schedule=schedule),
        batch_size=128,
        total_steps=360_000,
        data=base.folder("imagenet", derive=dict(mask=dict(name="mask", kind="mixed", full=0.0))),
        sampling=dict(num_steps=50, eta=0.0),
    )
    return base.diffusion(name, arg, **(own | changes))


# The network of the smaller models of tables 6 and 7: attention in the middle alone.
SMALL = dict(
    in_channels=7,
    out_channels=3,
    channels=128,
    channel_mult=[1, 4, 8],
    num_res_blocks=2,
    attention_levels=[],
    num_heads=8,
)


def get_config(arg: str = "") -> ConfigDict:
    return make("inpainting_big", arg)
