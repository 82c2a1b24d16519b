r"""Semantic map to landscape at 256 x 256: LDM-4.

Run:     python train.py --config configs/semantic_256.py --config.data.root=PHOTOS --workdir runs/semantic_256
Smoke:   python train.py --config configs/semantic_256.py:runlocal --workdir /tmp/semantic_256
Source:  CompVis/latent-diffusion@a506df5 models/ldm/semantic_synthesis256/config.yaml, Rombach et al. 2022, table 15;
         215,229,315 parameters, and 546 of the rescaler. Examples need a field `semantic_mask`, a class of 182 for
         every pixel, which a folder does not give, cut like the image.
Result:  no figure was published; samples at more than 512 x 1024 in figure 9 of the paper.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=256,
        first_stage="vq_f4",
        model=dict(
            in_channels=6,
            out_channels=3,
            channels=128,
            channel_mult=[1, 4, 8],
            num_res_blocks=2,
            attention_levels=[],
            num_heads=8,
        ),
        conditioning=dict(name="semantic", num_classes=182, num_stages=2, out_channels=3),
        beta=(0.0015, 0.0205),
        loss_type="l1",
        optimizer=dict(base_lr=1e-6),
        batch_size=48,
        total_steps=360_000,
        data=base.folder("none"),
        sampling=dict(num_steps=200),
    )
    return base.diffusion(name, arg, **(own | changes))


def get_config(arg: str = "") -> ConfigDict:
    return make("semantic_256", arg)
