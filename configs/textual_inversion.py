r"""Textual inversion: teach a text-to-image model a new word from three to five pictures; the word's vectors alone are
trained and stored.

Run:     python train.py --config configs/textual_inversion.py --config.base=MODEL --config.data.root=PHOTOS \
             --config.personalization.begins=cat --workdir runs/word
Draw:    python sample.py --checkpoint MODEL --adapter runs/word --prompt "a photo of <it> on the moon"
Smoke:   python train.py --config configs/textual_inversion.py:runlocal --workdir /tmp/word
Source:  Gal et al. 2022 (arXiv:2208.01618), appendix; rate, steps and no decay as diffusers' textual_inversion.py.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict, config_dict

from configs import lora

TOKEN = "<it>"


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(
            f"configs/textual_inversion.py takes 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = lora.get_config(arg)
    c.personalization = dict(
        name="textual_inversion", token=TOKEN, vectors=1, begins=config_dict.placeholder(str), regularize=0.0,
        progressive=config_dict.placeholder(int), pictures=0,
    )  # fmt: skip
    c.data.templates = dict(name="subject", word=TOKEN, of_picture=config_dict.placeholder(str))
    c.optimizer.base_lr, c.optimizer.weight_decay = 2e-3, 0.0  # 5e-4 for each picture of a batch of four
    if arg == "runlocal":
        c.personalization.begins = "circle"
        c.data.templates = dict(texts=["a {}"], word=TOKEN)
    else:
        c.total_steps = 3000
    return c
