"""What is saved is the state at the time of saving, and is given back in any layout."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.training import checkpoint, parallel


def test_a_state_may_be_donated_while_it_is_being_saved(tmp_path):
    """Orbax writes in the background, and on a CPU from the very memory that the next step is given to write to."""
    layout = parallel.make()
    step = jax.jit(lambda state: {"x": state["x"] + 1}, donate_argnums=0)
    state = step(layout.place({"x": np.zeros((1024, 4096), np.float32)}))
    checkpoints = checkpoint.manager(tmp_path)
    checkpoint.save(checkpoints, 1, state)
    for _ in range(20):
        state = step(state)
    jax.block_until_ready(state)
    checkpoints.wait_until_finished()
    like = layout.abstract({"x": jnp.zeros((1024, 4096))})
    restored, at = checkpoint.restore(checkpoints, like)
    checkpoints.close()
    assert at == 1
    np.testing.assert_array_equal(restored["x"], 1.0)
    np.testing.assert_array_equal(state["x"], 21.0)


def test_a_reader_changes_nothing(tmp_path):
    layout = parallel.make()
    checkpoints = checkpoint.manager(tmp_path)
    checkpoint.save(checkpoints, 3, layout.place({"x": np.arange(3.0)}), wait=True)
    checkpoints.close()
    reader = checkpoint.manager(tmp_path, only_reading=True)
    state, step = checkpoint.restore(reader)
    reader.close()
    assert step == 3
    np.testing.assert_array_equal(state["x"], np.arange(3.0))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
