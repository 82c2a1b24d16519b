r"""A classifier of noised latents of the shapes world, for classifier guidance of a model without a condition.

Run:     python train.py --config configs/shapes_noisy_classifier.py --workdir runs/shapes_noisy_classifier
Draw:    python sample.py --prompt "" --guidance classifier --guidance.classifier runs/shapes_noisy_classifier
         --guidance.labels "red circle" --guidance.scale 4
Smoke:   python train.py --config configs/shapes_noisy_classifier.py:runlocal --workdir /tmp/shapes_noisy_classifier
Source:  Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4 and table 12, in small: the encoder half of a UNet,
         attention at its lower resolutions, a pool by attention; timesteps uniform, weight decay 0.05.
Result:  577,976 parameters; loss 1.9 over all timesteps after 3000 steps, 21 minutes of one core of two that were busy
         (2026-11-29). Scenes hold up to three objects, as a model draws that is told nothing, and the class is that of
         the largest. What it leads to: docs/guidance.md.
"""

from ml_collections import ConfigDict, config_dict

from configs import base
from ldm_jax.shapes_world.scenes import CLASS_NAMES


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(
            f"configs/shapes_noisy_classifier.py takes 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = ConfigDict()
    base.spread(c)
    c.task, c.base, c.seed, c.dtype = "classifier", "shapes", 0, "float32"
    c.image_size = config_dict.placeholder(int)  # None is the base's
    c.data = dict(
        name="shapes",
        split="train",
        num_scenes=20_000,
        annotations=False,
        precompute_latents=True,
    )
    c.classifier = dict(
        in_channels=4,
        num_classes=len(CLASS_NAMES),
        latent_size=16,
        channels=32,
        channel_mult=[1, 2, 2],
        num_res_blocks=1,
        attention_levels=[1, 2],
        head_dim=32,
        num_groups=8,
    )
    c.optimizer = dict(
        name="adamw",
        base_lr=1e-3,
        scale_lr=False,
        weight_decay=0.05,
        clip_norm=1.0,
        schedule=dict(name="warmup_cosine", warm_up_steps=100, final=0.05),
    )
    c.ema_decay = 0.995
    c.batch_size, c.total_steps = 64, 3000
    c.log_every, c.checkpoint_every, c.preview_every, c.keep = 100, 500, 3000, 2
    if arg == "runlocal":
        c.data.num_scenes, c.data.precompute_latents = 8, False
        c.classifier.update(channels=16, channel_mult=[1, 2])
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
    return c
