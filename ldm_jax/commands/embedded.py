"""Jobs whose prompts or reference picture become embeddings, for models that are told embeddings: retrieval-augmented
ones and unCLIP's.

Decides which field of a job takes the place of which. It knows no command line (commands/sample.py does).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ldm_jax.conditioning import retrieval
from ldm_jax.data.neighbours import Neighbors
from ldm_jax.evaluation import networks
from ldm_jax.inference.embedding_prior import Prior
from ldm_jax.metrics import features
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.tasks.jobs import Job


class Retrieval:
    """From captions to what a retrieval-augmented model is told.

    clip: both towers. database: None: the caption's embedding alone. k: neighbors of each caption.
    Raises: ValueError for a data base of another width than CLIP's, or of fewer than k entries.
    """

    def __init__(self, clip: networks.Clip, database: Neighbors | None, k: int = 10):
        self.clip, self.database, self.k = clip, database, k

    def tokens(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """[1 + k, D] float32 for each prompt: its embedding and then its nearest neighbors', of length 1."""
        queries = self.clip.embed(prompts)
        none = np.empty((len(queries), 0, queries.shape[1]), np.float32)
        nearest = none if self.database is None else self.database.nearest(queries, self.k)[1]
        return [retrieval.tokens(query, rows) for query, rows in zip(queries, nearest, strict=True)]

    def told(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, where those with a prompt and no embeddings have the prompt's in its place."""
        asking = {job.name for job in jobs if "prompt" in job.given and "embeddings" not in job.given}
        prompts = list(dict.fromkeys(job.given["prompt"] for job in jobs if job.name in asking))
        found = dict(zip(prompts, self.tokens(prompts), strict=True)) if prompts else {}
        return [job._replace(given=_told(job.given, found)) if job.name in asking else job for job in jobs]


def _told(given: Mapping, found: Mapping[str, np.ndarray]) -> dict:
    return {k: v for k, v in given.items() if k != "prompt"} | {"embeddings": found[given["prompt"]]}


class Reference:
    """The embedding of one picture [H, W, 3] uint8, for every job that gives none itself."""

    def __init__(self, clip: networks.Clip, picture: np.ndarray):
        images = ArrayImages(picture[None])
        _, found = next(iter(features.extract(images, clip.extractor, layers=("embedding",), batch_size=1)))
        self.embedding = found["embedding"][0]

    def told(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, each with the embedding."""
        return [job._replace(given={"image_embedding": self.embedding} | dict(job.given)) for job in jobs]


class Prompted:
    """Embeddings of pictures that a prior makes of prompts' embeddings by the same CLIP."""

    def __init__(self, clip: networks.Clip, prior: Prior):
        self.clip, self.prior = clip, prior

    def told(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, where those that give no embedding have their prompt's, drawn by the job's seed. The prompt stays:
        the model may be told it as well."""
        asking = [job for job in jobs if "image_embedding" not in job.given]
        if not asking:
            return list(jobs)
        text = self.clip.embed([job.given.get("prompt", "") for job in asking])
        drawn = self.prior.embeddings(text, [job.seed for job in asking])
        found = {job.name: embedding for job, embedding in zip(asking, drawn, strict=True)}
        return [
            job._replace(given=dict(job.given) | {"image_embedding": found[job.name]})
            if job.name in found
            else job
            for job in jobs
        ]
