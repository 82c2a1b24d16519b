r"""An unconditional latent diffusion model of a folder of your own photographs, on the autoencoder of folder_kl_f4.py.

Run:     python train.py --config configs/folder_ldm4.py --config.data.root=PHOTOS --workdir runs/folder_ldm4
Small:   the same with --config configs/folder_ldm4.py:small, 64 x 64 pixels, which two cores can train
Smoke:   the same with --config configs/folder_ldm4.py:runlocal, two steps
Source:  the original's configs/latent-diffusion/celebahq-ldm-vq-4.yaml (274,056,163 parameters; CelebA-HQ FID 5.11 in
         Rombach et al. 2022, table 1), on a KL autoencoder, whose scale factor is measured over the folder.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "small", "runlocal"):
        raise ValueError(
            f"configs/folder_ldm4.py takes 'small', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = ConfigDict()
    base.spread(c)
    c.task = "diffusion"
    c.seed = 0
    c.image_size = 256
    c.dtype = "float32"
    c.data = dict(
        name="folder",
        split="train",
        root="",
        recipe="imagenet",
        flip=0.5,
        split_folders=config_dict.placeholder(bool),
    )
    c.first_stage_from = "runs/folder_kl_f4"
    c.model = dict(
        remat=config_dict.placeholder(str),  # None computes nothing again
        in_channels=3,
        out_channels=3,
        channels=224,
        channel_mult=[1, 2, 3, 4],
        num_res_blocks=2,
        attention_levels=[1, 2, 3],
        head_dim=32,
        num_groups=32,
    )
    c.schedule = dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)
    c.prediction_type = "eps"
    c.loss = dict(loss_type="l2")
    c.optimizer = dict(name="adamw", base_lr=2e-6, schedule=dict(name="constant"))
    c.ema_decay = 0.9999
    c.batch_size = 48
    c.total_steps = 410_000
    c.log_every = 100
    c.checkpoint_every = 2000
    c.preview_every = 5000
    c.keep = 3
    c.sampling = dict(num_steps=50)
    if arg:
        c.image_size = 64
        c.model.update(
            channels=32,
            channel_mult=[1, 2],
            num_res_blocks=1,
            attention_levels=[1],
            head_dim=32,
            num_groups=16,
        )
        c.optimizer.update(base_lr=5e-4, scale_lr=False)
        c.batch_size, c.total_steps, c.log_every, c.checkpoint_every, c.preview_every = 16, 3000, 25, 250, 500
    if arg == "runlocal":
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
        c.sampling.num_steps = 2
        c.first_stage_from = None
        c.first_stage = dict(
            name="kl",
            channels=16,
            channel_mult=[1, 2, 2],
            num_res_blocks=1,
            z_channels=3,
            embed_dim=3,
            num_groups=8,
        )
    return c
