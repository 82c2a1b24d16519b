r"""Latent consistency distillation: a text-to-image model learns to draw in one to eight steps what it draws in fifty,
with the scale of guidance in it.

Run:     python train.py --config configs/consistency.py --config.base=MODEL --config.data.root=PICTURES \
             --workdir runs/lcm
         :lora after the name trains a delta alone, LCM-LoRA; :shapes distills the shipped shapes model.
Draw:    python sample.py --checkpoint runs/lcm --steps 4 --prompt "…"
         python sample.py --checkpoint MODEL --adapter runs/lcm_lora --steps 4 --prompt "…"
Smoke:   python train.py --config configs/consistency.py:runlocal --workdir /tmp/lcm
Source:  Luo et al. 2023 (arXiv:2310.04378) and LCM-LoRA (arXiv:2311.05556); numbers as diffusers'
         train_lcm_distill_sd_wds.py and train_lcm_distill_lora_sd_wds.py: w of 5 to 15, one more here, 50 steps, rate
         1e-6 and 1e-4, rank 64.
Result:  :shapes, 40,000 images in 75 minutes of one core beside other work, its first 1,750 steps with the rate of a
         run of 3,000: in four steps one thing is right in 88 %, relations in 56 % (the teacher in fifty steps 99 and
         81; `ldm-evaluate shapes --checkpoint runs/lcm --steps 4 --sampler lcm --num_samples 512`). With
         weighting='none', as the paper has it, 80 and 38 % after 600 steps, 44 and 22 % after 4,000
         (docs/personalization.md).
"""

from ml_collections import ConfigDict, config_dict

from configs import lora

# The layers that LCM-LoRA adapts.
TARGETS = ["to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out", "proj", "out", "emb_proj"]


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "lora", "shapes", "runlocal"):
        raise ValueError(
            f"configs/consistency.py takes 'lora', 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    section = dict(
        name="consistency",
        guidance_scales=[6.0, 16.0],
        original_steps=50,
        target="average",
        weighting="none",
        guidance_dim=config_dict.placeholder(int),  # None does not tell the student the scale
    )
    c = distilling(arg, section)
    c.sampling = dict(num_steps=4, guidance_scale=1.0, sampler="lcm", spacing="lcm")
    c.optimizer.base_lr = 1e-6
    c.ema_decay = 0.95
    if arg in ("", "runlocal"):
        c.distillation.guidance_dim = 256
        c.sampling.guidance_scale = 8.5
    if arg == "lora":
        c.personalization = dict(name="lora", rank=64, targets=TARGETS, conv_rank=64)
        c.distillation.target = "student"
        c.optimizer.base_lr = 1e-4
        c.freeze = []
    if arg == "shapes":
        c.distillation.guidance_scales = [2.0, 2.0]  # that of the shipped model
        c.distillation.weighting = "truncated_snr"
        c.distillation.original_steps, c.sampling.spacing = 16, "lcm_16"
        c.optimizer.base_lr = 3e-4
        c.optimizer.schedule = dict(name="warmup_cosine", warm_up_steps=20)
        c.total_steps = 2_500
    return c


def distilling(arg: str, section: dict) -> ConfigDict:
    """What configs of distillation have in common. section: config.distillation."""
    c = lora.get_config(arg if arg == "runlocal" else "")
    del c.personalization  # the whole network is trained
    c.distillation = section
    c.freeze = ["conditioner"]
    c.batch_size, c.total_steps = 12, 10_000
    if arg == "shapes":
        c.base = "shapes"
        c.data = dict(name="shapes", split="train", num_scenes=10_000, annotations=False)
        c.batch_size, c.total_steps = 16, 600
        c.log_every, c.checkpoint_every, c.preview_every = 20, 50, 300
    if arg == "runlocal":
        c.batch_size = 2
        c.total_steps = 2
    return c
