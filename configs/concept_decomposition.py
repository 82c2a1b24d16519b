r"""Concept decomposition: what a text-to-image model sees in a hundred pictures, as a sum of words that it knows.

Run:     python train.py --config configs/concept_decomposition.py --config.base=MODEL --config.data.root=PHOTOS \
             --workdir runs/concept
Read:    python -m ldm_jax.commands.decompose runs/concept --checkpoint MODEL
Draw:    python sample.py --checkpoint MODEL --adapter runs/concept --prompt "a photo of <it>"
Smoke:   python train.py --config configs/concept_decomposition.py:runlocal --workdir /tmp/concept
Source:  Chefer et al. 2024 (arXiv:2306.00966), section 5; rate, batch and steps as hila-chefer/Conceptor. The pictures
         are drawn of the concept by the model itself, python sample.py --prompt "a photo of a lion" --out PHOTOS, or
         given.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict, config_dict

from configs import lora

TOKEN = "<it>"


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(
            f"configs/concept_decomposition.py takes 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = lora.get_config(arg)
    c.personalization = dict(name="concept_decomposition", token=TOKEN, hidden=100, sparse=0.001, top=50)
    c.data.templates = dict(name="subject", word=TOKEN, of_picture=config_dict.placeholder(str))
    c.optimizer.base_lr, c.optimizer.weight_decay = 1e-3, 0.0
    if arg == "runlocal":
        c.data.templates = dict(texts=["a {}"], word=TOKEN)
    else:
        c.total_steps = 500
    return c
