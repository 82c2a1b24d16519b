r"""Break-A-Scene: a word for each of several things in one picture, of which each has a mask.

Run:     python train.py --config configs/break_a_scene.py --config.base=MODEL --config.data.root=SCENE \
             --config.data.words="<a>,<b>" --config.personalization.tokens="<a>,<b>" --workdir runs/scene
         (SCENE/img.jpg, SCENE/mask0.png, SCENE/mask1.png)
Draw:    python sample.py --checkpoint MODEL --adapter runs/scene --prompt "a photo of <b> at the beach"
Smoke:   python train.py --config configs/break_a_scene.py:runlocal --workdir /tmp/scene
Source:  Avrahami et al. 2023 (arXiv:2305.16311), section 3 and appendix; rates, steps, weights and the prompt of the
         prior as google/break-a-scene@135cd4a: the words alone for 400 steps, then everything at a rate of 2e-6.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict, config_dict

from configs import lora

TOKENS = ["<a>", "<b>"]


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/break_a_scene.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = lora.get_config(arg)
    c.personalization = dict(name="break_a_scene", tokens=TOKENS, text_encoder=True)
    first = 400
    c.loss = dict(loss_type="l2", masked=True, token_masks=dict(weight=0.01, form="peak", resolutions=[16]))
    c.loss.background = False  # True learns with a thing what lies around it, other things left out
    c.prior = dict(prompt="a photo at the beach", number=200, weight=1.0)
    if arg == "runlocal":
        first = 1
        c.data = dict(name="shapes_scene", words=TOKENS)
        c.loss.token_masks.resolutions = [8]
        c.prior = dict(prompt="a circle", number=2, weight=1.0)
    else:
        root = config_dict.placeholder(str)
        c.data = dict(name="scene", root=root, words=TOKENS, template="a photo of {}", side=512)
        c.batch_size, c.total_steps = 2, 2 * first  # one picture of the things and one of the prior
    later = [[0, 0.0], [first, 0.004]]
    c.optimizer.base_lr, c.optimizer.schedule.warm_up_steps = 5e-4, 0
    c.optimizer.parts = {
        "delta/words": [[0, 1.0], [first, 0.004]],
        "delta/unet": later,
        "delta/conditioner": later,
    }
    return c
