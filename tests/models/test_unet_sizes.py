"""Published models have the parameters they should have, to the unit, and the attention sites they should
have."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.models.unet import UNet, site_table
from ldm_jax.types import Cond

S = jax.ShapeDtypeStruct
SD = dict(channels=320, channel_mult=(1, 2, 4, 4), attention_levels=(0, 1, 2), transformer_depth=1)
VQ_F4 = dict(channel_mult=(1, 2, 3, 4), attention_levels=(1, 2, 3))
# name: (fields, parameters) of CompVis and Stability AI releases; io: channels in and out
PUBLISHED = {
    "celeba256": (dict(io=(3, 3), channels=224, head_dim=32, **VQ_F4), 274_056_163),
    "lsun_churches256": (
        dict(
            io=(4, 4), channels=192, channel_mult=(1, 2, 2, 4, 4), attention_levels=(0, 1, 2, 3), num_heads=8
        )
        | dict(use_scale_shift_norm=True, resblock_updown=True),
        294_966_916,
    ),
    "cin256": (
        dict(io=(4, 4), channels=256, channel_mult=(1, 2, 4), attention_levels=(0, 1, 2), head_dim=32)
        | dict(transformer_depth=1, context_dim=512),
        394_984_196,
    ),
    "cin256_v2": (
        dict(io=(3, 3), channels=192, channel_mult=(1, 2, 3, 5), attention_levels=(1, 2, 3), num_heads=1)
        | dict(transformer_depth=1, context_dim=512),
        400_920_579,
    ),
    "text2img256": (
        dict(io=(3, 3), channels=192, channel_mult=(1, 2, 3, 5), attention_levels=(1, 2, 3), head_dim=32)
        | dict(transformer_depth=1, context_dim=640),
        403_623_939,
    ),
    "txt2img_1p4B": (dict(io=(4, 4), num_heads=8, context_dim=1280, **SD), 872_300_484),
    "layout2img": (
        dict(io=(3, 3), channels=128, head_dim=32, transformer_depth=3, context_dim=512, **VQ_F4),
        246_277_379,
    ),
    "semantic_synthesis": (dict(io=(6, 3), channels=128, channel_mult=(1, 4, 8), num_heads=8), 215_229_315),
    "bsr_sr": (
        dict(io=(6, 3), channels=160, channel_mult=(1, 2, 2, 4), attention_levels=(3,), head_dim=32),
        113_622_563,
    ),
    "inpainting_big": (
        dict(io=(7, 3), channels=256, num_heads=8, resblock_updown=True, **VQ_F4),
        387_245_827,
    ),
    "rdm768": (
        dict(io=(16, 16), channels=448, channel_mult=(1, 2, 3, 4), attention_levels=(0, 1, 2), head_dim=32)
        | dict(transformer_depth=1, context_dim=768),
        1_335_480_400,
    ),
    "sd1": (dict(io=(4, 4), num_heads=8, context_dim=768, **SD), 859_520_964),
    "sd1_inpainting": (dict(io=(9, 4), num_heads=8, context_dim=768, **SD), 859_535_364),
    "sd2": (dict(io=(4, 4), head_dim=64, context_dim=1024, **SD), 865_910_724),
    "sd2_inpainting": (dict(io=(9, 4), head_dim=64, context_dim=1024, **SD), 865_925_124),
    "sd2_depth": (dict(io=(5, 4), head_dim=64, context_dim=1024, **SD), 865_913_604),
    "x4_upscaling": (
        dict(io=(7, 4), channels=256, channel_mult=(1, 2, 2, 4), attention_levels=(1, 2, 3), num_heads=8)
        | dict(transformer_depth=1, context_dim=1024, num_classes=1000)
        | dict(disable_self_attention=(True, True, True, False)),
        473_398_020,
    ),
    "unclip_h": (dict(io=(4, 4), head_dim=64, context_dim=1024, vector_dim=2048, **SD), 870_173_124),
    "unclip_l": (dict(io=(4, 4), head_dim=64, context_dim=1024, vector_dim=1536, **SD), 869_517_764),
    "sdxl_base": (
        dict(io=(4, 4), channels=320, channel_mult=(1, 2, 4), attention_levels=(1, 2), head_dim=64)
        | dict(transformer_depth=(1, 2, 10), context_dim=2048, vector_dim=2816),
        2_567_463_684,
    ),
    "sdxl_refiner": (
        dict(io=(4, 4), channels=384, channel_mult=(1, 2, 4, 4), attention_levels=(1, 2), head_dim=64)
        | dict(transformer_depth=4, context_dim=1280, vector_dim=2560),
        2_259_526_660,
    ),
    "sgm_imagenet_f8": (
        dict(io=(4, 4), channels=256, channel_mult=(1, 2, 4), attention_levels=(0, 1, 2), head_dim=64)
        | dict(transformer_depth=1, context_dim=1024, vector_dim=1024),
        407_307_012,
    ),
}


def published(name):
    fields = dict(PUBLISHED[name][0])
    in_channels, out_channels = fields.pop("io")
    return UNet(in_channels=in_channels, out_channels=out_channels, **fields)


def abstract_cond(unet):
    context = None if unet.context_dim is None else S((1, 77, unet.context_dim), jnp.float32)
    vector = S((1,), jnp.int32) if unet.num_classes else None
    return Cond(context, None, S((1, unet.vector_dim), jnp.float32) if unet.vector_dim else vector)


NOT_IN_CONFIGS = (
    "unclip_h",
    "unclip_l",
    "sgm_imagenet_f8",
)  # the others are counted by tests/test_configs.py too


@pytest.mark.parametrize(
    "name", [n if n in NOT_IN_CONFIGS else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_parameters_of_published_models(name):
    unet = published(name)
    args = S((1, 16, 16, unet.in_channels), jnp.float32), S((1,), jnp.int32), abstract_cond(unet)
    shapes = jax.eval_shape(unet.init, jax.random.key(0), *args)
    assert set(shapes) == {"params"}
    assert sum(a.size for a in jax.tree.leaves(shapes)) == PUBLISHED[name][1]


def test_sites_of_stable_diffusion_1():
    """The inventory of its 16 transformer blocks: 2 at 64, 2 at 32, 2 at 16, the middle at 8, then 3 at 16,
    32 and 64."""
    unet = published("sd1")
    table = site_table(unet, (1, 64, 64, 4), abstract_cond(unet))
    own = [(s, shape) for s, shape in table if s.kind == "self"]
    cross = [(s, shape) for s, shape in table if s.kind == "cross"]
    resolutions = [64, 64, 32, 32, 16, 16, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert [s.resolution for s, _ in own] == [s.resolution for s, _ in cross] == resolutions
    assert [s.place for s, _ in own] == 6 * ["down"] + ["mid"] + 9 * ["up"]
    assert [shape for _, shape in own] == [(1, 8, r * r, r * r) for r in resolutions]
    assert [shape for _, shape in cross] == [(1, 8, r * r, 77) for r in resolutions]
    names = [f"down_{i}.attn_{j}" for i in range(3) for j in range(2)] + ["mid.attn"]
    names += [f"up_{i}.attn_{j}" for i in range(1, 4) for j in range(3)]
    assert [s.name for s, _ in own] == [s.name for s, _ in cross] == names
    assert [s.resolution for s, _ in table if s.kind == "skip"] == 3 * [8] + 3 * [16] + 3 * [32] + 3 * [64]
    assert (
        sum(s.kind == "res" for s, _ in table) == 8 + 2 + 12 + 1
    )  # down, middle, up, and the middle's output
    for kind in ("self", "cross", "res", "skip"):
        assert [s.index for s, _ in table if s.kind == kind] == list(
            range(sum(s.kind == kind for s, _ in table))
        )


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("celeba256", {"self": 16}),  # plain AttentionBlocks have sites too
        ("x4_upscaling", {"self": 6, "cross": 26}),  # 10 blocks whose two attentions both go to the context
        ("semantic_synthesis", {"self": 1}),
    ],
)
def test_attention_sites_are_unique_and_counted(name, counts):
    unet = published(name)
    table = site_table(unet, (1, 16, 16, unet.in_channels), abstract_cond(unet))
    assert len({(s.name, s.kind) for s, _ in table}) == len(table)
    assert Counter(s.kind for s, _ in table if s.kind in ("self", "cross")) == counts
