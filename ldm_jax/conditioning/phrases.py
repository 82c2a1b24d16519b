"""The noun phrases of a prompt and how they are joined, by rule: no parser, no weights.

A prompt is cut at the words of JOINS and at commas. What lies between is a phrase, an article at its front included:
"a red circle left of a blue square" is ("a red circle"), then ("a blue square") joined by "left of". Verbs that join
things ("a dog wearing a hat") are not known; who needs them gives phrases by name. Knows no model and no tokenizer.
"""

import re
from typing import NamedTuple

# What stands between two phrases; the longer ones come first, since they begin with shorter ones.
JOINS = (
    "to the left of", "to the right of", "on the left of", "on the right of", "in front of", "on top of", "next to",
    "left of", "right of", "above", "below", "under", "underneath", "beneath", "over", "beside", "behind", "near",
    "between", "inside", "against", "with", "and", "on", "in", "at", "by", ",", ".", ";",
)  # fmt: skip
SPLIT = re.compile(
    "|".join(rf"\b{join}\b" if join[0].isalpha() else re.escape(join) for join in JOINS), re.IGNORECASE
)
ARTICLES = ("a", "an", "the")


class Clause(NamedTuple):
    """A phrase of a prompt. text: as it stands there, prompt[start:end]. join: what stands between it and the phrase
    before it, in lower case, '' for the first one."""

    text: str
    start: int
    end: int
    join: str

    @property
    def words(self) -> list[str]:
        """Its words in lower case, without an article at the front."""
        found = re.findall(r"[\w'-]+", self.text.lower())
        return found[1:] if found and found[0] in ARTICLES else found


def clauses(prompt: str) -> list[Clause]:
    """The phrases of a prompt, in order. Of several joins in a row, as ", and", the last that is no comma counts."""
    found, start, join = [], 0, ""
    ends = [(m.start(), m.end(), m.group().lower()) for m in SPLIT.finditer(prompt)]
    for stop, after, following in [*ends, (len(prompt), len(prompt), "")]:
        text = prompt[start:stop].strip()
        if text:
            at = prompt.index(text, start)
            found.append(Clause(text, at, at + len(text), join if found else ""))
            join = following
        elif following.isalpha() or " " in following or not join:
            join = following
        start = after
    return found
