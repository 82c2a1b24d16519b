r"""Stable Diffusion 2, text and depth to image at 512 x 512.

Run:     python train.py --config configs/sd2_depth.py --config.data.root=PHOTOS \
         --config.conditioning.clip.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd2_depth
Smoke:   python train.py --config configs/sd2_depth.py:runlocal --workdir /tmp/sd2_depth
Source:  Stability-AI/stablediffusion@cf1d67a configs/stable-diffusion/v2-midas-inference.yaml and its model card
         (200,000 steps from the base model); 865,913,604 parameters beside OpenCLIP ViT-H/14's. FOLDER: CLIP's
         vocab.json and merges.txt, or its tokenizer.json. The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
         Examples need a field `depth`, MiDaS's disparity, which a folder does not give.
Result:  no figure was published.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sd2_depth",
        arg,
        image_size=512,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD2, in_channels=5),
        conditioning=dict(clip=base.text_sd2(), depth={}),
        condition_dropout=0.1,
        freeze=("conditioner/clip",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=5e-7, scale_lr=False),
        batch_size=2048,
        total_steps=200_000,
        data=base.folder("none"),
        sampling=dict(num_steps=50, guidance_scale=9.0),
    )
