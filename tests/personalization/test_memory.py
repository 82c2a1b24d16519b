"""What training holds between steps, of Stable Diffusion 1: the bytes of the state and of what is frozen beside it.

python -m pytest -n 0 -s tests/personalization/test_memory.py prints them.
"""

import jax
import numpy as np
import pytest

from ldm_jax.config import load_config
from ldm_jax.distributed import parallel
from ldm_jax.training import program


def gigabytes(config: dict) -> float:
    made = program.make_training_program(config, parallel.make("pmap", None))
    leaves = jax.tree.leaves((made.state, made.frozen))
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves) / 1e9


@pytest.fixture(scope="module")
def whole() -> dict:
    """configs/sd1.py with the optimizer that adapters are trained with, so that the states compare."""
    config = load_config("configs/sd1.py")
    config |= dict(first_stage=load_config("configs/kl_f8.py")["first_stage"])
    return config | dict(optimizer=load_config("configs/lora.py")["optimizer"], batch_size=jax.device_count())


def test_an_adapter_takes_less_than_half(whole):
    vocabulary = dict(whole["conditioning"], vocab_size=49409)
    sections = {
        "whole": None,
        "lora": dict(name="lora", rank=4, text_rank=4),
        "textual_inversion": dict(name="textual_inversion", token="<it>"),
        "custom_diffusion": dict(name="custom_diffusion"),
    }
    found = {}
    for name, section in sections.items():
        config = whole | (dict(personalization=section, freeze=()) if section else {})
        config |= dict(conditioning=vocabulary) if name == "textual_inversion" else {}
        found[name] = gigabytes(config)
        print(f"{name}: {found[name]:.2f} GB")
    assert found["lora"] <= 0.5 * found["whole"]
    assert found["textual_inversion"] < found["lora"] < found["custom_diffusion"] < found["whole"]
