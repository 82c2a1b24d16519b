r"""An autoencoder for a folder of your own photographs: KL, f = 4, 3 channels.

Run:     python train.py --config configs/folder_kl_f4.py --config.data.root=PHOTOS --workdir runs/folder_kl_f4
Small:   the same with --config configs/folder_kl_f4.py:small, 64 x 64 pixels, which two cores can train
Smoke:   the same with --config configs/folder_kl_f4.py:runlocal, two steps
Source:  the original's configs/autoencoder/autoencoder_kl_64x64x3.yaml (55,312,063 parameters), with random square
         crops of the whole picture, and the perceptual loss where its weights are at hand (README, Weights of others)
         or --config.lpips.vgg_path=FILE names them; else the log says that it is off.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "small", "runlocal"):
        raise ValueError(
            f"configs/folder_kl_f4.py takes 'small', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = ConfigDict()
    base.spread(c)
    c.task = "first_stage"
    c.seed = 0
    c.image_size = 256
    c.dtype = "float32"
    c.data = dict(
        name="folder", split="train", root="", recipe="imagenet", split_folders=config_dict.placeholder(bool)
    )
    c.first_stage = dict(
        name="kl",
        channels=128,
        channel_mult=[1, 2, 4],
        num_res_blocks=2,
        z_channels=3,
        embed_dim=3,
        num_groups=32,
    )
    c.loss = dict(kl_weight=1e-6, disc_start=50_001, disc_weight=0.5)
    c.discriminator = dict(num_layers=3, channels=64)
    c.lpips = dict(vgg_path="", heads_path="", dropout=False)
    c.optimizer = dict(name="adam", base_lr=4.5e-6, schedule=dict(name="constant", warm_up_steps=100))
    c.ema_decay = 0.999
    c.batch_size = 8
    c.total_steps = 300_000
    c.log_every = 50
    c.checkpoint_every = 1000
    c.preview_every = 2000
    c.keep = 3
    if arg:
        c.image_size = 64
        c.first_stage.update(channels=16, channel_mult=[1, 2, 2], num_res_blocks=1, num_groups=8)
        c.discriminator.update(num_layers=2, channels=16)
        c.optimizer.update(base_lr=1e-3, scale_lr=False)
        c.total_steps, c.log_every, c.checkpoint_every, c.preview_every = 3000, 25, 250, 500
    if arg == "runlocal":
        c.lpips.vgg_path = "off"
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
        c.loss.disc_start = 1
    return c
