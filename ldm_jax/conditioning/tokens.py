"""Which tokens of a prompt a word has, and which tokens of two prompts correspond; for every tokenizer of the text
kinds.

Decides how words are told apart (at white space and punctuation, by the characters that each token covers) and how a
word of several tokens maps onto one of another number. It knows no network and no method.
"""

import re
from typing import Any

import numpy as np

WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


def encode(tokenizer: Any, prompt: str) -> tuple[list[int], list[tuple[int, int]]]:
    """(ids [L], the (start, end) characters of the prompt that each token covers, (0, 0) for begin, end and
    padding)."""
    encoding = tokenizer.encode(prompt)
    return list(encoding.ids), [tuple(span) for span in encoding.offsets]


def words(tokenizer: Any, prompt: str) -> list[tuple[str, list[int]]]:
    """[(word, places of its tokens)] in order. A word that was cut off has no tokens."""
    _, spans = encode(tokenizer, prompt)
    found = []
    for match in WORD.finditer(prompt):
        places = [i for i, (a, b) in enumerate(spans) if b > a and a < match.end() and b > match.start()]
        found.append((match.group().lower(), places))
    return found


def indices(tokenizer: Any, prompt: str, word: str) -> list[int]:
    """Places [int] of the tokens of every occurrence of `word`, of one word or several, in the prompt.

    Raises: ValueError if it is not there, naming the words that are.
    """
    there, asked = words(tokenizer, prompt), [m.group().lower() for m in WORD.finditer(word)]
    found = []
    for i in range(len(there) - len(asked) + 1):
        if asked and [w for w, _ in there[i : i + len(asked)]] == asked:
            found += [place for _, places in there[i : i + len(asked)] for place in places]
    if not found:
        raise ValueError(
            f"the prompt {prompt!r} has no word {word!r}; it has: {', '.join(w for w, _ in there)}"
        )
    return found


def align(tokenizer: Any, source: str, target: str) -> np.ndarray:
    """[L, L] float32: row i says which share of the source's token i goes to each token of the target, word by word.

    The two prompts have as many words, of which the i-th stands in the place of the i-th; a word of m tokens that
    becomes one of n is shared out evenly (Hertz et al. 2022, arXiv:2208.01626; google/prompt-to-prompt
    seq_aligner.get_replacement_mapper). Begin, end and padding keep their places; rows sum to 1.
    Raises: ValueError for prompts of different numbers of words.
    """
    ours, theirs = words(tokenizer, source), words(tokenizer, target)
    if len(ours) != len(theirs):
        raise ValueError(
            f"{source!r} has {len(ours)} words and {target!r} has {len(theirs)}, expected as many: each "
            f"stands in the place of one"
        )
    length = len(encode(tokenizer, source)[0])
    if len(encode(tokenizer, target)[0]) != length:
        raise ValueError(f"{source!r} and {target!r} are not padded to one length by this tokenizer")
    matrix = np.zeros((length, length), np.float32)
    shift = 0  # of all that comes after a word that has become longer or shorter
    place = {}
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        if a and b:
            matrix[np.ix_(a, b)] = 1 / len(b)
            place |= dict.fromkeys(a)
            shift = b[-1] - a[-1]
    last = max(place, default=0)
    for i in range(length):
        if i not in place:
            matrix[i, min(max(i + (shift if i > last else 0), 0), length - 1)] = 1
    return matrix
