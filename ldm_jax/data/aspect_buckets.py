"""Pictures of several shapes in one run: each is cut to the nearest of a few shapes of about one area, and a batch
holds pictures of one shape.

Decides which shapes there are, which pictures are of which, and in which order batches of them come. Knows no config
and no model. Podell et al. 2023 (arXiv:2307.01952) section 2.3 and appendix I.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ldm_jax.data import transforms

MOST_RATIO = 4.0  # of the longer side to the shorter
LEAST_AREA = 0.9  # of the square's, which is the most
MOST_BUCKETS = 40  # as many as the paper has; each is a program to compile
BLOCK = 16  # batches of each bucket, on average, after which the share of each is kept

Shape = tuple[int, int]  # (height, width) in pixels


def shapes(size: int, multiple: int, number: int) -> list[Shape]:
    """`number` shapes of about size^2 pixels, the square among them, by rising height / width.

    Sides are multiples of `multiple`; ratios lie in [1 / MOST_RATIO, MOST_RATIO], as evenly in their logarithm as
    there are shapes.
    Raises: ValueError for a number outside [1, MOST_BUCKETS] or of more shapes than there are, and a size that is no
    multiple.
    """
    if not 1 <= number <= MOST_BUCKETS:
        raise ValueError(
            f"aspect_buckets: got {number}, expected 1 to {MOST_BUCKETS}: a training step is compiled for each"
        )
    if size % multiple:
        raise ValueError(f"aspect_buckets: image_size is {size}, expected a multiple of {multiple}")
    sides = range(multiple, int(size * MOST_RATIO**0.5) + 1, multiple)
    found = [
        (height, width)
        for height in sides
        for width in sides
        if LEAST_AREA * size**2 < height * width <= size**2 and 1 / MOST_RATIO <= height / width <= MOST_RATIO
    ]
    if number > len(found):
        raise ValueError(
            f"aspect_buckets: got {number}, and there are {len(found)} of {size} x {size} pixels"
        )
    logs = {shape: np.log(shape[0] / shape[1]) for shape in found}
    wanted = np.linspace(min(logs.values()), max(logs.values()), number) if number > 1 else np.zeros(1)
    chosen = [(size, size)]
    for log in np.delete(wanted, np.abs(wanted).argmin()):
        chosen.append(min(logs.keys() - set(chosen), key=lambda shape: (abs(logs[shape] - log), shape)))
    return sorted(chosen, key=logs.get)


def nearest(sizes: np.ndarray, buckets: Sequence[Shape]) -> np.ndarray:
    """[N] int: the bucket of each picture of sizes [N, 2] (height, width), by the logarithm of height / width."""
    sizes = np.asarray(sizes, np.float64).reshape(-1, 2)
    ratios = np.log([height / width for height, width in buckets])
    return np.abs(np.log(sizes[:, :1] / sizes[:, 1:]) - ratios).argmin(1)


class Place(NamedTuple):
    """index: of an example. shape: (height, width) of its bucket."""

    index: int
    shape: Shape


class Order:
    """The places of a run without end, by position: every `batch_size` in a row are of one bucket.

    members: {bucket: [n] the indices of its examples}; buckets without any are left out. Batches of a bucket come as
    often as its examples are many, but at least once in a block of BLOCK times as many batches as there are buckets;
    within a bucket each epoch is shuffled anew. Position p is a function of (members, batch_size, seed, p) alone.
    """

    def __init__(self, of_example: np.ndarray, buckets: Sequence[Shape], batch_size: int, seed: int):
        """of_example: [N], the bucket of each example (`nearest`). Raises: ValueError if there is no example."""
        if not len(of_example):
            raise ValueError("aspect_buckets: there is no example, expected at least one")
        self.members = {
            b: np.flatnonzero(of_example == b) for b in range(len(buckets)) if (of_example == b).any()
        }
        self.buckets, self.batch_size, self.seed = buckets, batch_size, seed
        number = BLOCK * len(self.members)
        self.counts = {
            b: max(1, round(number * len(found) / len(of_example))) for b, found in self.members.items()
        }

    def __len__(self) -> int:
        return 2**48

    def __getitem__(self, position: int) -> Place:
        batch, within = divmod(int(position), self.batch_size)
        bucket, number = self._batch(batch)
        found = self.members[bucket]
        epoch, at = divmod(number * self.batch_size + within, len(found))
        shuffled = np.random.default_rng([self.seed, bucket, epoch]).permutation(len(found))
        return Place(int(found[shuffled[at]]), self.buckets[bucket])

    def _batch(self, batch: int) -> tuple[int, int]:
        """(the bucket of a batch, how many batches of it came before)."""
        whole = np.repeat(list(self.counts), list(self.counts.values()))
        block, within = divmod(batch, len(whole))
        order = np.random.default_rng([self.seed, 2**31, block]).permutation(whole)
        bucket = int(order[within])
        return bucket, block * self.counts[bucket] + int((order[:within] == bucket).sum())


def cut(
    image: np.ndarray, shape: Shape, interpolation: str, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The image [H, W, 3] uint8 resized until it covers the shape and cut to it at random, and what SDXL is told of it.

    Returns: image [h, w, 3] float32 in [-1, 1], original_size (H, W), crop (top, left) in pixels of the resized image,
    target_size (h, w), each [2] float32.
    """
    found, corner = transforms.covering_crop(image, *shape, interpolation, rng)
    return {
        "image": np.ascontiguousarray(transforms.to_float(found)),
        "original_size": np.float32(image.shape[:2]),
        "crop": np.float32(corner),
        "target_size": np.float32(shape),
    }
