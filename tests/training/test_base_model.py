"""What a config takes from the model that it stands on, or from the text encoder of one."""

import numpy as np
import pytest

from ldm_jax.checkpoints import write
from ldm_jax.checkpoints.base import Checkpoint
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.config import load_config
from ldm_jax.params import flatten
from ldm_jax.training.base_model import text_of, tokenizer_of, with_base
from tests.tiny_models import stable_diffusion_1


def test_the_text_encoder_of_a_model_is_taken_and_left_as_it_is():
    config = load_config("folder_text:runlocal") | dict(text_from="shapes")
    config["model"] |= dict(channels=16, context_dim=8)
    config = with_base(with_base(config))  # as train.py does
    shipped = open_checkpoint("shapes").bundle()
    assert config["conditioning"] == shipped.config["conditioning"] and config["freeze"] == ["conditioner"]
    assert config["model"]["context_dim"] == shipped.config["model"]["context_dim"] == 128
    tokenizer = tokenizer_of(config)
    assert tokenizer.encode("a red circle").ids == shipped.tokenizer.encode("a red circle").ids
    ours, theirs = flatten(text_of(config)["conditioner"]), flatten(shipped.params["conditioner"])
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_what_has_no_text_encoder_of_its_own_is_refused(tmp_path):
    config = load_config("folder_text:runlocal")
    with pytest.raises(ValueError, match="config.text_from goes without config.base"):
        with_base(config | dict(text_from="shapes", base="shapes"))
    with pytest.raises(ValueError, match="checkpoint 'nowhere' not found"):
        with_base(config | dict(text_from="nowhere"))
    with pytest.raises(ValueError, match="tokenizer /nowhere is not there"):
        with_base(load_config("finetune:runlocal") | dict(base_tokenizer="/nowhere"))


def test_a_single_file_is_trained_on_with_the_vocabulary_that_is_named(tmp_path):
    bundle = stable_diffusion_1(tmp_path / "vocabulary")
    whole = Checkpoint(bundle.config, bundle.params, bundle.tokenizer, "bundle")
    write.write(whole, tmp_path / "sd.safetensors", "compvis")
    config = load_config("finetune") | dict(base=str(tmp_path / "sd.safetensors"))
    assert tokenizer_of(with_base(config)) is None  # which check_example then says
    config = with_base(config | dict(base_tokenizer=str(tmp_path / "vocabulary")))
    assert config["init_from"] == config["first_stage_from"] == config["base"]
    assert config["model"]["context_dim"] == bundle.config["model"]["context_dim"]
    assert tokenizer_of(config).encode("red circle").ids == bundle.tokenizer.encode("red circle").ids
