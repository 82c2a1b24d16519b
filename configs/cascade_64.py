r"""Text to image in pixels, 64 x 64: the base of a cascade, with a learned variance.

Run:     python train.py --config configs/cascade_64.py --config.data.root=PHOTOS --workdir runs/cascade_64
         python sample.py --checkpoint runs/cascade_64 --upscaler runs/cascade_256 --prompt "a lighthouse"
Smoke:   python train.py --config configs/cascade_64.py:runlocal --workdir /tmp/cascade_64
Source:  in the form of Saharia et al. 2022, Imagen (arXiv:2205.11487), with the networks that are here: ADM's UNet
         (configs/adm_64.py) attending to the text transformer of configs/text2img_256.py, which is trained with it.
         Imagen's own has 2 billion parameters and reads T5-XXL; no weights or code of it were published.
Result:  Not measured.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "cascade_64",
        arg,
        image_size=64,
        first_stage="pixels",
        model=dict(
            in_channels=3,
            out_channels=6,
            channels=192,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=3,
            attention_levels=[1, 2, 3],
            head_dim=64,
            transformer_depth=1,
            context_dim=640,
            use_scale_shift_norm=True,
            remat="full",
        ),
        conditioning=base.text_bert(640),
        condition_dropout=0.1,
        beta=(1e-4, 0.02),
        schedule="cosine",
        learned_variance=True,
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=2048,
        total_steps=2_500_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=250, sampler="ddpm", guidance_scale=3.0, clip_denoised=1.0),
    )
