"""Makes text_encoder/, a tiny CLIPTextModel as transformers 5 writes it: whole, in shards and in half precision.

    pip install transformers==5.24.0 torch==2.13.0 numpy==2.4.6 && python make_transformers.py

hidden.json: tokens, and the last hidden state that transformers gives for them.
"""

import json
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel

HERE = Path(__file__).parent / "text_encoder"


def main() -> None:
    torch.manual_seed(0)
    sizes = dict(vocab_size=12, hidden_size=8, intermediate_size=16, num_attention_heads=1)
    ends = dict(max_position_embeddings=6, bos_token_id=10, eos_token_id=11, pad_token_id=11)
    model = CLIPTextModel(
        CLIPTextConfig(num_hidden_layers=2, hidden_act="quick_gelu", **sizes, **ends)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    model.save_pretrained(HERE)
    model.save_pretrained(HERE / "shards", max_shard_size="2KB")
    model.half().save_pretrained(HERE / "variant", variant="fp16")
    tokens = [[10, 3, 1, 4, 11, 11], [10, 5, 9, 2, 6, 11]]
    hidden = model.float()(
        torch.tensor(tokens)
    ).last_hidden_state  # of the numbers as they are in half precision
    whole = CLIPTextModel.from_pretrained(HERE)(torch.tensor(tokens)).last_hidden_state
    states = {"whole": whole.tolist(), "half": hidden.tolist()}
    (HERE / "hidden.json").write_text(json.dumps({"tokens": tokens, **states}) + "\n")


if __name__ == "__main__":
    main()
