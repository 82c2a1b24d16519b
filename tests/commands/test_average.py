"""The length of a run's running average, chosen after training."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle, train_state
from ldm_jax.commands import average
from ldm_jax.first_stage import make_first_stage
from ldm_jax.training import averages
from ldm_jax.training.state import TrainState
from tests.training.test_equivariance import SMALL

STEPS = (40, 80, 120, 160, 200)


def run(folder, decay=0.9999, steps=STEPS):
    """A workdir of a first stage whose average after step n is n in every parameter."""
    config = dict(
        task="first_stage", image_size=16, first_stage=SMALL, ema_decay=decay, optimizer=dict(accumulate=1)
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shapes = make_first_stage(SMALL).init(jax.random.key(0))
    checkpoints = train_state.manager(folder, keep=len(STEPS))
    with train_state.closing(checkpoints):
        for step in steps:
            kept = jax.tree.map(lambda x, step=step: jnp.full(x.shape, float(step)), shapes)
            state = TrainState(jnp.int32(step), {"autoencoder": kept}, None if decay is None else kept, {})
            train_state.save(checkpoints, step, state, wait=True)
    return folder


def test_it_writes_the_sum_of_the_kept_averages(tmp_path, capsys):
    average.main([str(run(tmp_path / "run")), "--sigma_rel", "0.15", "--out", str(tmp_path / "out")])
    profiles = [averages.profile(step, 200, 0.9999) for step in STEPS]
    expected = averages.coefficients(profiles, averages.power_profile(200, 0.15))[0] @ np.asarray(STEPS)
    found = jax.tree.leaves(bundle.read(tmp_path / "out").params["first_stage"])
    assert len(found) > 20
    for leaf in found:
        np.testing.assert_allclose(leaf, expected, rtol=1e-5)
    assert "5 averages of steps 40 to 200, within" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sigma_rel", "message"),
    [
        (dict(decay=None), 0.1, "keeps no averages: its ema_decay is None"),
        (
            dict(steps=STEPS[:1]),
            0.1,
            "has 1 checkpoints, expected several to put an average together: config.keep",
        ),
        (dict(decay=0.5), 0.2, "come within .*% of one of width 0.2, expected 50%: keep more of them"),
        (dict(), 0.5, "sigma_rel is 0.5, expected a width above 0"),
    ],
)
def test_what_is_refused(tmp_path, changes, sigma_rel, message):
    with pytest.raises(ValueError, match=message):
        average.averaged(str(run(tmp_path / "run", **changes)), sigma_rel)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match="config.json"):
        average.averaged(str(tmp_path), 0.1)
