r"""Stable Diffusion's x4 upscaler, trained from 128 x 128 to 512 x 512, with text.

Run:     python train.py --config configs/sd_x4_upscaler.py --config.data.root=PHOTOS \
         --config.conditioning.clip.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd_x4_upscaler
Smoke:   python train.py --config configs/sd_x4_upscaler.py:runlocal --workdir /tmp/sd_x4_upscaler
Source:  Stability-AI/stablediffusion@cf1d67a configs/stable-diffusion/x4-upscaling.yaml and its model card (1,250,000
         steps); 473,398,020
         parameters beside OpenCLIP ViT-H/14's. FOLDER: CLIP's vocab.json and merges.txt, or its tokenizer.json.
         The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
         How it was shrunk in training is not published: bicubic here.
Result:  no figure was published.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sd_x4_upscaler",
        arg,
        image_size=512,
        first_stage="kl_f4_z4",
        scale_factor=0.08333,
        model=dict(
            in_channels=7,
            out_channels=4,
            channels=256,
            channel_mult=[1, 2, 2, 4],
            num_res_blocks=2,
            attention_levels=[1, 2, 3],
            num_heads=8,
            transformer_depth=1,
            context_dim=1024,
            num_classes=1000,
            disable_self_attention=[True, True, True, False],
            use_linear_projection=True,
            remat="full",
        ),
        conditioning=dict(clip=base.text_sd2(), upscale=dict(max_noise_level=350)),
        condition_dropout=0.1,
        freeze=("conditioner/clip",),
        beta=(1e-4, 0.02),
        prediction_type="v",
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=2048,
        total_steps=1_250_000,
        data=base.folder(
            "imagenet",
            derive=dict(low_res=dict(name="low_res", factor=4), noise_level=dict(name="integer", below=351)),
        ),
        sampling=dict(num_steps=50, guidance_scale=9.0),
    )
