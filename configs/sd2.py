r"""Stable Diffusion 2 (base): text to image at 512 x 512.

Run:     python train.py --config configs/sd2.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd2
Smoke:   python train.py --config configs/sd2.py:runlocal --workdir /tmp/sd2
Source:  Stability-AI/stablediffusion@cf1d67a configs/stable-diffusion/v2-inference.yaml and its model card (850,000
         steps at 512 x 512);
         865,910,724 parameters beside OpenCLIP ViT-H/14's. FOLDER: CLIP's vocab.json and merges.txt, or its
         tokenizer.json. The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
Result:  curves of FID and CLIP score over scales 1.5 to 8 on 10,000 captions of COCO, 50 DDIM steps; no single figure.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=512,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD2),
        conditioning=dict(base.text_sd2(), name="clip"),
        condition_dropout=0.1,
        freeze=("conditioner",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=1e-4, scale_lr=False, schedule=base.warm_up(10_000)),
        batch_size=2048,
        total_steps=850_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=50, guidance_scale=9.0),
    )
    return base.diffusion(name, arg, **(own | changes))


def get_config(arg: str = "") -> ConfigDict:
    return make("sd2", arg)
