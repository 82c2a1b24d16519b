#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: of a kohya LoRA whose layers differ in alpha, the alphas of attention are passed over.
#
# Such files are usual: LoCon has an alpha of its own for convolutions, and block-wise training one for each block.
# The names of attention are turned into an older spelling on the way, `…attn1.processor.to_q_lora.down.weight`, and the pattern
# of alphas keeps it, so that no layer matches it: these layers get the alpha that most others have. peft 0.21 warns of it.
# Seen: attention's scaling is 2.0, that of proj_in's alpha of 8 over rank 4, where the file says alpha 1 over rank 4, 0.25.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "diffusers==0.42.1" "peft==0.21.2" "transformers==5.24.0" "torch==2.13.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>"$folder/log"
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

unet = UNet2DConditionModel(
    block_out_channels=(32,), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2, sample_size=8,
    down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), norm_num_groups=8,
)
block = "mid_block.attentions.0"
said = {f"{block}.transformer_blocks.0.attn1.to_q": 1.0}  # and the layers that are in the majority
said |= {f"{place}.attentions.0.proj_in": 8.0 for place in ("mid_block", "down_blocks.0", "up_blocks.0")}
file = {}
for name, alpha in said.items():
    key, ones = "lora_unet_" + name.replace(".", "_"), () if name.endswith("to_q") else (1, 1)
    file[f"{key}.lora_down.weight"] = torch.ones(4, 32, *ones)
    file[f"{key}.lora_up.weight"] = torch.ones(32, 4, *ones)
    file[f"{key}.alpha"] = torch.tensor(alpha)
state, alphas = Loader.lora_state_dict(file, unet_config=unet.config)
Loader.load_lora_into_unet(state, network_alphas=alphas, unet=unet, adapter_name="x")
found = {name: unet.get_submodule(name).scaling["x"] for name in said}
for name, alpha in said.items():
    print(f"{name}: scaling {found[name]}, the file says {alpha / 4}")
assert found[f"{block}.proj_in"] == 2.0
assert found[f"{block}.transformer_blocks.0.attn1.to_q"] == 2.0, "the file says 0.25"
PYTHON
