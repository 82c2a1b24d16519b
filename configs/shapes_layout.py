r"""Layout to image on the shapes world: objects of given classes in given boxes.

Run:     python train.py --config configs/shapes_layout.py --workdir runs/shapes_layout
Smoke:   python train.py --config configs/shapes_layout.py:runlocal --workdir /tmp/shapes_layout
Source:  Rombach et al. 2022, section 4.3.1 and table 15, in small: a grid of 31 x 31 points, up to three objects. It
         starts from the shipped text model.
Result:  Not measured with this network. The one before, half as wide, with attention at 8 x 8 alone and without
         coordinates, had after 2,600 steps from the text model before, 40 minutes on two busy cores, mean IoU 0.18,
         class and color right for 41 % of the objects of 64 scenes (`ldm-evaluate layout`): far from trained.
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
        model=base.SHAPES_UNET,
        data=dict(annotations=True),
        total_steps=2600,
        sampling=dict(num_steps=50, guidance_scale=2.0),
    )
