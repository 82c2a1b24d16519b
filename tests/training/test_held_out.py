"""The loss on pictures that are held out: a closed form, and that it is the same each time."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.system import make_system
from ldm_jax.training import held_out
from ldm_jax.training.first_stage_job import image_transform
from tests import tiny_diffusion
from tests.training.test_objective import Affine, frozen


def test_a_network_that_says_zero_misses_the_pictures_of_the_test_split(tmp_path):
    rng, pictures = np.random.default_rng(0), {}
    for split, number in (("train", 2), ("test", 21)):
        (tmp_path / split).mkdir()
        for i in range(number):
            pictures[split, i] = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pictures[split, i]).save(tmp_path / split / f"{i:02d}.png")
    data = dict(name="folder", split="train", root=str(tmp_path), recipe="none")
    config = tiny_diffusion.get_config().to_dict() | dict(
        conditioning=None, data=data, prediction_type="x_start"
    )
    config |= dict(holdout_every=1, condition_dropout=0.5)
    system = make_system(config)._replace(unet=Affine())
    measure = held_out.make(config, system, frozen(0.5), image_transform(config))
    zero = {"unet": {"w": np.zeros((3, 3), np.float32), "b": np.zeros(3, np.float32)}}
    found = measure(zero)
    shown = [pictures["test", i * 21 // 21] / 127.5 - 1 for i in range(16)]  # whole batches alone
    np.testing.assert_allclose(found["holdout/loss"], np.square(0.5 * np.stack(shown)).mean(), rtol=1e-5)
    levels = {name for name in found if name != "holdout/loss"}
    assert levels == {f"holdout/loss_by_timestep/{i / 10:.1f}" for i in range(10)}
    assert measure(zero) == found
    with pytest.raises(ValueError, match="'test' is empty"):
        flat = dict(config, data=dict(data, root=str(tmp_path / "train")))
        held_out.make(flat, system, frozen(0.5), image_transform(config))
    lines = [{"file_name": f"{i:02d}.png", "text": "a"} for i in range(21)]
    (tmp_path / "test" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "test" / "07.png").unlink()  # it could not be read, and was taken away
    flat = dict(config, data=dict(data, root=str(tmp_path / "test"), holdout=0.3))
    with pytest.raises(FileNotFoundError, match="07.png"):
        held_out.make(flat, system, frozen(0.5), image_transform(config))
    assert held_out.make(flat, system, frozen(0.5), image_transform(config), [["07.png", 9, "a"]])
    assert held_out.make(config | dict(holdout_every=0), system, frozen(0.5), image_transform(config)) is None
