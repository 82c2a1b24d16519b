r"""Text to image at 256 x 256, on LAION-400M: LDM-KL-8, 1.45 billion parameters.

Run:     python train.py --config configs/text2img_1p4b.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FILE \
         --workdir runs/text2img_1p4b
Smoke:   python train.py --config configs/text2img_1p4b.py:runlocal --workdir /tmp/text2img_1p4b
Source:  CompVis/latent-diffusion@a506df5 configs/latent-diffusion/txt2img-1p4B-eval.yaml, Rombach et al. 2022, table
         15; 872,300,484 parameters, and 542,895,360 of the transformer over the text (581,994,042 there, with a
         projection that is never
         used). PHOTOS: pictures with captions. FILE: BERT's uncased vocab.txt. How often the text is dropped in
         training is
         not published: 0.1 stands here.
Result:  FID 12.63, IS 30.29 on 30,000 captions of COCO at scale 1.5, 250 DDIM steps; 23.31, IS 20.03 without guidance.
         Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "text2img_1p4b",
        arg,
        image_size=256,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD, num_heads=8, context_dim=1280),
        conditioning=base.text_bert(1280),
        condition_dropout=0.1,
        beta=base.SD_BETA,
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=680,
        total_steps=390_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=250, guidance_scale=1.5),
    )
