r"""Stable Diffusion 1, inpainting at 512 x 512.

Run:     python train.py --config configs/sd1_inpainting.py --config.data.root=PHOTOS \
         --config.conditioning.clip.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd1_inpainting
Smoke:   python train.py --config configs/sd1_inpainting.py:runlocal --workdir /tmp/sd1_inpainting
Source:  runwayml/stable-diffusion@08ab4d3 configs/stable-diffusion/v1-inpainting-inference.yaml and its model card
         (440,000 steps from v1-2); 859,535,364 parameters, and 123,060,480 of CLIP ViT-L/14. FOLDER: CLIP's vocab.json
         and merges.txt, or its tokenizer.json. The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
         Everything is masked a quarter of the time; its other masks are not published: strokes and rectangles here, as
         LaMa's.
Result:  its model card has figures on Places at 512 x 512, which were not at hand to copy or to measure here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sd1_inpainting",
        arg,
        image_size=512,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD, in_channels=9, num_heads=8, context_dim=768),
        conditioning=dict(clip=base.text_sd1(), inpaint=dict(convention="stable_diffusion")),
        condition_dropout=0.1,
        freeze=("conditioner/clip",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=7.5e-5, scale_lr=False, schedule=base.warm_up(2500)),
        batch_size=2048,
        total_steps=440_000,
        data=base.folder("imagenet", derive=dict(mask=dict(name="mask", kind="mixed", full=0.25))),
        sampling=dict(num_steps=50, guidance_scale=7.5),
    )
