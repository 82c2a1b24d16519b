"""How often a text model draws what it was told, by kind of prompt, as the oracle of the shapes world reads it.

Prompts are captions of held-out scenes. A picture counts as right if every clause of its prompt holds and there is
nothing else in it; failures.py says what is wrong with the others. It knows no network: pictures come from a function.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import Score, parse, score

# In the order in which they are measured and printed; `kind_of` says what each is.
KINDS = ("one", "two", "relation", "unseen", "count", "three")


def kind_of(scene: world.Scene, caption: str) -> str | None:
    """The kind of prompt that a caption of this scene is: 'one' object, 'two' objects joined by 'and', 'relation',
    'unseen' (one object of an attribute pair that training never shows), 'count' (several of one kind), 'three'; None
    for any other.
    """
    if any((o.color, o.shape) in world.UNSEEN_PAIRS for o in scene.objects):
        return "unseen" if len(scene.objects) == 1 else None
    if world.is_unseen(scene.objects):
        return None
    if caption.split()[0] in world.NUMBER_WORDS.values():
        return "count"
    if any(f" {relation} " in caption for relation in world.RELATIONS):
        return "relation"
    return {1: "one", 2: "two", 3: "three"}[len(scene.objects)]


def prompts(kind: str, number: int, seed: int = 1) -> list[str]:
    """`number` prompts of one of KINDS, from the test scenes (of 'unseen', from the unseen ones), the same ones every
    time."""
    return [caption for _, caption in scenes_and_prompts(kind, number, seed)]


def mixed_prompts(number: int, seed: int = 1) -> list[str]:
    """`number` prompts of all KINDS in turn: prompt i is of kind i modulo their number."""
    each = -(-number // len(KINDS))
    by_kind = [prompts(kind, each, seed) for kind in KINDS]
    return [by_kind[i % len(KINDS)][i // len(KINDS)] for i in range(number)]


def scenes_and_prompts(kind: str, number: int, seed: int = 1) -> list[tuple[world.Scene, str]]:
    """The scenes that `prompts` describes, and their prompts."""
    return list(itertools.islice(_scenes(kind, seed), number))


def _scenes(kind: str, seed: int) -> Iterator[tuple[world.Scene, str]]:
    split = "unseen" if kind == "unseen" else "test"
    for index in itertools.count():
        scene = world.scene(index, split)
        caption = world.caption(scene, np.random.default_rng([seed, index]))
        if kind_of(scene, caption) == kind:
            yield scene, caption


def scores(
    draw: Callable[[list[str], list[int]], np.ndarray],
    num_samples: int,
    *,
    first_seed: int = 1_000_000,
    kinds=KINDS,
) -> dict[str, list[tuple[str, Score]]]:
    """{kind: [(prompt, the score of its picture), …]}.

    draw: (prompts, seeds) -> [N, 64, 64, 3] uint8. num_samples: in all, shared evenly among the kinds (rounded down, at
    least one each). first_seed: seeds count up from it. Raises: ValueError for num_samples < 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1")
    each = max(1, num_samples // len(kinds))
    found = {}
    for i, kind in enumerate(kinds):
        said = prompts(kind, each)
        images = draw(said, [first_seed + i * each + j for j in range(each)])
        found[kind] = [(caption, score(image, caption)) for image, caption in zip(images, said, strict=True)]
    return found


def reads_right(image: np.ndarray, scene: world.Scene) -> bool:
    """Whether the oracle reads every object of the scene (shape, color, size, center within 2 px) and nothing else."""
    left = list(scene.objects)
    for seen in parse(image):
        match = next(
            (
                o
                for o in left
                if (o.shape, o.color, o.size) == (seen.shape, seen.color, seen.size)
                and max(abs(o.x - seen.x), abs(o.y - seen.y)) <= 2
            ),
            None,
        )
        if match is None:
            return False
        left.remove(match)
    return not left


def read_rate(images: Iterator[np.ndarray], split: str = "test") -> float:
    """The share of images, [64,64,3] uint8, image i showing scene i of the split, that the oracle reads right."""
    return float(np.mean([reads_right(image, world.scene(i, split)) for i, image in enumerate(images)]))
