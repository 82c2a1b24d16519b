r"""ControlNet: a copy of a text-to-image model's encoder learns to follow a picture, here the outlines of the one to be
drawn; the copy alone is trained and stored.

Run:     python train.py --config configs/controlnet.py --config.base=MODEL --config.data.root=PICTURES \
             --workdir runs/outlines
         :shapes teaches the shipped shapes model.
Draw:    python sample.py --checkpoint MODEL --control runs/outlines:outline.png --prompt "…"
Smoke:   python train.py --config configs/controlnet.py:runlocal --workdir /tmp/controlnet
Source:  Zhang et al. 2023 (arXiv:2302.05543), section 3: half of the captions emptied; the rate is that of
         lllyasviel/ControlNet's tutorial_train.py.
Result:  :shapes, after 27,200 images with 30 % of the captions emptied (--config.condition_dropout=0.3
         --config.total_steps=1700): what the shipped shapes model draws in 10 steps overlaps the outlines' objects
         with an IoU of 0.91, without 0.13 (100 pictures, docs/personalization.md).
"""

from ml_collections import ConfigDict

from configs import lora


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "shapes", "runlocal"):
        raise ValueError(
            f"configs/controlnet.py takes 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = following(arg)
    c.personalization = dict(name="controlnet", widths=[16, 32, 96, 256], channels=3)
    if arg:
        c.personalization.widths = [16, 32, 96]  # the shapes model's latents are a quarter of the picture
    return c


def following(arg: str) -> ConfigDict:
    """What configs of adapters that follow outlines have in common."""
    c = lora.get_config("runlocal" if arg == "runlocal" else "")
    c.condition_dropout = 0.5
    c.optimizer.base_lr = 1e-5
    c.total_steps = 2 if arg == "runlocal" else 20_000
    if arg == "shapes":
        c.base = "shapes"
        c.data = dict(name="shapes", split="train", num_scenes=10_000, annotations=False)
        c.batch_size, c.total_steps = 16, 600
        c.optimizer.base_lr = 1e-3
        c.log_every, c.checkpoint_every, c.preview_every = 20, 50, 1000
    c.data.derive = dict(hint=dict(name="outline", threshold=0.2))
    return c
