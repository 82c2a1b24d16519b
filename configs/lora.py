r"""LoRA: teach a text-to-image model something small from a few pictures with captions; the adapter alone is trained
and stored.

Run:     python train.py --config configs/lora.py --config.base=MODEL --config.data.root=PHOTOS --workdir runs/lora
Draw:    python sample.py --checkpoint MODEL --adapter runs/lora:0.8 --prompt "…"
Smoke:   python train.py --config configs/lora.py:runlocal --workdir /tmp/lora
Source:  Hu et al. 2021 (arXiv:2106.09685): rank 4 on the projections of attention; rate and decay as diffusers'
         train_text_to_image_lora.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/lora.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = ConfigDict()
    base.spread(c)
    c.task = "diffusion"
    c.base = config_dict.placeholder(
        str
    )  # any checkpoint that samples: its model, schedule and first stage are taken
    c.personalization = dict(
        name="lora",
        rank=4,
        text_rank=config_dict.placeholder(int),  # None leaves the text encoder, and the convolutions
        conv_rank=config_dict.placeholder(int),
        token=config_dict.placeholder(str),  # a word of its own; None learns none
        begins=config_dict.placeholder(str),
    )
    c.seed = 0
    c.image_size = config_dict.placeholder(int)  # None is the base's
    c.dtype = "float32"
    c.data = dict(name="folder", root=config_dict.placeholder(str), recipe="plain")
    c.condition_dropout = 0.0
    c.loss = dict(loss_type="l2")
    c.optimizer = dict(
        name="adamw",
        base_lr=1e-4,
        scale_lr=False,
        clip_norm=1.0,
        schedule=dict(name="constant", warm_up_steps=50),
    )
    c.ema_decay = 0.99
    c.batch_size, c.total_steps = 4, 1000
    c.log_every, c.checkpoint_every, c.preview_every, c.keep = 10, 250, 250, 2
    if arg == "runlocal":
        c.base = "shapes"
        c.data = dict(name="shapes", split="train", num_scenes=8, annotations=False)
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
    return c
