r"""ControlNet: a copy of a text-to-image model's encoder learns to follow a picture, here the outlines of the one to be
drawn; the copy alone is trained and stored.

Run:     python train.py --config configs/controlnet.py --config.base=MODEL --config.data.root=PICTURES \
             --workdir runs/outlines
Draw:    ldm_jax.load(MODEL, adapters=["runs/outlines"]).sample("…", hints=[picture])
Smoke:   python train.py --config configs/controlnet.py:runlocal --workdir /tmp/controlnet
Source:  Zhang et al. 2023 (arXiv:2302.05543), section 3: half of the captions emptied; the rate is that of
         lllyasviel/ControlNet's tutorial_train.py.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict

from configs import lora


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/controlnet.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = lora.get_config(arg)
    c.personalization = dict(name="controlnet", widths=[16, 32, 96, 256], channels=3)
    c.data.derive = dict(hint=dict(name="outline", threshold=0.2))
    c.condition_dropout = 0.5
    c.optimizer.base_lr = 1e-5
    if arg == "runlocal":
        c.personalization.widths = [16, 32, 96]  # the shapes model's latents are a quarter of the picture
    else:
        c.total_steps = 20_000
    return c
