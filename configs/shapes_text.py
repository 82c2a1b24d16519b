r"""The shipped model: text to image on the shapes world, in the latents of configs/shapes_kl_f4.py.

Run:     python train.py --config configs/shapes_text.py --workdir runs/shapes_text     (after configs/shapes_kl_f4.py)
On:      python train.py --config configs/shapes_text.py --config.first_stage_from=shapes --config.init_from=shapes --workdir runs/more
         trains the shipped model on, from its running average, with a new optimizer.
Smoke:   python train.py --config configs/shapes_text.py:runlocal --workdir /tmp/shapes_text
Source:  Rombach et al. 2022, section 4.3 (cross-attention to a transformer trained with the network), in small. It predicts
         v, because at the high noise levels, where the layout of a scene is decided, eps weighs errors of x_start by next to
         nothing.
Result:  3,935,003 parameters with the autoencoder. After 8,000 steps (ldm_jax/shipped/shapes/training.json says in which runs), 306 held-out
         prompts, 50 DDIM steps, guidance 3: one object right 69 %, two 22 %, relations 12 %, unseen pairs 84 %. Binding has begun; it needs more
         steps than that.
"""

from ml_collections import ConfigDict

from configs import base
from ldm_jax.shapes_world.scenes import WORDS


def get_config(arg: str = "") -> ConfigDict:
    return base.shapes(
        "shapes_text",
        arg,
        conditioning=dict(
            name="text",
            tokenizer=dict(name="word_level", words=list(WORDS), max_length=20),
            max_length=20,
            **base.SHAPES_TRANSFORMER,
        ),
        condition_dropout=0.1,
        model=base.SHAPES_UNET,
        data={},
        total_steps=8000,
        sampling=dict(num_steps=50, guidance_scale=3.0),
        first_stage_from="runs/shapes_kl_f4",
        init_from=None,
    )
