"""Batch n depends on (seed, n) alone: bit-exact restarts, shards that add up, errors that name the
example."""

import itertools

import numpy as np
import pytest

from ldm_jax.data import pipeline


class Numbers:
    """A source whose example i is a 2 x 2 picture of i."""

    def __init__(self, length: int, broken: int | None = None):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __repr__(self):
        return "numbers"

    def __getitem__(self, index):
        if index == self.broken:
            raise OSError("disk on fire")
        return {"image": np.full((2, 2, 3), index, np.uint8), "caption": f"number {index}"}

    def fingerprint(self):
        return str(self.length)


def noisy(example, rng):
    return {**example, "draw": rng.random(3)}


def take(number, source=None, **options):
    options = {"batch_size": 4, "transform": noisy, "seed": 7} | options
    return list(itertools.islice(pipeline.batches(source or Numbers(10), **options), number))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype.kind == b[key].dtype.kind
        np.testing.assert_array_equal(a[key], b[key])


def test_epochs_are_permutations_and_differ():
    index = np.concatenate([batch["index"] for batch in take(10)])
    epochs = index.reshape(4, 10)  # 10 batches of 4 are 4 epochs of 10: batches reach over their borders
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_unshuffled_is_in_order():
    index = np.concatenate([batch["index"] for batch in take(5, shuffle=False)])
    np.testing.assert_array_equal(index, np.arange(20) % 10)


def test_examples_keep_their_fields():
    batch = take(1)[0]
    for i in range(4):
        assert (batch["image"][i] == batch["index"][i]).all()
        assert batch["caption"][i] == f"number {batch['index'][i]}"
    assert batch["image"].dtype == np.uint8 and batch["image"].shape == (4, 2, 2, 3)


@pytest.mark.parametrize("start", [1, 2, 6])  # 2 lies across the first epoch's border
def test_restart_gives_the_exact_batch(start):
    whole = take(start + 2)
    for a, b in zip(take(2, start_step=start), whole[start:], strict=True):
        assert_same(a, b)


def test_threads_change_nothing():
    for a, b in zip(take(6, num_threads=0), take(6, num_threads=3), strict=True):
        assert_same(a, b)


def test_seeds_change_order_and_draws():
    a, b = take(1)[0], take(1, seed=8)[0]
    assert (a["index"] != b["index"]).any() and not np.isin(a["draw"], b["draw"]).any()


def test_draws_differ_between_epochs():
    draws = np.concatenate([batch["draw"].ravel() for batch in take(10)])
    assert len(np.unique(draws)) == len(draws)


@pytest.mark.parametrize("start", [0, 3])
def test_shards_together_are_the_global_batch(start):
    shards = [take(3, batch_size=2, start_step=start, process_index=p, process_count=2) for p in (0, 1)]
    for whole, first, second in zip(take(3, start_step=start), *shards, strict=True):
        joined = {key: np.stack([first[key], second[key]], 1).reshape(whole[key].shape) for key in whole}
        assert_same(joined, whole)


def test_batch_larger_than_the_data():
    index = take(1, source=Numbers(3), batch_size=8)[0]["index"]
    assert sorted(index[:3]) == sorted(index[3:6]) == [0, 1, 2]


def test_evaluation_holds_each_example_once():
    got = list(pipeline.evaluation_batches(Numbers(10), batch_size=4, transform=noisy))
    assert [len(b["index"]) for b in got] == [4, 4, 4]
    valid = np.concatenate([b["valid"] for b in got])
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in got])[valid], np.arange(10))
    np.testing.assert_array_equal(valid, [True] * 10 + [False] * 2)
    again = list(pipeline.evaluation_batches(Numbers(10), batch_size=4, transform=noisy))
    for a, b in zip(got, again, strict=True):
        assert_same(a, b)


def test_evaluation_shards_have_equal_length_and_cover_all():
    shards = [
        list(
            pipeline.evaluation_batches(
                Numbers(9), batch_size=2, transform=noisy, process_index=p, process_count=2
            )
        )
        for p in (0, 1)
    ]
    assert len(shards[0]) == len(shards[1]) == 3
    seen = np.concatenate([b["index"][b["valid"]] for shard in shards for b in shard])
    assert sorted(seen) == list(range(9))


@pytest.mark.parametrize("num_threads", [0, 3])
def test_examples_in_order_are_those_of_evaluation(num_threads):
    whole = next(pipeline.evaluation_batches(Numbers(10), batch_size=10, transform=noisy))
    indices = [3, 4, 5, 9, 0]
    some = pipeline.in_order(Numbers(10), transform=noisy, indices=indices, num_threads=num_threads)
    for index, example in zip(indices, some, strict=True):
        for key in example:
            np.testing.assert_array_equal(example[key], whole[key][index])


@pytest.mark.parametrize("num_threads", [0, 2])
def test_errors_name_the_example(num_threads):
    with pytest.raises(RuntimeError, match="example 6 of numbers cannot be read: disk on fire"):
        take(3, source=Numbers(10, broken=6), num_threads=num_threads)

    def fail(example, rng):
        raise ValueError("too small")

    with pytest.raises(RuntimeError, match=r"example \d of numbers cannot be transformed: too small"):
        take(1, transform=fail, num_threads=num_threads)
    with pytest.raises(RuntimeError, match="example 6"):
        list(pipeline.evaluation_batches(Numbers(10, broken=6), batch_size=2, transform=noisy))
    with pytest.raises(RuntimeError, match="example 6 of numbers cannot be read"):
        broken = Numbers(10, broken=6)
        list(pipeline.in_order(broken, transform=noisy, indices=range(10), num_threads=num_threads))

    def ragged(example, rng):
        return {"box": np.zeros(1 + example["index"] % 2)}

    with pytest.raises(ValueError, match=r"'box' has the shapes"):
        take(1, transform=ragged, num_threads=num_threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": Numbers(0)}, "empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"start_step": -1}, "start_step is -1"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2"),
    ],
)
def test_bad_numbers_are_refused_at_once(options, message):
    options = {"source": Numbers(4), "batch_size": 2} | options
    with pytest.raises(ValueError, match=message):
        pipeline.batches(options.pop("source"), transform=noisy, seed=0, **options)


def test_collate_names_the_ragged_key():
    with pytest.raises(ValueError, match=r"'boxes' has the shapes \[\(1, 4\), \(2, 4\)\]"):
        pipeline.collate([{"boxes": np.zeros((1, 4))}, {"boxes": np.zeros((2, 4))}])
    with pytest.raises(ValueError, match="differ in \\['caption'\\]"):
        pipeline.collate([{"image": np.zeros(3)}, {"image": np.zeros(3), "caption": ""}])


def test_unknown_source_lists_those_there_are():
    with pytest.raises(
        ValueError,
        match="'imagenot' not found; ldm_jax/data/ has: ade20k, array_record, .*, tfds, voc, webdataset",
    ):
        pipeline.open_source("imagenot", "train")
