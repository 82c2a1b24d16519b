"""Small models with the structure of released ones and random parameters, for tests of checkpoints."""

import jax
import numpy as np

from ldm_jax.checkpoints.bundle import Bundle
from ldm_jax.conditioning import clip
from ldm_jax.system import System, make_system
from ldm_jax.types import PyTree
from tests.conditioning import tiny_clip

CLIP = dict(
    vocab_size=len(tiny_clip.vocabulary()),
    width=64,
    num_layers=2,
    num_heads=1,
    max_length=77,
    activation="quick_gelu",
)
FIRST_STAGE = dict(
    name="kl",
    channels=32,
    channel_mult=[1, 2],
    num_res_blocks=1,
    attention_levels=[],
    z_channels=4,
    embed_dim=4,
)
# Of one level that attends in its middle alone: for what does not hang on how the network is built.
ONE_LEVEL = dict(
    in_channels=4,
    out_channels=4,
    channels=64,  # 32 groups of one channel each would take away what the timestep adds
    channel_mult=[1],
    num_res_blocks=1,
    attention_levels=[],
    num_heads=2,
    transformer_depth=1,
    context_dim=64,
)
SD_SCHEDULE = dict(name="linear", num_timesteps=1000, beta_start=0.00085, beta_end=0.012)


def stable_diffusion_1(tmp_path, **changes) -> Bundle:
    """Text through CLIP, kl autoencoder of factor 2, 16 x 16 pixels; every parameter random."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    tiny_clip.write(tmp_path)
    config = dict(
        task="diffusion",
        image_size=16,
        dtype="float32",
        first_stage=FIRST_STAGE,
        scale_factor=0.18215,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=32,
            channel_mult=[1, 2],
            num_res_blocks=1,
            attention_levels=[0, 1],
            num_heads=2,
            transformer_depth=1,
            context_dim=64,
        ),
        conditioning=dict(name="clip", layer="last", final_norm=True, **CLIP),
        schedule=SD_SCHEDULE,
        prediction_type="eps",
        sampling=dict(num_steps=50, guidance_scale=7.5),
    )
    return random_bundle(config | changes, clip.clip_tokenizer(tmp_path, 77))


def stable_diffusion_xl(tmp_path) -> Bundle:
    """Text through two of CLIP's towers, three levels of which two attend, 16 x 16 pixels; every parameter random."""
    tower = dict(width=64, num_layers=2, num_heads=1)
    changes = dict(
        scale_factor=0.13025,
        model=dict(
            in_channels=4,
            out_channels=4,
            channels=32,
            channel_mult=[1, 2, 2],
            num_res_blocks=1,
            attention_levels=[1, 2],
            head_dim=32,
            transformer_depth=[1, 1, 2],
            context_dim=128,
            vector_dim=64 + 6 * 256,
            use_linear_projection=True,
        ),
        conditioning=dict(
            name="sdxl",
            vocab_size=CLIP["vocab_size"],
            clip_l=dict(tower, activation="quick_gelu"),
            clip_g=dict(tower, activation="gelu", projection_dim=64),
        ),
    )
    return stable_diffusion_1(tmp_path, **changes)


def random_bundle(config: dict, tokenizer=None, seed: int = 0) -> Bundle:
    """The model of `config` with parameters of about the size that trained ones have."""
    return Bundle(config, random_params(make_system(config, tokenizer), seed), tokenizer)


def random_params(system: System, seed: int = 0, gain: float = 1.0) -> PyTree:
    """Parameters in the structure that the system makes, drawn with numpy: none is zero, as many of a fresh network
    are.

    gain: the standard deviation of kernels, times the root of what goes into each of their outputs.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if len(leaf.shape) > 1:
            return values * np.float32(gain / np.sqrt(np.prod(leaf.shape[:-1])))
        return values * np.float32(0.1) + np.float32(path[-1].key == "scale")

    return jax.tree_util.tree_map_with_path(draw, system.param_shapes())
