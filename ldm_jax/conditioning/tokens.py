"""Which tokens of a prompt a word has, and which tokens of two prompts correspond; for every tokenizer of the
text kinds.

Decides how words are told apart (at white space and punctuation, by the characters that each token covers)
and how a word of several tokens maps onto one of another number. It knows no network and no method.
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
    """[L, L] float32: row i says which share of the source's token i goes to each token of the target, word
    by word.

    The two prompts have as many words, of which the i-th stands in the place of the i-th, token by token; a word of
    m tokens that becomes one of another number n is shared out evenly (Hertz et al. 2022, arXiv:2208.01626;
    google/prompt-to-prompt seq_aligner.get_replacement_mapper). Begin, end and padding keep their places; rows sum
    to 1.
    Raises: ValueError for prompts of different numbers of words.
    """
    ours, theirs = words(tokenizer, source), words(tokenizer, target)
    if len(ours) != len(theirs):
        raise ValueError(
            f"{source!r} has {len(ours)} words and {target!r} has {len(theirs)}, expected as many: each "
            f"stands in the place of one"
        )
    length = _common_length(tokenizer, source, target)
    matrix = np.zeros((length, length), np.float32)
    shift = 0  # of all that comes after a word that has become longer or shorter
    place = {}
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        if a and b:
            matrix[np.ix_(a, b)] = np.eye(len(a)) if len(a) == len(b) else 1 / len(b)
            place |= dict.fromkeys(a)
            shift = b[-1] - a[-1]
    last = max(place, default=0)
    for i in range(length):
        if i not in place:
            matrix[i, min(max(i + (shift if i > last else 0), 0), length - 1)] = 1
    return matrix


def refine(tokenizer: Any, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """([L, L], [L]) float32: column j says which of the source's tokens token j of the target is, and 1 where
    it is none: of new words.

    Words are aligned in order, as many as can be (Needleman & Wunsch 1970 with gap 0, match 1 and mismatch
    -1, as google/prompt-to-prompt seq_aligner.get_refinement_mapper has it for tokens). What comes after the
    last word, the end and padding, is counted from there. Raises: ValueError for prompts that have no word in
    common.
    """
    ours, theirs = words(tokenizer, source), words(tokenizer, target)
    pairs = [
        (i, j)
        for i, j in _common([w for w, _ in ours], [w for w, _ in theirs])
        if ours[i][1] and theirs[j][1]
    ]
    if not pairs:
        raise ValueError(
            f"{source!r} and {target!r} have no word in common, expected one that can be aligned"
        )
    length = _common_length(tokenizer, source, target)
    matrix, own = np.zeros((length, length), np.float32), np.zeros(length, np.float32)
    for i, j in pairs:
        matrix[ours[i][1], theirs[j][1]] = 1
    last_ours, last_theirs = (
        max((p for _, places in said for p in places), default=0) for said in (ours, theirs)
    )
    for j in range(length):
        if j > last_theirs:
            matrix[min(j - last_theirs + last_ours, length - 1), j] = 1
        elif j == 0:
            matrix[0, 0] = 1
        elif not matrix[:, j].any():
            own[j] = 1
    return matrix, own


def _common(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence of two lists of words."""
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            longer = max(best[i + 1, j], best[i, j + 1])
            best[i, j] = max(longer, best[i + 1, j + 1] + 1) if a[i] == b[j] else longer
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and best[i, j] == best[i + 1, j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1, j] >= best[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _common_length(tokenizer: Any, source: str, target: str) -> int:
    """Tokens of either prompt. Raises: ValueError where they are not as many."""
    length = len(encode(tokenizer, source)[0])
    if len(encode(tokenizer, target)[0]) != length:
        raise ValueError(f"{source!r} and {target!r} are not padded to one length by this tokenizer")
    return length
