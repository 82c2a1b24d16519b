#!/usr/bin/env bash
# diffusers 0.42.1, AutoencoderKL's latents_mean and latents_std: StableDiffusionXLPipeline decodes latents * std / factor + mean,
# StableDiffusionPipeline and the other pipelines of AutoencoderKL decode latents / factor, without a warning.
#
# Shown by what the two pass to the same autoencoder's decode for latents of zeros: with a mean of 1 in every channel, 1 and 0.
# Seen: StableDiffusionXLPipeline 1.0, StableDiffusionPipeline 0.0, no warning.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "diffusers==0.42.1" "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import diffusers
import torch

given = dict(latents_mean=[1.0] * 4, latents_std=[1.0] * 4, scaling_factor=0.5)
vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4, **given)
unet = dict(
    sample_size=8, block_out_channels=(32, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=8, attention_head_dim=4, layers_per_block=1,
)
decoded = {}


def remember(name):
    def decode(z, **options):
        decoded[name] = float(z.mean())
        return (torch.zeros(1, 3, 8, 8),)

    return decode


zero = torch.zeros(1, 4, 8, 8)
text = dict(prompt_embeds=torch.zeros(1, 5, 8), num_inference_steps=1, guidance_scale=1.0, latents=zero, output_type="pt")
flat = diffusers.UNet2DConditionModel(**unet)
xl = diffusers.UNet2DConditionModel(
    **unet, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 8
)
for network in (flat, xl):  # a last step from a prediction of zeros leaves zeros
    for parameter in network.parameters():
        parameter.data.zero_()
scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
said = []
warnings.showwarning = lambda message, *where: said.append(str(message))
for name, parts in {
    "StableDiffusionPipeline": dict(unet=flat, safety_checker=None, feature_extractor=None, requires_safety_checker=False),
    "StableDiffusionXLPipeline": dict(unet=xl, text_encoder_2=None, tokenizer_2=None, add_watermarker=False),
}.items():
    pipe = getattr(diffusers, name)(vae=vae, text_encoder=None, tokenizer=None, scheduler=scheduler, **parts)
    pipe.set_progress_bar_config(disable=True)
    vae.decode = remember(name)
    more = dict(pooled_prompt_embeds=torch.zeros(1, 8)) if "XL" in name else {}
    pipe(**text, **more)
print(decoded, [text for text in said if "latents_" in text])
assert not any("latents_" in text for text in said)
assert decoded == {"StableDiffusionPipeline": 0.0, "StableDiffusionXLPipeline": 1.0}, decoded
PYTHON
