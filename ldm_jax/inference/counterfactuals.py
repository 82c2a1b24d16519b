"""Counterfactual explanations of a classifier: what would have to be different in a picture for it to say otherwise.

Decides how hard a method tries: scales are tried in order, and the first that convinces the classifier is a picture's,
so that no more changes than has to; what of the change it does not need is taken back (least_change.py). The methods
are guidance/dime.py and editing/ace.py.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data import transforms
from ldm_jax.find import did_you_mean
from ldm_jax.guidance.losses import Class, whole
from ldm_jax.inference import classifiers
from ldm_jax.inference.least_change import least_change
from ldm_jax.types import Array


class Method(NamedTuple):
    """varies: the option that grows until the classifier is convinced, and the values that are tried. sampling: of
    LatentDiffusion.sample."""

    varies: str
    tried: tuple[float, ...]
    sampling: Mapping[str, Any]


METHODS = {
    "dime": Method("scale", (4.0, 16.0, 64.0), dict(sampler="ddpm", num_steps=50, strength=0.6)),
    "ace": Method("iterations", (15, 30), dict(sampler="ddpm", num_steps=50, strength=0.25)),
}
ATTEMPT = 1 << 20  # between the seeds of a picture's attempts


def method_of(name: str) -> Method:
    """Raises: ValueError for one that is not there."""
    if name not in METHODS:
        raise ValueError(
            f"method {name!r} not found; there are: {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]


class Counterfactuals(NamedTuple):
    """images: [N, H, W, 3] uint8. flipped: [N] bool, whether the classifier gives the label more than even odds, and
    the one that was to go less. before, after: [N] float32, the probability that it gives the label. tried: [N]
    float32, what the method's number was. masks: [N, H, W] float32, 1 where pixels may have changed; elsewhere they
    are the picture's own."""

    images: np.ndarray
    flipped: np.ndarray
    before: np.ndarray
    after: np.ndarray
    tried: np.ndarray
    masks: np.ndarray


def explain(
    model: Any,
    images: Sequence | Array,
    target: Any,
    leave: Any = None,
    method: str = "dime",
    *,
    classifier: Any = "shapes_classifier",
    seeds: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    tried: Sequence[float] | None = None,
    least: bool = True,
    attempts: int = 2,
    progress: Callable[[int, int], Any] | None = None,
    **sampling,
) -> Counterfactuals:
    """model: a LatentDiffusion, which is told nothing. images: [H, W, 3] uint8 or in [-1, 1], one or a list.
    target: the label that each is to get, one or one for each, by name or number; leave: one that it is to lose.
    classifier: of clean pictures, see guidance/losses.py `label`. method: of METHODS, with its options, and the
    values that are tried in the place of METHODS'. least: what convinces keeps those parts of the change alone that
    the classifier needs; False keeps all that was drawn. attempts: how often all values are tried, each time with other
    noise, of pictures that do not convince yet. sampling: options of LatentDiffusion.sample. progress:
    called with (pictures that convince, their total).

    Raises: ValueError for an unknown method, label or option, no attempt, for pictures of several sizes, and for a
    model that insists on a condition.
    """
    chosen, pictures = method_of(method), _pictures(images)
    number = len(pictures)
    attempts = whole(attempts, "attempts")
    seeds = list(range(number)) if seeds is None else list(seeds)
    if len(seeds) != number:
        raise ValueError(f"seeds: got {len(seeds)}, expected one for each of {number} pictures")
    targets, leaves = (_each(labels, number, name) for labels, name in ((target, "target"), (leave, "leave")))
    probability = judge(classifier)
    sampling = {**chosen.sampling, "guidance_scale": 1.0, **sampling}
    sampling |= {"prompts": ""} if "prompts" in model.system.takes else {}

    convinced = _convinced(probability, targets, leaves)

    def drawn_once(value, attempt, which):
        """(pictures, masks, whether they convince), of those `which` of the N."""
        asked = dict(options or {}, classifier=classifier) | {chosen.varies: value}
        asked |= dict(image=list(pictures[which]), target=[targets[i] for i in which])
        asked |= {} if leaves is None else dict(leave=[leaves[i] for i in which])
        noises = [(seeds[i] + ATTEMPT * attempt) % 2**32 for i in which]
        drawn, shown = _drawn(model, method, asked, noises, list(pictures[which]), sampling)
        shown = np.ones(drawn.shape[:3], np.float32) if shown is None else shown
        drawn = np.where(shown[..., None] > 0.5, drawn, pictures[which])
        said = convinced(drawn, which)
        if least and said.any():
            own = which[said]
            drawn[said], needed = least_change(pictures[own], drawn[said], lambda d, i: convinced(d, own[i]))
            shown[said] *= needed
        return drawn, shown, said

    # Each picture is drawn until it convinces, and is then left.
    out, masks = pictures.copy(), np.zeros(pictures.shape[:3], np.float32)
    reached, flipped = np.full(number, np.nan, np.float32), np.zeros(number, bool)
    before = probability(pictures, targets)[0]
    for attempt, value in itertools.product(range(attempts), chosen.tried if tried is None else tried):
        todo = np.flatnonzero(~flipped)
        if not len(todo):
            break
        out[todo], masks[todo], flipped[todo] = drawn_once(value, attempt, todo)
        reached[todo] = value
        if progress:
            progress(int(flipped.sum()), number)
    after = probability(out, targets)[0]
    return Counterfactuals(out, flipped, before, after, reached, masks)


def _convinced(probability: Callable, targets: list, leaves: list | None) -> Callable:
    """(pictures [M, H, W, 3], which of all they are [M]) -> [M] bool, whether each has its label, and not the one to
    go."""

    def convinced(drawn: np.ndarray, which: np.ndarray) -> np.ndarray:
        said = probability(drawn, [targets[i] for i in which])[1]
        return said if leaves is None else said & ~probability(drawn, [leaves[i] for i in which])[1]

    return convinced


def judge(classifier: Any) -> Callable[[np.ndarray, Sequence], tuple[np.ndarray, np.ndarray]]:
    """(pictures [N, H, W, 3] uint8, a label for each) -> (the probability that the classifier gives it [N] float32,
    whether that is more than a half [N] bool)."""
    if callable(classifier):
        ask, names, params = Class(classifier), (), {}
    else:
        found = classifiers.of_pictures(classifier)
        ask, names, params = Class(found.network), found.labels, found.params

    def probability(pictures: np.ndarray, labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
        unknown = [one for one in labels if isinstance(one, str) and one not in names]
        if unknown:
            raise ValueError(
                f"label {unknown[0]!r} not found; there are: {', '.join(names) or 'numbers alone'}"
                f"{did_you_mean(unknown[0], names)}"
            )
        numbers = [names.index(one) if isinstance(one, str) else int(one) for one in labels]
        logits = np.asarray(ask.logits(transforms.to_float(pictures), params), np.float32)
        odds = logits[np.arange(len(pictures)), numbers]
        return (1 / (1 + np.exp(-odds))).astype(np.float32), odds > 0

    return probability


def _pictures(images: Any) -> np.ndarray:
    """[N, H, W, 3] uint8."""
    alone = hasattr(images, "ndim") and images.ndim == 3
    listed = [np.asarray(one) for one in ([images] if alone else images)]
    if not listed or any(
        one.ndim != 3 or one.shape != listed[0].shape or one.shape[2] != 3 for one in listed
    ):
        raise ValueError(
            f"images: got shapes {sorted({one.shape for one in listed})}, expected one (height, width, 3) of all"
        )
    return np.stack([one if one.dtype == np.uint8 else transforms.to_bytes(one) for one in listed])


def _each(labels: Any, number: int, name: str) -> list | None:
    if labels is None:
        return None
    listed = (
        list(labels)
        if isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)
        else [labels]
    )
    if len(listed) not in (1, number):
        raise ValueError(f"{name}: got {len(listed)}, expected one, or one for each of {number} pictures")
    return listed * number if len(listed) == 1 else listed


def _drawn(
    model: Any, method: str, asked: dict, seeds: list, pictures: list, sampling: dict
) -> tuple[np.ndarray, np.ndarray | None]:
    """(pictures [N, H, W, 3] uint8, masks [N, H, W] where the method shows them)."""
    if method == "dime":
        return model.sample(seeds=seeds, init_images=pictures, guidance={method: asked}, **sampling), None
    batches = list(
        model.stream(seeds=seeds, init_images=pictures, edit={method: asked}, output="edited", **sampling)
    )
    drawn, shown = zip(*(batch for _, batch in batches), strict=True)
    return np.concatenate([one[:, -1] for one in drawn]), np.concatenate([one["mask"] for one in shown])
