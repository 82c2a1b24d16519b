"""From a source to batches: shuffled by seed, sharded by host, restartable to the exact batch.

Batch n of a run is a function of (source, transform, seed, n) alone, so that a run which starts again at step
n sees what the interrupted one would have seen, and P processes together see what one would have seen. Built
on grain's MapDataset, whose every stage is random access. What a source is: data/*.py that exports `source`.
What is done to an example is the caller's `transform`; this file does not look at pixels, and knows neither
jax nor devices.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from ldm_jax.find import find

Example = dict[str, Any]
Batch = dict[str, np.ndarray]
Transform = Callable[[Example, np.random.Generator], Example]
ANY = "**"


class Source(Protocol):
    """What every source is asked for; what one may have beyond it is listed in Abilities, and asked for through it.

    Messages name a source by its repr.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Random access: `image` [H, W, 3] uint8 or, where latents are stored, `moments` [h, w, 2c] float32 in its
        place; `caption` (str), `class_label` (int) and annotations (arrays) where the data have them. Every example
        has the same fields."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of the list of contents: the same where the same index gives the same example."""
        ...


class Abilities(NamedTuple):
    """What a source may have beyond Source, by the names of its own methods and values; the defaults stand for none.

    pick(example, rng) -> fields: chooses among what is stored of an example, such as the mirror image's moments.
    cut(example, size, rng) -> {'image': [size, size, 3] float32 in [-1, 1], …}: cuts what lies on a picture with it,
        and takes the place of config.data.recipe.
    caption(index, rng) -> str: one of many captions of an example, another each time, in the place of its `caption`.
    said(index) -> list of str: the captions of an example, for which no picture is decoded.
    described(index, rng) -> (caption, phrases), where phrases are (start, end, mask): caption[start:end] speaks of
        what covers mask [H, W] float32 in [0, 1]; end == start: of what it does not name.
    segments(index) -> [({name: label}, mask), …]: the classes of what covers mask [H, W] float32 in [0, 1], of each
        object in the picture. Labels of a name count from 0; masks together cover no pixel more than once.
    class_names: of the labels of `class_label` or of layouts, in order.
    shapes() -> [N, 2] int, (height, width) of all pictures, read from their files' headers.
    unreadable_files() -> entries of the files that could not be read so far, which `source` takes as `known`.
    Of latents that were stored ahead of training (latents.py):
    statistics: {'scale_factor', 'mean', 'std', 'number'} of all of them.
    check(first_stage=fingerprint, image_size=pixels): raises ValueError if a model's latents are others.
    has_text: whether the outputs of a text encoder are stored. check_text(fingerprint or None if it is trained):
        raises ValueError if a model's encoder gives others.
    """

    pick: Transform = lambda example, rng: dict(example)
    cut: Callable[[Example, int, np.random.Generator], Example] | None = None
    caption: Callable[[int, np.random.Generator], str] | None = None
    said: Callable[[int], list[str]] | None = None
    described: Callable[[int, np.random.Generator], tuple[str, list]] | None = None
    segments: Callable[[int], list] | None = None
    class_names: Sequence[str] = ()
    shapes: Callable[[], np.ndarray] | None = None
    unreadable_files: Callable[[], list] = list
    statistics: Mapping[str, Any] | None = None
    check: Callable[..., None] = lambda **model: None
    has_text: bool = False
    check_text: Callable[[str | None], None] = lambda text_encoder: None


def abilities(source: Source) -> Abilities:
    """What `source` has beyond what each source has. A method or value that it lacks, or that is None, is none."""
    has = {name: getattr(source, name, None) for name in Abilities._fields}
    return Abilities(**{name: value for name, value in has.items() if value is not None})


def open_source(name: str, split: str, **options: Any) -> Source:
    """`source(split, **options)` of data/<name>.py, or of a module of the user's own where name is 'module:function'.

    Raises: ValueError for an unknown name or option, with those there are, an option that is missing, and for what is
    no Source.
    """
    source, known = maker(name), options_of(name)
    for option in options:
        if option not in known and ANY not in known:
            raise ValueError(f"data {name!r} has no option {option!r}; it has: {', '.join(known)}")
    try:
        inspect.signature(source).bind(split, **options)
    except TypeError as error:
        raise ValueError(f"data {name!r}: {error}: --config.data.OPTION=VALUE gives it") from None
    opened = source(split, **options)
    lacks = [method for method in ("__len__", "__getitem__", "fingerprint") if not hasattr(opened, method)]
    if lacks:
        raise ValueError(f"data {name!r} gives {type(opened).__name__}, which has no {', '.join(lacks)}()")
    return opened


def maker(name: str) -> Callable[..., Source]:
    """The function `source` of a name. Raises: ValueError for an unknown one, or a module or function that is not
    there."""
    if ":" not in str(name):
        return find("data", name).source
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it, and console commands do not
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ValueError(f"data {name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"data {name!r}: {module} has no function {function!r}")
    return found


def options_of(name: str) -> list[str]:
    """The options of the source of a name; ANY stands for any. Raises: as `maker`."""
    parameters = list(inspect.signature(maker(name)).parameters.values())
    return [ANY if p.kind is p.VAR_KEYWORD else p.name for p in parameters if p.name != "split"]


class _Indexed:
    """A source whose examples carry their `index`; an error in reading one says which."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        return repr(self.source)

    def __getitem__(self, index: int) -> Example:
        try:
            return {"index": int(index), **self.source[int(index)]}
        except Exception as error:
            raise RuntimeError(f"example {int(index)} of {self.source!r} cannot be read: {error}") from error


def _named(transform: Transform, source: Source) -> Transform:
    """The transform; an error in it says which example it met."""

    def named(example: Example, rng: np.random.Generator) -> Example:
        index = example["index"]
        try:
            return transform(example, rng)
        except Exception as error:
            raise RuntimeError(f"example {index} of {source!r} cannot be transformed: {error}") from error

    return named


def collate(examples: list[Mapping[str, Any]]) -> Batch:
    """Stacks examples to {key: [B, ...] array}; strings become a [B] array of str.

    Raises: ValueError naming the key whose shapes differ, or the keys that some example lacks.
    """
    keys = set(examples[0])
    for example in examples:
        if set(example) != keys:
            raise ValueError(
                f"examples of one batch differ in {sorted(keys ^ set(example))}; each needs the same keys"
            )
    batch = {}
    for key in examples[0]:
        values = [np.asarray(example[key]) for example in examples]
        shapes = sorted({v.shape for v in values})
        if len(shapes) > 1:
            raise ValueError(
                f"{key!r} has the shapes {shapes} within one batch, expected a single one; "
                "let the transform resize, pad or drop it"
            )
        batch[key] = np.stack(values)
    return batch


def _check(source: Source, batch_size: int, process_index: int, process_count: int) -> None:
    if len(source) == 0:
        raise ValueError(f"{source!r} is empty, expected at least one example")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}, expected 0 <= process_index < process_count = {process_count}"
        )


def batches(
    source: Source,
    *,
    batch_size: int,
    transform: Transform,
    seed: int,
    shuffle: bool = True,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    order: Sequence[Any] | None = None,
) -> Iterator[Batch]:
    """Training batches without end; the first is number `start_step`.

    batch_size: of this process; the global batch has batch_size * process_count examples. A batch may reach
        over the end of an epoch: no example is dropped. Epochs are shuffled differently.
    transform: (example, rng) -> example of fixed shapes. The example also carries its `index` (int); rng
        depends on (seed, position in the run), not on the process, the thread or the restart.
    num_threads: that prepare batches ahead; 0 prepares each batch when it is asked for.
    order: aspect_buckets.Order in the place of shuffled epochs: what (index, shape) each position of the run has. The
        example then carries its `bucket`, the shape.

    Raises: ValueError for empty data or numbers out of range; RuntimeError, in next(), that names the example
    which could not be read or transformed.
    """
    _check(source, batch_size, process_index, process_count)
    if start_step < 0:
        raise ValueError(f"start_step is {start_step}, expected at least 0")
    indexed = _Indexed(source)
    if order is not None:
        dataset = grain.MapDataset.source(order).seed(seed)
        dataset = dataset.map(lambda place: {**indexed[place.index], "bucket": place.shape})
    else:
        dataset = grain.MapDataset.source(indexed).seed(seed)
        dataset = (dataset.shuffle() if shuffle else dataset).repeat()
    dataset = dataset.random_map(_named(transform, source))
    dataset = dataset[process_index::process_count].batch(batch_size, drop_remainder=True, batch_fn=collate)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return iter(dataset[start_step:].to_iter_dataset(options))


def in_order(
    source: Source, *, transform: Transform, indices: Sequence[int], num_threads: int = 2
) -> Iterator[Example]:
    """The transformed examples of `indices`, one by one, in that order. The transform's rng depends on the index alone.

    num_threads: that prepare examples ahead; 0 prepares each when it is asked for.
    Raises: as `batches`.
    """
    _check(source, 1, 0, 1)
    indexed, named = _Indexed(source), _named(transform, source)

    def read(index: int) -> Example:
        return named(indexed[index], np.random.default_rng(index))

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=16 * num_threads)
    return iter(grain.MapDataset.source(indices).map(read).to_iter_dataset(options))


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    transform: Transform,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is padded with the last example.

    Each batch has `valid` [B] bool beside the transform's fields: False for padding. Each process yields the
    same number of batches, and together they hold each example once. The transform's rng depends on the index
    alone.

    Raises: as `batches`.
    """
    _check(source, batch_size, process_index, process_count)
    indexed, named = _Indexed(source), _named(transform, source)

    def generate() -> Iterator[Batch]:
        number, step = len(source), batch_size * process_count
        for start in range(0, number, step):
            slots = range(start + process_index, start + step, process_count)
            indices = [min(slot, number - 1) for slot in slots]
            batch = collate([named(indexed[i], np.random.default_rng(i)) for i in indices])
            yield batch | {"valid": np.asarray([slot < number for slot in slots])}

    return generate()
