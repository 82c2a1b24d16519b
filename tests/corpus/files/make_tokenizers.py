"""Makes tokenizers/: CLIP's tokenizer with a tiny vocabulary as transformers 4 and 5 write it, padded with "!" as for
OpenCLIP's models, and with an added token of three vectors.

    pip install transformers==5.24.0 && python make_tokenizers.py
    pip install transformers==4.57.6 tokenizers==0.22.2 && python make_tokenizers.py

expected.json: {prompt: ids without padding}, of transformers 5 where it pads with <|endoftext|>, as in the models'
training, and where the token of three vectors is written out, as diffusers does before it asks transformers.
"""

import json
from pathlib import Path

import transformers

HERE = Path(__file__).parent / "tokenizers"
MERGES = ["r e", "re d</w>", "c a", "ca t</w>", "! !</w>", "< |"]
CHARACTERS = "!'<>|_.,abcdefghijklmnopqrstuvwxyz0123456789"
ADDED = ["<foo>", "<foo>_1", "<foo>_2", "<one>"]
PROMPTS = {
    "": "",
    "a red cat": "a red cat",
    "Red! RED!! !": "Red! RED!! !",
    "it's 12, 'tis <|ENDOFTEXT|> <|endoftext|> red": "it's 12, 'tis <|ENDOFTEXT|> <|endoftext|> red",
    "a <foo> cat!": "a <foo> <foo>_1 <foo>_2 cat!",
    "<one>,<foo>": "<one>,<foo> <foo>_1 <foo>_2",
}


def write_vocabulary() -> dict:
    tokens = [*CHARACTERS, *(c + "</w>" for c in CHARACTERS), *(m.replace(" ", "") for m in MERGES)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (HERE / "bare").mkdir(parents=True, exist_ok=True)
    (HERE / "bare" / "vocab.json").write_text(json.dumps(vocabulary))
    (HERE / "bare" / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return {
        name: str(HERE / "bare" / file) for name, file in (("vocab", "vocab.json"), ("merges", "merges.txt"))
    }


def main() -> None:
    files = write_vocabulary()
    if transformers.__version__.startswith("4."):
        files = {f"{name}_file": path for name, path in files.items()}
        makers = {
            "transformers_4": transformers.CLIPTokenizer,
            "transformers_4_fast": transformers.CLIPTokenizerFast,
        }
    else:
        makers = {"transformers_5": transformers.CLIPTokenizer}
        trained = transformers.CLIPTokenizer(**files, pad_token="<|endoftext|>")
        trained.add_tokens(ADDED)
        expected = {prompt: trained(written)["input_ids"] for prompt, written in PROMPTS.items()}
        lines = [f"{json.dumps(prompt)}: {json.dumps(ids)}" for prompt, ids in expected.items()]
        (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for folder, make in makers.items():
        tokenizer = make(**files, pad_token="!", model_max_length=24)
        tokenizer.add_tokens(ADDED)
        tokenizer.save_pretrained(HERE / folder)


if __name__ == "__main__":
    main()
