r"""Super-resolution by 4 of your own photographs, on the autoencoder of folder_kl_f4.py.

Run:     python train.py --config configs/folder_superres.py --config.data.root=PHOTOS --workdir runs/folder_superres
Small:   the same with --config configs/folder_superres.py:small, 16 x 16 to 64 x 64 pixels, which two cores can train
Smoke:   the same with --config configs/folder_superres.py:runlocal, two steps
Source:  Rombach et al. 2022, section 4.4. The photographs are made small by pillow's bicubic filter; what
         --config.data.derive.low_res.degradation=bsrgan_light makes of them is closer to pictures found in the wild.
"""

from ml_collections import ConfigDict

from configs import folder_ldm4


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "small", "runlocal"):
        raise ValueError(
            f"configs/folder_superres.py takes 'small', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = folder_ldm4.get_config(arg)
    c.conditioning = dict(name="superres")
    c.data.derive = dict(low_res=dict(name="low_res", factor=4, degradation="bicubic"))
    c.model.update(in_channels=6, attention_levels=[])
    if not arg:
        c.model.update(channels=160, channel_mult=[1, 2, 2, 4])
    return c
