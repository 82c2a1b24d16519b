#!/usr/bin/env bash
# transformers 4.57.6 and 5.24.0, CLIPTokenizer with pad_token "!", as OpenCLIP's models have it (Stable Diffusion 2, the second
# tokenizer of SDXL): every "!" of a prompt becomes padding.
#
# "!" is id 0 of CLIP's vocabulary, which these models pad with, and "!" at the end of a word another, 256. The models were
# trained with OpenCLIP's own tokenizer, where "wow!" ends in 256. transformers declares what it pads with special, and finds it
# in the text before anything else, so that "wow!" ends in 0; save_pretrained writes that into tokenizer.json. With another
# pad_token the same vocabulary gives what the models were trained with.
#
# The two versions also differ in what "<|ENDOFTEXT|>" in capitals is: 4.57.6 takes it for the end of the text, 5.24.0 for words.
#
# Shown with a vocabulary of a few letters, where "!" is 0 and "!" at the end of a word 10. Seen: [22, 21, 0, 23] for "red!"
# padded with "!", [22, 21, 10, 23] padded with "<|endoftext|>"; in 5.24.0 tokenizer.json has {"id": 0, "content": "!",
# "special": true}.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.57.6 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version" "numpy==2.4.6"
    "$folder/$version/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers

folder, version = Path(sys.argv[1]), transformers.__version__
letters = "!<|>redntof"[:10]
merges = ["r e", "re d</w>"]
tokens = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
(folder / "vocab.json").write_text(json.dumps(vocabulary))
(folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
old = version.startswith("4.")
files = {"vocab": folder / "vocab.json", "merges": folder / "merges.txt"}
files = {name + "_file" * old: str(path) for name, path in files.items()}
start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
word, ordinary = vocabulary["red</w>"], vocabulary["!</w>"]

padded, trained = (transformers.CLIPTokenizer(**files, pad_token=pad) for pad in ("!", "<|endoftext|>"))
found = padded("red!")["input_ids"], trained("red!")["input_ids"]
print(version, *found, "capitals:", trained("<|ENDOFTEXT|>")["input_ids"])
assert found == ([start, word, 0, end], [start, word, ordinary, end]), found
assert (trained("<|ENDOFTEXT|>")["input_ids"] == [start, end, end]) == old
if not old:
    padded.save_pretrained(folder / "saved")
    (first, *_) = json.loads((folder / "saved" / "tokenizer.json").read_text())["added_tokens"]
    print({key: first[key] for key in ("id", "content", "special")})
    assert (first["id"], first["content"], first["special"]) == (0, "!", True)
PYTHON
done
