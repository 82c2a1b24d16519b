r"""Stable unCLIP: Stable Diffusion 2.1 told CLIP's embedding of a picture beside its prompt, 768 x 768.

Run:     python train.py --config configs/sd2_unclip.py --config.data.root=PHOTOS \
         --config.conditioning.clip.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd2_unclip
Smoke:   python train.py --config configs/sd2_unclip.py:runlocal --workdir /tmp/sd2_unclip
Source:  Stability-AI/stablediffusion@cf1d67a configs/stable-diffusion/v2-1-stable-unclip-h-inference.yaml; 870,173,124
         parameters beside OpenCLIP ViT-H/14's. FOLDER: CLIP's vocab.json and merges.txt, or its tokenizer.json. The
         text encoder is not trained, so name a converted checkpoint that has its weights, and the embeddings' mean and
         deviation, with --config.init_from. Steps and batch are not published.
         Examples need a field `image_embedding`, OpenCLIP ViT-H/14's of the picture, which a folder does not give.
Result:  no figure was published.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sd2_unclip",
        arg,
        image_size=768,
        first_stage="kl_f8",
        scale_factor=0.18215,
        model=dict(base.SD2, vector_dim=2048),
        conditioning=dict(clip=base.text_sd2(), unclip=dict(width=1024)),
        condition_dropout=0.1,
        freeze=("conditioner/clip", "conditioner/unclip"),
        beta=base.SD_BETA,
        prediction_type="v",
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=2048,
        total_steps=200_000,
        data=base.folder("none", derive=dict(noise_level=dict(name="integer", below=1000))),
        sampling=dict(num_steps=20, guidance_scale=10.0),
    )
