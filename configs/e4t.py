r"""E4T: an encoder that makes a word of one picture, pretrained on the pictures of a domain, then a few steps on one.

Run:     python train.py --config configs/e4t.py --config.base=MODEL --config.data.root=FACES \
             --config.personalization.begins=face --workdir runs/faces
         python train.py --config configs/e4t.py:tune --config.base=MODEL --config.data.root=ONE \
             --config.personalization.begins=face --config.adapter_from=runs/faces --workdir runs/one
Draw:    ldm_jax.load(MODEL, adapters=["runs/one"]).sample("a photo of <it> on the moon", word_images=[picture])
Smoke:   python train.py --config configs/e4t.py:runlocal --workdir /tmp/e4t
Source:  Gal et al. 2023 (arXiv:2302.12228), section 4 and appendix: rate 1.6e-5 at a batch of 16, 30,000 steps of
         faces, 60,000 of cats, 100,000 of art; at most 15 steps on one picture.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict, config_dict

from configs import lora

TOKEN = "<it>"


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "tune", "runlocal"):
        raise ValueError(f"configs/e4t.py takes 'tune', 'runlocal' or nothing after the colon, got {arg!r}")
    c = lora.get_config("runlocal" if arg == "runlocal" else "")
    c.personalization = dict(
        name="e4t",
        token=TOKEN,
        begins=config_dict.placeholder(str),
        rank=3,
        regularize=0.01,
        whole=arg == "tune",
    )
    c.adapter_from = config_dict.placeholder(str)
    c.data.templates = dict(name="subject", word=TOKEN)
    c.optimizer.base_lr, c.optimizer.weight_decay, c.batch_size, c.total_steps = 1.6e-5, 0.0, 16, 30_000
    if arg == "tune":
        c.ema_decay, c.optimizer.schedule.warm_up_steps = 0.0, 0
        c.total_steps = c.checkpoint_every = c.preview_every = 15
    if arg == "runlocal":
        c.personalization.begins = "circle"
        c.data.templates = dict(texts=["a {}"], word=TOKEN)
        c.batch_size, c.total_steps = 2, 2
    return c
