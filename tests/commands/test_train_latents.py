"""train.py --latents: training from a folder of stored latents is resumed to the bit, refuses another first stage's,
and learns the same from stored outputs of the text encoder as from the encoder.

python -m pytest -n 0 -m slow tests/commands/test_train_latents.py
"""

import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.commands import train
from ldm_jax.data import latents
from ldm_jax.training.precompute import PrecomputeOptions, precompute
from tests import tiny_shapes
from tests.commands.test_train import leaves
from tests.tiny_models import random_bundle

pytestmark = pytest.mark.slow
OPTIONS = PrecomputeOptions(examples_per_shard=4, batch_size=4, num_threads=0)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> dict:
    """A text model whose encoder is not trained; its networks are in a bundle."""
    config = tiny_shapes.config() | dict(freeze=["conditioner"], total_steps=4, checkpoint_every=2)
    config["data"] = dict(name="shapes", split="train", num_scenes=8, annotations=False)
    folder = tmp_path_factory.mktemp("model")
    bundle.save(folder / "model", random_bundle(dict(config)))
    return config | dict(first_stage_from=str(folder / "model"), init_from=str(folder / "model"))


@pytest.fixture(scope="module")
def stored(config, tmp_path_factory) -> dict:
    """Two folders, by whether they hold the text encoder's outputs."""
    roots = {text: tmp_path_factory.mktemp("latents") / "out" for text in (False, True)}
    for text, root in roots.items():
        precompute(config, root, OPTIONS._replace(text=text))
    return roots


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Drawing samples takes longer to compile than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "show", lambda *_: None)
        yield


def on(root, config: dict, **changes) -> dict:
    return dict(config, data=latents.instead_of(config["data"], root)) | changes


def losses(config: dict, workdir, monkeypatch) -> list[float]:
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(train, "report", lambda *args: said.append(args[-2]["loss"]))
        train.train(config, workdir)
    return said


@pytest.fixture(scope="module")
def whole(config, stored, tmp_path_factory) -> tuple:
    """The last checkpoint of an uninterrupted run, and the losses of its steps."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        said = losses(on(stored[False], config), folder, patch)
    return leaves(folder), said


def test_a_run_that_was_stopped_and_resumed_is_the_uninterrupted_one(config, stored, whole, tmp_path):
    for steps in (2, 4):
        train.train(on(stored[False], config, total_steps=steps), tmp_path)
    expected, got = whole[0], leaves(tmp_path)
    assert got.keys() == expected.keys() and got["step"] == 4
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_stored_text_gives_the_losses_of_the_encoder(config, stored, whole, tmp_path, monkeypatch):
    found = losses(on(stored[True], config), tmp_path, monkeypatch)
    assert len(found) == 4
    np.testing.assert_allclose(found, whole[1], rtol=1e-5, atol=1e-5)


def test_latents_of_another_first_stage_or_encoder_are_refused(config, stored, tmp_path):
    bundle.save(tmp_path / "other", random_bundle(dict(config), seed=1))
    other = str(tmp_path / "other")
    with pytest.raises(ValueError, match="was made by the first stage .*, expected .*, which the config"):
        train.train(on(stored[False], config, first_stage_from=other), tmp_path / "run")
    with pytest.raises(ValueError, match="holds the outputs of the text encoder"):
        train.train(on(stored[True], config, init_from=other), tmp_path / "text")


def test_latents_that_were_made_anew_are_other_data(config, stored, whole, tmp_path):
    few = dict(config, data=dict(config["data"], num_scenes=6))
    precompute(few, tmp_path / "few", OPTIONS)
    (tmp_path / "link").symlink_to(stored[False])
    here = on(tmp_path / "link", config, total_steps=2)
    train.train(here, tmp_path / "linked")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "few")
    with pytest.raises(ValueError, match="was trained on other data than it would go on with"):
        train.train(here, tmp_path / "linked")
