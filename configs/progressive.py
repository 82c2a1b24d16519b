r"""Progressive distillation: a run halves the steps that a text-to-image model takes; the next one begins with it.

Run:     python train.py --config configs/progressive.py --config.base=MODEL --config.data.root=PICTURES \
             --config.distillation.num_steps=32 --workdir runs/steps_32
         python train.py --config configs/progressive.py --config.base=runs/steps_32 --config.data.root=PICTURES \
             --config.distillation.num_steps=16 --config.distillation.guidance_scale=1 --workdir runs/steps_16
         and so on; the first run's teacher is guided, the others' are not. :shapes distills the shipped shapes model.
Draw:    python sample.py --checkpoint runs/steps_4 --steps 4 --prompt "…"
Smoke:   python train.py --config configs/progressive.py:runlocal --workdir /tmp/progressive
Source:  Salimans and Ho 2022 (arXiv:2202.00512); the guided first run is Meng et al. 2023 (arXiv:2210.03142).
Result:  :shapes, to 8 and then to 4 steps, 350 steps of 16 each, 25 minutes of a core: in four steps one thing is right
         in 92 %, relations in 56 % (the teacher in fifty steps 99 and 81; commands in docs/personalization.md).
"""

from ml_collections import ConfigDict

from configs import consistency


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "shapes", "runlocal"):
        raise ValueError(
            f"configs/progressive.py takes 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = consistency.distilling(arg, dict(name="progressive", num_steps=4, guidance_scale=7.5))
    c.sampling = dict(num_steps=4, guidance_scale=1.0, sampler="ddim", spacing="trailing", final_alpha="one")
    c.optimizer.base_lr = 1e-5
    if arg == "shapes":
        c.distillation.guidance_scale = 2.0
        c.optimizer.base_lr = 2e-4
    return c
