r"""Layout to image at 256 x 256, on COCO: LDM-8, from scratch.

Run:     python train.py --config configs/layout_coco.py --config.data.root=PHOTOS --workdir runs/layout_coco
         where PHOTOS has a layouts.jsonl and a classes.txt of the 171 things and stuff of COCO-Stuff, which
         `python -m ldm_jax.commands.coco_layouts` makes of its annotations. Or from TFDS, things alone:
         --config.data.dataset=coco/2017 --config.conditioning.num_classes=80
Smoke:   python train.py --config configs/layout_coco.py:runlocal --workdir /tmp/layout_coco
Source:  Rombach et al. 2022, tables 9, 15 and 17 (345 million parameters); 312,241,540 parameters, and 54,656,000 of
         the transformer over the layout: with table 17's sixteen layers there are more than table 15 says. 170,000
         steps.
Result:  FID 42.06 of 2,048 pictures on COCO, 100 DDIM steps. Published, not measured here: `ldm-protocol layout`
         measures it.
"""

from ml_collections import ConfigDict

from configs import layout_openimages


def get_config(arg: str = "") -> ConfigDict:
    return layout_openimages.make(
        "layout_coco",
        arg,
        first_stage="kl_f8",
        scale_factor=None,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=192,
            channel_mult=[1, 2, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2],
            head_dim=32,
            dropout=0.1,
            transformer_depth=2,
            context_dim=512,
        ),
        conditioning=dict(layout_openimages.TOKENS, num_classes=171),
        batch_size=48,
        total_steps=170_000,
        sampling=dict(num_steps=100, eta=0.0),
    )
