r"""Text to image at 256 x 256, on Conceptual Captions: LDM-4.

Run:     python train.py --config configs/text2img_256.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FILE \
         --workdir runs/text2img_256
Smoke:   python train.py --config configs/text2img_256.py:runlocal --workdir /tmp/text2img_256
Source:  CompVis/latent-diffusion@a506df5 models/ldm/text2img256/config.yaml; 403,623,939 parameters, and 166,590,080 of
         the transformer over the text (186,154,682 there, with a projection to the vocabulary that is never used).
         PHOTOS: pictures with captions (data/folder.py). FILE: BERT's uncased vocab.txt. How many steps is not
         published.
Result:  FID 16.79, IS 13.89, 100 DDIM steps, eta 0 (the original's README). Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "text2img_256",
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
            head_dim=32,
            transformer_depth=1,
            context_dim=640,
        ),
        conditioning=base.text_bert(640),
        beta=(0.0015, 0.0195),
        optimizer=dict(base_lr=2e-6),
        batch_size=28,
        total_steps=1_000_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=100, eta=0.0),
    )
