"""Architectures read off names and shapes: every published UNet and first stage is recognized as what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import compvis_first_stage, compvis_unet, detect, state_dict
from ldm_jax.convert.published import recognize
from ldm_jax.first_stage import make_first_stage
from ldm_jax.models.unet import UNet
from ldm_jax.params import flatten
from tests.models.test_unet_sizes import PUBLISHED, abstract_cond, published


def torch_shapes(template, entries) -> dict:
    """{torch name: torch shape} of a tree of shapes, nothing of which is allocated."""
    flat = flatten(template)
    blank = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flat.items()}
    return {name: state_dict._TO_TORCH[kind](blank[path]).shape for path, name, kind in entries}


def unet_shapes(unet: UNet) -> dict:
    x = jax.ShapeDtypeStruct((1, 32, 32, unet.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    template = jax.eval_shape(unet.init, jax.random.key(0), x, t, abstract_cond(unet))["params"]
    return torch_shapes(template, compvis_unet.entries(template, unet.use_linear_projection))


def assert_same_network(unet: UNet, fields: dict):
    heads = {k: getattr(unet, k) for k in ("num_heads", "head_dim") if getattr(unet, k) is not None}
    again = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}, **heads)
    for name in fields:
        if name not in ("transformer_depth", "transformer_depth_middle", "disable_self_attention"):
            wanted, got = getattr(unet, name), getattr(again, name)
            assert (tuple(got) if isinstance(got, list) else got) == wanted, name
    assert unet_shapes(again) == unet_shapes(unet)


QUICK = ("celeba256", "lsun_churches256", "semantic_synthesis", "x4_upscaling", "sdxl_refiner")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_published_unets(name):
    unet = published(name)
    if name.startswith(("sd2", "x4", "sdxl", "unclip")):
        unet = unet.clone(use_linear_projection=True)
    assert_same_network(unet, detect.unet_fields(unet_shapes(unet)))


SMALL = dict(in_channels=4, out_channels=4, channels=32, channel_mult=(1, 2, 2), num_heads=4)


@pytest.mark.parametrize(
    "fields",
    [
        dict(num_res_blocks=(1, 2, 1), attention_levels=(1,), transformer_depth=2, context_dim=24),
        dict(num_res_blocks=1, attention_levels=(0, 2), conv_resample=False),
        dict(num_res_blocks=2, attention_levels=(2,), num_classes="continuous"),
        dict(num_res_blocks=1, attention_levels=(), transformer_depth=1, context_dim=8, transformer_depth_middle=3),
        dict(
            num_res_blocks=1, attention_levels=(1, 2), transformer_depth=1, context_dim=48,
            disable_self_attention=(False, True, False),
        ),
        dict(num_res_blocks=1, resblock_updown=True, n_embed=16),
    ],
)  # fmt: skip
def test_users_own_unets(fields):
    unet = UNet(**SMALL | fields)
    assert_same_network(unet, detect.unet_fields(unet_shapes(unet)))


@pytest.mark.parametrize(
    "section",
    [
        dict(name="kl", channel_mult=[1, 2, 4, 4], z_channels=4, embed_dim=4),
        dict(
            name="kl", channel_mult=[1, 1, 2, 2, 4, 4], z_channels=64, embed_dim=64, attention_levels=[4, 5]
        ),
        dict(name="vq", channel_mult=[1, 2, 4], n_embed=8192, attn_type="none"),
        dict(name="vq", channels=32, channel_mult=[1, 2], n_embed=16, num_res_blocks=1, attention_levels=[1]),
        dict(name="kl", channels=32, channel_mult=[1, 2], resamp_with_conv=False, z_channels=3, embed_dim=2),
    ],
)
def test_first_stages(section):
    first_stage = make_first_stage(section)
    template = jax.eval_shape(first_stage.init, jax.random.key(0))
    found = detect.first_stage_section(
        torch_shapes(template, compvis_first_stage.autoencoder_entries(template))
    )
    for name, value in section.items():
        assert found[name] == value
    assert make_first_stage(found).module == first_stage.module


def test_what_is_neither_says_what_is_missing():
    with pytest.raises(ValueError, match=r"input_blocks\.0\.0\.weight is not there"):
        detect.unet_fields({"fc.weight": (3, 4)})
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.weight is not there"):
        detect.first_stage_section({"fc.weight": (3, 4)})


NAMES = {
    "celeba256": "celebahq_ldm4 (also ffhq, lsun_bedrooms)",
    "lsun_churches256": "lsun_churches_ldm8",
    "cin256": "imagenet_ldm8",
    "cin256_v2": "imagenet_ldm4",
    "text2img256": "text2img_256",
    "txt2img_1p4B": "text2img_1p4b",
    "layout2img": "layout_openimages",
    "semantic_synthesis": "semantic_256",
    "bsr_sr": "superres_bsr",
    "inpainting_big": "inpainting_big",
    "rdm768": "rdm_768",
    "x4_upscaling": "sd_x4_upscaler",
    "unclip_h": None,
    "unclip_l": None,
    "sgm_imagenet_f8": None,
}


def fields_of(name: str) -> dict:
    """What detect.unet_fields finds in a published UNet, per the test above."""
    unet = published(name)
    kept = ("in_channels", "out_channels", "channels", "channel_mult", "num_res_blocks", "attention_levels")
    kept += ("transformer_depth", "context_dim", "vector_dim", "num_classes", "use_scale_shift_norm")
    kept += ("resblock_updown", "conv_resample")
    fields = {k: getattr(unet, k) for k in kept}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_releases_are_recognized_with_their_heads(name):
    fields, expected = fields_of(name), NAMES.get(name, name)
    if expected is None:
        with pytest.raises(ValueError, match="architecture not recognized: the nearest released model is"):
            recognize(fields)
        return
    found, release = recognize(fields)
    assert found == expected
    unet = published(name)
    assert release.heads == {
        k: getattr(unet, k) for k in ("num_heads", "head_dim") if getattr(unet, k) is not None
    }


def test_an_unknown_unet_is_told_the_nearest_and_what_differs():
    fields = fields_of("sd1") | dict(channels=64)
    with pytest.raises(
        ValueError, match=r"nearest released model is sd1, .* channels 64 \(there 320\); name its"
    ):
        recognize(fields)
