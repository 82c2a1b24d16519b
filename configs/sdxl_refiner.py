r"""Stable Diffusion XL, refiner: the last steps at 1024 x 1024.

Run:     python train.py --config configs/sdxl_refiner.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FOLDER \
         --workdir runs/sdxl_refiner
Smoke:   python train.py --config configs/sdxl_refiner.py:runlocal --workdir /tmp/sdxl_refiner
Source:  Stability-AI/generative-models@0ad7de9 configs/inference/sd_xl_refiner.yaml; Podell et al. 2023
         (arXiv:2307.01952); 2,259,526,660 parameters beside the
         text encoders'. FOLDER: CLIP's vocab.json and merges.txt, or its tokenizer.json.
         The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
         The file is for inference: learning rate, batch size and steps are not published.
Result:  base and refiner together were preferred by users over the base alone (figure 1 of the paper).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "sdxl_refiner",
        arg,
        image_size=1024,
        first_stage="kl_f8",
        scale_factor=0.13025,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=384,
            channel_mult=[1, 2, 4, 4],
            num_res_blocks=2,
            attention_levels=[1, 2],
            head_dim=64,
            transformer_depth=4,
            context_dim=1280,
            vector_dim=2560,
            use_linear_projection=True,
            remat="full",
        ),
        conditioning=dict(base.text_sdxl(refiner=True), name="sdxl"),
        condition_dropout=0.1,
        freeze=("conditioner",),
        beta=base.SD_BETA,
        optimizer=dict(base_lr=1e-5, scale_lr=False),
        batch_size=2048,
        total_steps=600_000,
        data=base.folder("imagenet"),
        sampling=dict(num_steps=50, guidance_scale=5.0, sampler="dpm_solver", spacing="sgm"),
    )
