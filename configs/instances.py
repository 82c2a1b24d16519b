r"""InstanceDiffusion: a text-to-image model learns to draw instances at the places that are said; what stands beside it
alone is trained and stored.

Run:     python train.py --config configs/instances.py --config.base=MODEL --config.data=… --workdir runs/places
         The data need a field `instances` (ldm_jax/data/shapes.py). :shapes teaches the shipped shapes model.
Draw:    ldm_jax.load(MODEL, adapters=["runs/places"]).sample("…", instances=[[{"text": "a cat", "box": [0, 0, 1, 1]}]])
Smoke:   python train.py --config configs/instances.py:runlocal --workdir /tmp/instances
Source:  Wang et al. 2024 (arXiv:2402.03290), in small: 30 instances, tokens of 768 from 3072 wide maps, a tenth of the
         conditions dropped, rate 5e-5, as frank-xwang/InstanceDiffusion's configs.
Result:  not measured yet; the smoke test is two steps on the shipped shapes model.
"""

from ml_collections import ConfigDict

from configs import lora


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "shapes", "runlocal"):
        raise ValueError(
            f"configs/instances.py takes 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = lora.get_config("runlocal" if arg == "runlocal" else "")
    c.personalization = dict(name="instances", number=30, dim=768, width=768, hidden=3072)
    c.condition_dropout = 0.1
    c.optimizer.base_lr = 5e-5
    c.total_steps = 100_000
    if arg:
        c.personalization = dict(name="instances", number=3, dim=128, width=128, hidden=256)
        c.base = "shapes"
        c.data = dict(name="shapes", split="train", num_scenes=10_000)
        c.batch_size, c.total_steps = 16, 600
        c.optimizer.base_lr = 1e-3
        c.log_every, c.checkpoint_every, c.preview_every = 20, 50, 300
    if arg == "runlocal":
        c.data = dict(name="shapes", split="train", num_scenes=8)
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
    return c
