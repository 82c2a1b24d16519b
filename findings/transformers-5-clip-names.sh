#!/usr/bin/env bash
# transformers 5.24.0: CLIPTextModel.save_pretrained writes other names than version 4 did.
#
# The text encoders of Stable Diffusion 1 and 2 are CLIPTextModels. Their files always had "text_model." before every name;
# 5.24.0 has taken it out of the module and writes the names bare. CLIPTextModelWithProjection, the second
# text encoder of SDXL, keeps the prefix, so that the two text encoders of one pipeline differ. The buffer position_ids, which
# files of early versions have, is in neither.
#
# Seen: 'embeddings.token_embedding.weight' of the one, 'text_model.embeddings.token_embedding.weight' of the other.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "transformers==5.24.0" "torch==2.13.0" "numpy==2.4.6" "safetensors==0.8.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sizes = dict(vocab_size=12, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
config = CLIPTextConfig(**sizes, max_position_embeddings=6, projection_dim=8, bos_token_id=10, eos_token_id=11)
for model, prefix in ((CLIPTextModel, ""), (CLIPTextModelWithProjection, "text_model.")):
    model(config).save_pretrained(model.__name__)
    names = load_file(f"{model.__name__}/model.safetensors").keys() - {"text_projection.weight"}
    print(model.__name__, sorted(names)[0], sorted(names)[-1])
    assert f"{prefix}embeddings.token_embedding.weight" in names
    assert all(name.startswith("text_model.") == bool(prefix) for name in names)
    assert not any(name.endswith("position_ids") for name in names)
PYTHON
