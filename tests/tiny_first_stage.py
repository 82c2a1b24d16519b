"""The smallest first stage that trains: what the tests of the loop run, as a file that --config takes."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    c = ConfigDict()
    base.spread(c)
    c.task = "first_stage"
    c.seed = 0
    c.image_size = 64
    c.data = dict(name="shapes", split="train", num_scenes=16, annotations=False)
    c.first_stage = dict(
        name="kl",
        channels=8,
        channel_mult=[1],
        num_res_blocks=1,
        attn_type="none",
        z_channels=2,
        embed_dim=2,
        num_groups=4,
    )
    c.loss = dict(kl_weight=1e-6)
    c.optimizer = dict(name="adam", base_lr=1e-3, scale_lr=False)
    c.ema_decay = 0.999
    c.batch_size = 2
    c.total_steps, c.log_every, c.checkpoint_every, c.preview_every, c.keep = 12, 1, 3, 100, 4
    return c
