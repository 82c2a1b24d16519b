r"""From 64 x 64 to 256 x 256 pixels with text: the upscaler of a cascade, with noise augmentation.

Run:     python train.py --config configs/cascade_256.py --config.data.root=PHOTOS --workdir runs/cascade_256
Smoke:   python train.py --config configs/cascade_256.py:runlocal --workdir /tmp/cascade_256
Source:  in the form of Saharia et al. 2022, Imagen (arXiv:2205.11487), section 2.3 and appendix A.1: the small picture
         is enlarged and noised by a level drawn from all of a cosine schedule, which the network is told, as it is the
         text. Its Efficient U-Net of 600 million parameters is not published; this is the UNet that is here.
Result:  Not measured.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "cascade_256",
        arg,
        image_size=256,
        first_stage="pixels",
        model=dict(
            in_channels=6,
            out_channels=3,
            channels=128,
            channel_mult=[1, 2, 4, 4, 8],
            num_res_blocks=2,
            attention_levels=[4],
            head_dim=64,
            transformer_depth=1,
            context_dim=640,
            num_classes=1000,
            use_scale_shift_norm=True,
            remat="full",
        ),
        conditioning=dict(
            text={k: v for k, v in base.text_bert(640).items() if k != "name"},
            upscale=dict(max_noise_level=999, noise_schedule="cosine", enlarge=4),
        ),
        condition_dropout=0.1,
        beta=(1e-4, 0.02),
        prediction_type="v",
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=2048,
        total_steps=500_000,
        data=base.folder(
            "imagenet",
            derive=dict(low_res=dict(name="low_res", factor=4), noise_level=dict(name="integer", below=1000)),
        ),
        sampling=dict(num_steps=50, guidance_scale=3.0, clip_denoised=1.0),
    )
