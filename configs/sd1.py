r"""Stable Diffusion 1: text to image at 512 x 512.

Run:     python train.py --config configs/sd1.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd1
Smoke:   python train.py --config configs/sd1.py:runlocal --workdir /tmp/sd1
Source:  CompVis/stable-diffusion@21f890f configs/stable-diffusion/v1-inference.yaml and its model card (v1-5: 595,000
         steps from v1-2); 859,520,964 parameters, and 123,060,480 of CLIP ViT-L/14. FOLDER: CLIP's vocab.json and
         merges.txt, or its tokenizer.json. The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
Result:  curves of FID and CLIP score over scales 1.5 to 8 on 10,000 captions of COCO, 50 PLMS steps; no single figure.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sd1",
        arg,
        image_size=512,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD, num_heads=8, context_dim=768),
        conditioning=dict(base.text_sd1(), name="clip"),
        condition_dropout=0.1,
        freeze=("conditioner",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=1e-4, scale_lr=False, schedule=base.warm_up(10_000)),
        batch_size=2048,
        total_steps=595_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=50, guidance_scale=7.5, sampler="plms"),
    )
