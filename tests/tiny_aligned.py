"""tiny_diffusion with both further terms of the loss: a file that --config takes."""

from ml_collections import ConfigDict

from tests import tiny_diffusion


def get_config() -> ConfigDict:
    c = tiny_diffusion.get_config()
    c.loss.alignment = dict(weight=0.5, classes=dict(shape=4, color=6), width=8)
    c.loss.token_masks = dict(weight=0.3)
    return c
