"""A folder of latents of random numbers, written without a network."""

from pathlib import Path

import numpy as np

from ldm_jax.data import latents_builder
from ldm_jax.data.latents import MadeOf

MADE = MadeOf(
    first_stage="a" * 64,
    data="d" * 64,
    source="pictures",
    split="train",
    number=5,
    image_size=8,
    recipe="none",
    flip=False,
    moments=[2, 2, 4],
    has_variance=True,
    dtype="float32",
    computed_in="float32",
    fields=["caption", "class_label", "layout", "image"],
    text_encoder=None,
    file_format="array_record",
    examples_per_shard=2,
)
STATISTICS = dict(scale_factor=0.5, mean=[0.0, 0.0], std=[2.0, 2.0])


def examples(made: MadeOf = MADE, seed: int = 0) -> list[dict]:
    """One per example, of every type that a field may have."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(made.number):
        fields = dict(
            caption=f"picture {i} é",
            class_label=i,
            layout=dict(boxes=(rng.random((1 + i % 3, 4)) / 2).tolist(), labels=list(range(1 + i % 3))),
            image=rng.integers(256, size=(8, 8, 3), dtype=np.uint8),
        )
        example = {"moments": rng.normal(size=made.moments).astype(np.float32)}
        if made.flip:
            example["moments_flipped"] = example["moments"][:, ::-1]
        out.append(example | {k: latents_builder.storable(k, v) for k, v in fields.items()})
    return out


def write(root: Path, made: MadeOf = MADE, shards: range | None = None) -> list[dict]:
    """Writes those shards, or all and what makes them a data set. Returns the examples of all."""
    given = examples(made)
    latents_builder.begin(root, made)
    for shard in range(made.num_shards) if shards is None else shards:
        own = [given[i] for i in made.examples(shard)]
        latents_builder.write_shard(root, made, shard, own, {}, given[0])
    if shards is None:
        latents_builder.finish(root, made, given[0], STATISTICS)
    return given
