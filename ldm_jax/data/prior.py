"""Pictures of a thing and pictures of its class, as one source.

Decides that every second example is of the class, what those are called, and what they weigh in the loss.
"""

import hashlib
import json
from typing import Any

import numpy as np

from ldm_jax.data import pipeline

WEIGHT = "loss_weight"  # of an example: [] float32


class WithPrior:
    """Even examples are the source's, odd ones the prior's, each as often as it takes to meet all of the longer one.

    An example holds the source's `image` and `caption` and `loss_weight`: 1, of the prior `weight`. A picture of the
    prior is called what its own caption says (the first, of several), and `prompt` without one.
    """

    def __init__(self, source: Any, prior: Any, prompt: str, weight: float):
        self._source, self._prior, self._prompt, self._weight = source, prior, prompt, float(weight)
        self._can, self._said = pipeline.abilities(source), pipeline.abilities(prior).said
        self.unreadable_files = self._can.unreadable_files
        self.described = self._described if self._can.described else None

    def __len__(self) -> int:
        return 2 * max(len(self._source), len(self._prior))

    def __repr__(self) -> str:
        return f"{self._source!r} beside {len(self._prior)} pictures of {self._prompt!r}"

    def __getitem__(self, index: int) -> dict:
        at, of_class = divmod(index, 2)
        if of_class:
            image = self._prior[at % len(self._prior)]["image"]
            return {"image": image, "caption": self._called(at), WEIGHT: np.float32(self._weight)}
        example = self._source[at % len(self._source)]
        return {"image": example["image"], "caption": example.get("caption", ""), WEIGHT: np.float32(1)}

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """The source's own caption, or what the picture of the class is called."""
        at, of_class = divmod(index, 2)
        if of_class:
            return self._called(at)
        at %= len(self._source)
        return self._can.caption(at, rng) if self._can.caption else self._source[at].get("caption", "")

    def _called(self, at: int) -> str:
        own = self._said(at % len(self._prior)) if self._said else []
        return own[0] if own else self._prompt

    def _described(self, index: int, rng: np.random.Generator) -> tuple[str, list]:
        """The source's own, or what the picture of the class is called, of which nothing is masked."""
        at, of_class = divmod(index, 2)
        return (self._called(at), []) if of_class else self._can.described(at % len(self._source), rng)

    def fingerprint(self) -> str:
        """Hex digest of both, the prompt and the weight."""
        made = [self._source.fingerprint(), self._prior.fingerprint(), self._prompt, self._weight]
        return hashlib.sha256(json.dumps(made).encode()).hexdigest()
