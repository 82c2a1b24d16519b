"""Captions that say no more than what a picture is of, for pictures without captions of their own.

Source: the neutral templates of rinongal/textual_inversion@424192d ldm/data/personalized.py and personalized_style.py,
which diffusers' examples/textual_inversion keeps.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SUBJECT = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}", "a photo of a clean {}",
    "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}", "a photo of the cool {}",
    "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}",
    "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}", "a rendition of the {}",
    "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}",
    "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}", "a photo of the large {}",
    "a photo of a cool {}", "a photo of a small {}",
)  # fmt: skip
STYLE = (
    "a painting in the style of {}", "a rendering in the style of {}", "a cropped painting in the style of {}",
    "the painting in the style of {}", "a clean painting in the style of {}", "a dirty painting in the style of {}",
    "a dark painting in the style of {}", "a picture in the style of {}", "a cool painting in the style of {}",
    "a close-up painting in the style of {}", "a bright painting in the style of {}",
    "a good painting in the style of {}", "a rendition in the style of {}", "a nice painting in the style of {}",
    "a small painting in the style of {}", "a weird painting in the style of {}",
    "a large painting in the style of {}",
)  # fmt: skip
LISTS = {"subject": SUBJECT, "style": STYLE}


def captioned(source: Any, section: Mapping[str, Any]) -> "Captioned":
    """The source with the captions of `captions`. Of a section with `of_picture`, such as ' with {}#{}', each is
    followed by that, which is given the word and the number of the picture.

    Raises: ValueError as `captions`, and for an `of_picture` without two places.
    """
    options = dict(section)
    own = options.pop("of_picture", None)
    if own is not None and (not isinstance(own, str) or own.count("{}") != 2):
        raise ValueError(f"data.templates.of_picture is {own!r}, expected a text such as ' with {{}}#{{}}'")
    return Captioned(source, captions(options), own and own.replace("{}", str(options["word"]), 1))


def captions(section: Mapping[str, Any]) -> Sequence[str]:
    """The captions of a config's data.templates {name: 'subject' or 'style', or texts: [...]; word: …}.

    texts: each with '{}' where the word goes. Raises: ValueError for an unknown name, or a text without a place for the
    word.
    """
    options = dict(section)
    name, texts, word = (options.pop(key, None) for key in ("name", "texts", "word"))
    if options or not word or (name is None) == (texts is None) or (name is not None and name not in LISTS):
        raise ValueError(
            f"data.templates is {dict(section)}, expected a word and either a name of {', '.join(LISTS)} or texts"
        )
    chosen: Sequence[str] = LISTS[name] if name else tuple(texts)
    wrong = [text for text in chosen if text.count("{}") != 1]
    if wrong or not chosen:
        raise ValueError(f"data.templates: {wrong or 'no text'!r}, expected texts with one {{}} for the word")
    return tuple(text.replace("{}", word) for text in chosen)


class Captioned:
    """A source whose examples have a caption of a list, another each time; the rest is the source's own.

    own: what follows it, with '{}' for the number of the picture.
    """

    def __init__(self, source: Any, said: Sequence[str], own: str | None = None):
        self._source, self._said, self._own = source, tuple(said), own or ""

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        return self._source[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __repr__(self) -> str:
        return f"{self._source!r} with captions of {len(self._said)} templates"

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """One of the captions, and what is the picture's own."""
        return self._said[rng.integers(len(self._said))] + self._own.replace("{}", str(index))

    def said(self, index: int) -> list[str]:
        """All of the captions."""
        return list(self._said)

    def fingerprint(self) -> str:
        """Hex digest of the source and the captions."""
        return hashlib.sha256(
            json.dumps([self._source.fingerprint(), *self._said, *[self._own] * bool(self._own)]).encode()
        ).hexdigest()
