r"""DreamBooth: teach the whole network one thing from three to five pictures, beside two hundred pictures of its class
that the base draws itself.

Run:     python train.py --config configs/dreambooth.py --config.base=MODEL --config.data.root=PHOTOS \
             --config.data.templates.word="sks dog" --config.prior.prompt="a photo of a dog" --workdir runs/dog
Draw:    python sample.py --checkpoint MODEL --adapter runs/dog --prompt "a photo of a sks dog on the moon"
Smoke:   python train.py --config configs/dreambooth.py:runlocal --workdir /tmp/dreambooth
Source:  Ruiz et al. 2023 (arXiv:2208.12242), section 3; rate and steps as diffusers' train_dreambooth.py.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict

from configs import lora


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/dreambooth.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = lora.get_config(arg)
    c.personalization = dict(name="dreambooth", text_encoder=False)
    c.data.templates = dict(texts=["a photo of a {}"], word="sks dog")
    c.prior = dict(prompt="a photo of a dog", number=200, weight=1.0)
    c.optimizer.base_lr = 5e-6
    if arg == "runlocal":
        c.data.templates = dict(texts=["a {}"], word="red circle")
        c.prior = dict(prompt="a circle", number=2, weight=1.0)
    else:
        c.total_steps = 800
    return c
