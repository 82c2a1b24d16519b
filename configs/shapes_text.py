r"""Text to image on the shapes world, in the latents of configs/shapes_kl_f4.py: the recipe of the shipped model.

Run:     The words first, then where they lie, at high noise and mostly by their masks, then all of it:
         python -m ldm_jax.commands.train_shapes_words --out runs/shapes_words
         python train.py --config configs/shapes_text.py --config.first_stage_from=shapes --config.freeze=conditioner \
             --config.init_from=runs/shapes_words --workdir runs/shapes_places --config.total_steps=500 \
             --config.timestep_density.mean=2.0 --config.loss.token_masks.weight=2.0 --config.data.related=1.0
         python train.py --config configs/shapes_text.py --config.first_stage_from=shapes --config.freeze=conditioner \
             --config.init_from=runs/shapes_places --workdir runs/shapes_text
         As the shipped model's last parts, with heads behind the attention of 4 x 4, 8 x 8 and 16 x 16 cells, not on
         all that is coarser than the latents: --config.loss.alignment.sites=up_0.trunk_1,up_1.trunk_1,up_2.trunk_0. The
         names are this network's; another depth has others.
         To go on from the shipped model: --config.init_from=shapes.
On:      the same command resumes it. The rate stays constant until it is told to fall, for a model to be shipped at
         step N + 500: --config.optimizer.schedule.decay_from=N --config.optimizer.schedule.decay_steps=500
         --config.total_steps=N+500
Smoke:   python train.py --config configs/shapes_text.py:runlocal --workdir /tmp/shapes_text
Source:  Rombach et al. 2022, section 4.3 (cross-attention to a transformer trained with the network), in small. It
         predicts v, because at the high noise levels, where the layout of a scene is decided, eps weighs errors of
         x_start by next to nothing. Attention at 16 x 16 and 8 x 8 and coordinates, as what the smaller model drew
         wrong is places. A head on the decoder's features says which class is where (REPA, training/alignment.py), a
         caption's words attend to what they speak of (TokenCompose, training/token_masks.py), and the transformer
         learns first what its words are bound to.
Result:  The shipped model (ldm_jax/shipped/shapes/training.json): of 510 held-out prompts, 50 DDIM steps, guidance 2,
         one object right 99 %, two 75 %, relations 81 %, unseen pairs 99 %, counts 84 %, three 20 %, after 379,000
         images in parts: 117,000 without alignment and masks at the constant rate or a cosine, 29,000 with both, 67,000
         with the transformer's nouns bound (then 96, 61, 25, 94, 76, 14 %), 98,000 as above, of which 23,000 with
         nouns alone (100, 75, 78, 94, 84, 12 %), and 68,000 with relations said of 40 % of the pairs in place of 80
         (data.related=0.4), for more that are joined by "and": three and unseen pairs gained, two did not.
         What made places learned, by how much the error at timestep 900 grows when a caption's relation is turned round
         (ldm-evaluate reading --num_samples 128): 0.02 % in a model shipped earlier, whose transformer had forgotten
         them (a probe reads the place of none of its nouns); -0.03 % after 8,000 images with the place at the noun
         alone, masks of .5 and a density of mean 1, and -0.02 % after 8,000 more with 3 and 2.5, while attention to
         nouns in the middle had begun to move; 14 % after 8,000 with the place at every word of a phrase, and 27 %
         after 16,000, averaged.
"""

from ml_collections import ConfigDict, config_dict

from configs import base
from ldm_jax.shapes_world.scenes import WORDS


def get_config(arg: str = "") -> ConfigDict:
    c = base.shapes(
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
        data=dict(num_scenes=60_000, related=0.8),
        total_steps=20_000,
        sampling=dict(num_steps=50, guidance_scale=2.0),
        first_stage_from="runs/shapes_kl_f4",
        init_from=None,
    )
    c.loss.token_masks = dict(weight=0.3)
    c.loss.alignment = dict(weight=0.2, sites=[], classes=dict(shape=4, color=6, size=2))
    c.optimizer.base_lr = 6e-4
    c.optimizer.schedule = dict(
        name="warmup_stable_decay",
        warm_up_steps=200,
        decay_from=config_dict.placeholder(int),
        decay_steps=500,
    )
    c.ema_decay = 0.999
    return c
