"""Inception score: how sure a classifier is of each image, and how many classes it sees in all.

Source: Salimans et al. 2016 (arXiv:1606.03498) section 4: exp of the mean divergence of p(class | image) from its
mean, over `splits` parts of the images; mean and standard deviation over the parts. Gathered batch by batch: memory
for the sums of the parts, not for the images.
"""

import numpy as np
from scipy.special import log_softmax


class ScoreSums:
    """The sums that an Inception score of `num_images` is made of.

    Image i belongs to the part of its place in a permutation drawn by numpy's RandomState(seed), parts being cut as
    torch-fidelity cuts them; seed None leaves the images in their order, as the original code and guided-diffusion's
    evaluator do.
    Raises: ValueError for fewer images than parts.
    """

    def __init__(self, num_images: int, splits: int = 10, seed: int | None = 2020):
        if not 1 <= splits <= num_images:
            raise ValueError(
                f"Inception score: {splits} splits of {num_images} images, expected 1 to {num_images}"
            )
        order = np.arange(num_images) if seed is None else np.random.RandomState(seed).permutation(num_images)
        self._part = np.empty(num_images, np.int32)
        for part in range(splits):
            self._part[order[part * num_images // splits : (part + 1) * num_images // splits]] = part
        self._counts = np.zeros(splits, np.int64)
        self._probs: np.ndarray | None = None
        self._negative_entropy = np.zeros(splits)
        self._expected = np.bincount(self._part, minlength=splits)

    def update(self, indices: np.ndarray, logits: np.ndarray) -> None:
        """Adds images `indices` [n] with logits [n, classes], each image once."""
        log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
        p = np.exp(log_p)
        part = self._part[indices]
        if self._probs is None:
            self._probs = np.zeros((len(self._counts), p.shape[1]))
        np.add.at(self._probs, part, p)
        np.add.at(self._negative_entropy, part, (p * log_p).sum(-1))
        np.add.at(self._counts, part, 1)

    def result(self) -> tuple[float, float]:
        """Mean and standard deviation over the parts. Raises: ValueError if images are missing or came twice."""
        if not np.array_equal(self._counts, self._expected):
            raise ValueError(
                f"Inception score: {self._counts.sum()} images came, expected {len(self._part)}, each of them once"
            )
        mean = self._probs / self._counts[:, None]
        log_mean = np.log(np.where(mean > 0, mean, 1.0))
        scores = np.exp(self._negative_entropy / self._counts - (mean * log_mean).sum(-1))
        return float(scores.mean()), float(scores.std())


def inception_score(logits: np.ndarray, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """The score of logits [N, classes]: mean and standard deviation over the parts (`ScoreSums`)."""
    sums = ScoreSums(len(logits), splits, seed)
    sums.update(np.arange(len(logits)), logits)
    return sums.result()
