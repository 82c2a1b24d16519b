"""Resolves the settings of sampling from the user's options, the model's recommendations and the library's defaults.

Decides which of them takes precedence, which values are valid, and how many pictures are computed at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.diffusion.schedule import NoiseSchedule
from ldm_jax.inference import checks
from ldm_jax.inference.sampler_options import sampler_options, split_sampler_options, visited_timesteps
from ldm_jax.text_files import shown
from ldm_jax.types import MAX_SEED

DTYPES = ("bfloat16", "float16", "float32")
# Defaults for models without recommendations.
FALLBACK = dict(
    num_steps=50, guidance_scale=1.0, sampler="ddim", eta=None, spacing="uniform", final_alpha=None, clip_denoised=None,
    sampler_options=None,
)  # fmt: skip

# Options of `sample` that are editing methods by another name: they change how much is computed, not what is asked for.
FASTER = dict(cache="feature_caching", merge="token_merging")


def with_faster(asked: Mapping[str, Any]) -> Any:
    """`edit` of a call, after the methods that its `cache` and `merge` stand for."""
    named = {method: asked[name] for name, method in FASTER.items() if asked[name] is not None}
    edit = asked["edit"]
    if not named or edit is None:
        return named or edit
    return [named, *edit] if isinstance(edit, list | tuple) else [named, edit]


def resolve_settings(recommended: Mapping[str, Any], **asked) -> dict[str, Any]:
    """The settings named in FALLBACK: the requested value or, if that is None, the recommended one (`sampling` of the
    model's config), else FALLBACK's.

    The recommended spacing, eta, final_alpha, clip_denoised and sampler_options belong to the recommended sampler and
    are ignored for any other; of sampler_options those that are not requested stay.
    Raises: ValueError for a number that is invalid or not finite.
    """
    own = recommended.get("sampler", FALLBACK["sampler"])
    kept = asked.get("sampler") in (None, own)
    belonging = ("eta", "spacing", "final_alpha", "clip_denoised", "sampler_options")
    made = {k: recommended[k] for k in FALLBACK if k in recommended and (kept or k not in belonging)}
    settings = FALLBACK | made | {k: v for k, v in asked.items() if v is not None}
    if made.get("sampler_options") and asked.get("sampler_options"):
        settings["sampler_options"] = {**made["sampler_options"], **asked["sampler_options"]}
    checks.check(settings)
    return settings


def check_sampling(options: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """Checks the `sampling` section of a config. Raises: ValueError for errors that would otherwise stop a training run
    at its first preview."""
    known = (*FALLBACK, "batch_size")
    for name in options:
        if name not in known:
            raise ValueError(f"sampling has no option {name!r}; it has: {', '.join(known)}")
    settings = FALLBACK | dict(options)
    split_sampler_options(settings["sampler"], sampler_options(settings))
    visited_timesteps(settings, schedule)


def compute_dtype(config: Mapping[str, Any], platform: str, asked: str | None = None) -> str:
    """The dtype that the networks of a model compute in: what is asked for, or a 16-bit one that its config says; else
    bfloat16, or float32 on a CPU, which has no faster one.

    Parameters are cast once (System.in_compute_dtype); what is float32 everywhere stays it. Raises: ValueError for
    another one.
    """
    if asked is not None and asked not in DTYPES:
        raise ValueError(f"dtype {asked!r} not found; there are: {', '.join(DTYPES)}")
    own = config.get("dtype", "float32")
    return asked or (own if own != "float32" else "float32" if platform == "cpu" else "bfloat16")


def check_seeds(seeds: Sequence[int]) -> np.ndarray:
    """[N] uint32. Raises: ValueError if there are no seeds, or if one is not an integer in [0, 2**32)."""
    try:
        if isinstance(seeds, list | tuple) and any(isinstance(seed, str | bytes) for seed in seeds):
            raise TypeError  # in an array every entry would be as long as the longest text
        seeds = np.atleast_1d(np.asarray(seeds))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"seeds: got {shown(seeds)}, expected integers in [0, {MAX_SEED}]") from None
    if seeds.ndim > 1:
        raise ValueError(f"seeds: got shape {seeds.shape}, expected one integer for each picture")
    if not seeds.size:
        raise ValueError("seeds: got none, expected at least one")
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.min() < 0 or seeds.max() > MAX_SEED:
        raise ValueError(f"seeds: got {shown(seeds.tolist())}, expected integers in [0, {MAX_SEED}]")
    return seeds.astype(np.uint32)


def one_each(values: Any, number: int, name: str, spread: bool = True) -> Sequence:
    """One value per picture; a single value applies to all, and is repeated if spread. Raises: ValueError for any other
    number of values."""
    values = as_list(values, name)
    if len(values) == 1:
        return [values[0]] * number if spread else values
    if len(values) != number:
        raise ValueError(
            f"{name}: got {len(values)} for {number} seeds, expected one for each, or a single one"
        )
    return values


def as_list(values: Any, name: str) -> Sequence:
    """values as they are, a single one as a list. Raises: ValueError for what is neither."""
    values = [values] if isinstance(values, str | int | Mapping) else values
    array = hasattr(values, "shape") and hasattr(values, "__getitem__")
    if isinstance(values, bytes) or not (isinstance(values, Sequence) or (array and values.shape)):
        raise ValueError(f"{name}: got {shown(values)}, expected a list with one for each picture")
    return values


def bucket(number: int, batch_size: int, num_devices: int = 1) -> int:
    """The batch size for `number` pictures: on each device 1, 2, 4, 8, … or batch_size, the smallest that is enough. An
    incomplete batch is padded with copies of its last picture.

    Raises: ValueError for a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    on_each = -(-number // num_devices)
    return num_devices * min(batch_size, 1 << (on_each - 1).bit_length())


def batches(number: int, batch_size: int, num_devices: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of a batch into `number` values, how many of them count); all batches are of one size, `bucket`."""
    size = bucket(number, batch_size, num_devices)
    for start in range(0, number, size):
        yield np.minimum(np.arange(start, start + size), number - 1), min(size, number - start)


def pictures_of(named: Mapping[str, Any], asked: Mapping) -> tuple[dict[str, Sequence], np.ndarray]:
    """(conditions, one each or one for all; seeds [N] uint32): as many pictures as there are seeds, or else conditions.

    Raises: ValueError for conditions of several numbers, or of another one than there are seeds.
    """
    given = {name: as_list(values, name) for name, values in named.items() if values is not None}
    if asked["prompt_embeddings"] is not None:
        if "prompts" in given:
            raise ValueError("prompts and prompt_embeddings: got both, expected one of them")
        given["prompts"] = [""] * len(asked["prompt_embeddings"])
    times = asked["num_images_per_prompt"]
    if times != 1:
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ValueError(f"num_images_per_prompt is {times!r}, expected a whole number of at least 1")
        given = {name: [v for v in values for _ in range(times)] for name, values in given.items()}
    if asked["seeds"] is None:
        many = [
            *(len(v) for v in given.values()),
            *(len(asked[n]) for n in ("init_images", "latents") if asked[n] is not None),
        ]
        seeds = check_seeds(range(max(many, default=1) or 1))
    else:
        seeds = check_seeds(asked["seeds"])
    return {name: one_each(values, len(seeds), name) for name, values in given.items()}, seeds
