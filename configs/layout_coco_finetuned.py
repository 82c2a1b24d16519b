r"""Layout to image at 256 x 256, on COCO: LDM-4 of OpenImages, trained on.

Run:     python train.py --config configs/layout_coco_finetuned.py --config.data.root=PHOTOS \
         --workdir runs/layout_coco_finetuned
         where PHOTOS has a layouts.jsonl and a classes.txt of the 171 things and stuff of COCO-Stuff, which
         `python -m ldm_jax.commands.coco_layouts` makes of its annotations. Or from TFDS, things alone:
         --config.data.dataset=coco/2017 --config.conditioning.num_classes=80
Smoke:   python train.py --config configs/layout_coco_finetuned.py:runlocal --workdir /tmp/layout_coco_finetuned
Source:  Rombach et al. 2022, table 9; 246,277,379 parameters, and 54,656,000 of the transformer over the layout: those
         of layout_openimages.py, which it begins with (--config.init_from=RUN). Tokens of classes mean others here,
         and are learned anew. How long it was trained is not published: a tenth of layout_coco.py's steps stand here.
Result:  FID 40.91 of 2,048 pictures on COCO, 200 DDIM steps. Published, not measured here: `ldm-protocol layout`
         measures it.
"""

from ml_collections import ConfigDict

from configs import layout_openimages


def get_config(arg: str = "") -> ConfigDict:
    c = layout_openimages.make(
        "layout_coco_finetuned",
        arg,
        conditioning=dict(layout_openimages.TOKENS, num_classes=171),
        total_steps=17_000,
    )
    if not arg:
        c.init_from = "runs/layout_openimages"
    return c
