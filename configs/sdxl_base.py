r"""Stable Diffusion XL, base: text to image at 1024 x 1024.

Run:     python train.py --config configs/sdxl_base.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FOLDER \
         --workdir runs/sdxl_base
Smoke:   python train.py --config configs/sdxl_base.py:runlocal --workdir /tmp/sdxl_base
Source:  Stability-AI/generative-models@0ad7de9 configs/inference/sd_xl_base.yaml; Podell et al. 2023
         (arXiv:2307.01952); 2,567,463,684 parameters beside the
         text encoders'. FOLDER: CLIP's vocab.json and merges.txt, or its tokenizer.json.
         The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
         The file is for inference: learning rate, batch size and steps are not published.
Result:  preferred by users over Stable Diffusion 1.5 and 2.1 (figure 1 of the paper); no figure of its own.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=1024,
        first_stage="kl_f8",
        scale_factor=0.13025,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=320,
            channel_mult=[1, 2, 4],
            num_res_blocks=2,
            attention_levels=[1, 2],
            head_dim=64,
            transformer_depth=[1, 2, 10],
            context_dim=2048,
            vector_dim=2816,
            use_linear_projection=True,
            remat="full",
        ),
        conditioning=dict(base.text_sdxl(), name="sdxl"),
        condition_dropout=0.1,
        freeze=("conditioner",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=1e-5, scale_lr=False),
        batch_size=2048,
        total_steps=600_000,
        data=base.folder("imagenet", aspect_buckets=0),
        sampling=dict(num_steps=50, guidance_scale=5.0, sampler="dpm_solver", spacing="sgm"),
    )
    return base.diffusion(name, arg, **(own | changes))


def get_config(arg: str = "") -> ConfigDict:
    return make("sdxl_base", arg)
