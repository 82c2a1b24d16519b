"""A vocabulary of CLIP's form, small: the bytes, each also at the end of a word, a few merges, and the two
marks.

Ids are as in CLIP's own: "!" is 0, and <|endoftext|> the last.
"""

import json

MERGES = [
    "r e",
    "re d</w>",
    "c i",
    "ci r",
    "c l",
    "cl e</w>",
    "cir cle</w>",
    "a n",
    "an d</w>",
    "' s</w>",
    "Ã ©</w>",
]


def alphabet() -> list[str]:
    """One printable character per byte, those that print as themselves first (Radford et al. 2019, GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def vocabulary() -> dict[str, int]:
    letters = alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in MERGES)]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def write(folder) -> None:
    """vocab.json and merges.txt into a folder that is there."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
