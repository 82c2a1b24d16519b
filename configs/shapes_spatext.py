r"""Text and regions with texts of their own to image on the shapes world (SpaText).

Run:     python train.py --config configs/shapes_spatext.py --workdir runs/shapes_spatext
Smoke:   python train.py --config configs/shapes_spatext.py:runlocal --workdir /tmp/shapes_spatext
Source:  Avrahami et al. 2022 (SpaText, arXiv:2211.14305), in small: the embedding of a segment is its shape, color and
         size, and not CLIP's of its picture. It starts from the shipped text model, and at first draws what that one
         does, whatever the regions are.
Result:  Not trained yet.
"""

from ml_collections import ConfigDict

from configs import base
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.scenes import WORDS

GROUPS = (world.SHAPES, world.COLOR_NAMES, world.SIZES)


def get_config(arg: str = "") -> ConfigDict:
    words = [word for group in GROUPS for word in group]
    return base.shapes(
        "shapes_spatext",
        arg,
        conditioning=dict(
            text=dict(
                tokenizer=dict(name="word_level", words=list(WORDS), max_length=20),
                max_length=20,
                **base.SHAPES_TRANSFORMER,
            ),
            spatext=dict(width=len(words), words=words, group_sizes=[len(group) for group in GROUPS]),
        ),
        condition_dropout=0.1,
        model=dict(base.SHAPES_UNET, in_channels=4 + len(words)),
        data=dict(num_scenes=60_000),
        total_steps=1000,
        sampling=dict(num_steps=50, guidance_scale=2.0),
    )
