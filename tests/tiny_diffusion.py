"""The smallest second stage that trains, with text and guidance: a file that --config takes."""

from ml_collections import ConfigDict

from ldm_jax.shapes_world.scenes import WORDS
from tests import tiny_first_stage


def get_config() -> ConfigDict:
    c = tiny_first_stage.get_config()
    c.task = "diffusion"
    c.first_stage = dict(name="identity")
    c.data.precompute_latents = True
    c.model = dict(
        in_channels=3,
        out_channels=3,
        channels=8,
        channel_mult=[1, 1],
        attention_levels=[1],  # of 4,096 positions it would take most of the time
        num_res_blocks=1,
        conv_resample=False,
        num_heads=2,
        transformer_depth=1,
        context_dim=8,
        num_groups=4,
        dropout=0.1,
    )
    c.conditioning = dict(
        name="text",
        tokenizer=dict(name="word_level", words=list(WORDS), max_length=20),
        width=8,
        num_layers=1,
        max_length=20,
        num_heads=2,
        head_dim=4,
    )
    c.condition_dropout = 0.1
    c.schedule = dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)
    c.prediction_type = "v"
    c.stratified_timesteps = True
    c.loss = dict(loss_type="l2")
    c.sampling = dict(num_steps=2, guidance_scale=2.0)
    return c
