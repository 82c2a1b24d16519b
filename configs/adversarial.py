r"""Adversarial distillation: a text-to-image model learns to draw in one to four steps, judged by heads on its own
teacher's features.

Run:     python train.py --config configs/adversarial.py --config.base=MODEL --config.data.root=PICTURES \
             --workdir runs/turbo
         :shapes distills the shipped shapes model.
Draw:    python sample.py --checkpoint runs/turbo --steps 1 --prompt "…"
Smoke:   python train.py --config configs/adversarial.py:runlocal --workdir /tmp/adversarial
Source:  Sauer et al. 2023 (arXiv:2311.17042), whose weight is 2.5 and whose timesteps are 4, with the discriminator of
         Sauer et al. 2024 (arXiv:2403.12015), in small. Sampled as SD-Turbo is.
Result:  not measured yet; the smoke test is two steps on the shipped shapes model.
"""

from ml_collections import ConfigDict

from configs import base, consistency


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "shapes", "runlocal"):
        raise ValueError(
            f"configs/adversarial.py takes 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    section = dict(name="adversarial", num_steps=4, distillation_weight=2.5, guidance_scale=1.0, sites=[])
    c = consistency.distilling(arg, section)
    c.sampling = base.TURBO_SAMPLING
    c.optimizer.base_lr = 1e-5
    c.optimizer.b1 = 0.0
    if arg == "shapes":
        c.distillation.guidance_scale = 2.0
        c.optimizer.base_lr = 1e-4
    return c
