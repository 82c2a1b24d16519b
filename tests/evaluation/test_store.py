import json

import numpy as np
import pytest

from ldm_jax.evaluation.store import Store


def rows(start, stop):
    return {
        "a": np.arange(start, stop, dtype=np.float32)[:, None] * [1.0, 10.0],
        "seen": np.arange(start, stop),
    }


def test_rows_outlive_the_process_and_go_on(tmp_path):
    first = Store(tmp_path, {"model": "x"}, 7, {"seen": 3})
    first.put(0, rows(0, 2))
    second = Store(tmp_path, {"model": "x"}, 7, {"seen": 3})
    assert second.done == 2
    second.put(2, rows(2, 6))
    second.put(6, rows(6, 7))
    third = Store(tmp_path, {"model": "x"}, 7, {"seen": 3})
    assert third.done == 7
    np.testing.assert_array_equal(third.array("a"), rows(0, 7)["a"])
    np.testing.assert_array_equal(third.array("seen"), [0, 1, 2])


def test_rows_that_were_not_finished_do_not_count(tmp_path):
    store = Store(tmp_path, {}, 4)
    store.put(0, rows(0, 2))
    broken = Store(tmp_path, {}, 4)
    with pytest.raises(ValueError, match="broadcast"):
        broken.put(2, {"a": np.ones((2, 2), np.float32), "seen": np.ones((2, 5), int)})
    again = Store(tmp_path, {}, 4)
    assert again.done == 2
    again.put(2, rows(2, 4))
    np.testing.assert_array_equal(again.array("a"), rows(0, 4)["a"])


def test_what_is_of_another_run_is_refused(tmp_path):
    Store(tmp_path, {"model": "x"}, 4).put(0, rows(0, 1))
    with pytest.raises(
        ValueError, match="holds another evaluation: model is 'x' there and 'y' here; take another"
    ):
        Store(tmp_path, {"model": "y"}, 4)
    with pytest.raises(ValueError, match="count is 4 there and 5 here"):
        Store(tmp_path, {"model": "x"}, 5)
    with pytest.raises(ValueError, match=r"b\.npy is not there, though 1 rows are done"):
        Store(tmp_path, {"model": "x"}, 4).array("b")
    (tmp_path / "progress.json").write_text(json.dumps({"done": 1}))
    with pytest.raises(ValueError, match="cannot be read"):
        Store(tmp_path, {"model": "x"}, 4)
