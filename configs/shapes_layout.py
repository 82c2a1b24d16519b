r"""Layout to image on the shapes world: objects of given classes in given boxes.

Run:     python train.py --config configs/shapes_layout.py --workdir runs/shapes_layout
Smoke:   python train.py --config configs/shapes_layout.py:runlocal --workdir /tmp/shapes_layout
Source:  Rombach et al. 2022, section 4.3.1 and table 15, in small: a grid of 31 x 31 points, up to three objects. It
         starts from the shipped text model.
Result:  After 2,600 steps without coordinates, from a text model 750 steps beyond the shipped one, 40 minutes on two
         busy cores: mean IoU 0.18, class and color right for 41 % of the objects of 64 scenes (`ldm-evaluate layout`):
         far from trained. With coordinates, not measured.
"""

from ml_collections import ConfigDict

from configs import base
from ldm_jax.shapes_world.scenes import CLASS_NAMES


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_layout",
        arg,
        conditioning=dict(
            name="layout",
            vocab_size=1024,
            num_classes=len(CLASS_NAMES),
            max_length=11,
            **base.SHAPES_TRANSFORMER,
        ),
        condition_dropout=0.1,
        model=dict(base.SHAPES_UNET, coordinates=True),
        data=dict(annotations=True),
        total_steps=2600,
        sampling=dict(num_steps=50, guidance_scale=2.0),
    )
