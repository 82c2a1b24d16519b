"""The released models, for what names and shapes of a checkpoint do not tell: heads, noise schedule, scale of latents.

Decides how a UNet is recognized as one of them, and which is nearest to one that is not. It reads no file.
Source: the configuration files of CompVis/latent-diffusion@a506df5, CompVis/stable-diffusion@21f890f,
runwayml/stable-diffusion@08ab4d3, Stability-AI/stablediffusion@cf1d67a and Stability-AI/generative-models@0ad7de9.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Release(NamedTuple):
    """match: fields of a UNet as detect.unet_fields gives them. heads: its num_heads or head_dim.

    parts: the options of kinds of conditioning that leave no names in a checkpoint, {kind: options}.
    prediction_type: None where two releases share every shape and predict different things.
    use_ema: whether its YAML says that its file holds running averages beside the weights.
    """

    match: Mapping[str, Any]
    heads: Mapping[str, int]
    beta: tuple[float, float]
    image_size: int
    scale_factor: float = 1.0
    prediction_type: str | None = "eps"
    guidance_scale: float = 1.0
    parts: Mapping[str, dict] = {}
    use_ema: bool = True

    def process(self) -> dict:
        """The config's entries that are not of the networks."""
        start, end = self.beta
        entries = dict(
            image_size=self.image_size,
            scale_factor=self.scale_factor,
            schedule=dict(name="linear", num_timesteps=1000, beta_start=start, beta_end=end),
            sampling=dict(num_steps=50, guidance_scale=self.guidance_scale),
            original=dict(use_ema=self.use_ema),
        )
        return entries | (dict(prediction_type=self.prediction_type) if self.prediction_type else {})


def _unet(in_channels, out_channels, channels, mult, attention, depth=0, context_dim=None, **more) -> dict:
    match = dict(in_channels=in_channels, out_channels=out_channels, channels=channels, channel_mult=mult)
    match |= dict(
        num_res_blocks=2, attention_levels=attention, transformer_depth=depth, context_dim=context_dim
    )
    plain = dict(use_scale_shift_norm=False, resblock_updown=False, conv_resample=True)
    return match | plain | dict(vector_dim=None, num_classes=None, n_embed=None) | more


_SD = (320, [1, 2, 4, 4], [0, 1, 2], 1)
_SD_BETA = (0.00085, 0.012)
RELEASES = {
    "celebahq_ldm4 (also ffhq, lsun_bedrooms)": Release(
        _unet(3, 3, 224, [1, 2, 3, 4], [1, 2, 3]), dict(head_dim=32), (0.0015, 0.0195), 256
    ),
    "lsun_churches_ldm8": Release(
        _unet(4, 4, 192, [1, 2, 2, 4, 4], [0, 1, 2, 3], use_scale_shift_norm=True, resblock_updown=True),
        dict(num_heads=8), (0.0015, 0.0155), 256
    ),
    "imagenet_ldm8": Release(
        _unet(4, 4, 256, [1, 2, 4], [0, 1, 2], 1, 512),
        dict(head_dim=32), (0.0015, 0.0195), 256, parts={"class_label": dict(num_classes=1000, null_class=False)},
    ),
    "imagenet_ldm4": Release(
        _unet(3, 3, 192, [1, 2, 3, 5], [1, 2, 3], 1, 512),
        dict(num_heads=1), (0.0015, 0.0195), 256, guidance_scale=1.5, parts={"class_label": dict(num_classes=1000)},
        use_ema=False,
    ),
    "text2img_256": Release(
        _unet(3, 3, 192, [1, 2, 3, 5], [1, 2, 3], 1, 640), dict(head_dim=32), (0.0015, 0.0195), 256, guidance_scale=1.5
    ),
    "text2img_1p4b": Release(
        _unet(4, 4, *_SD, 1280), dict(num_heads=8), _SD_BETA, 256, 0.18215, guidance_scale=5.0, use_ema=False
    ),
    "layout_openimages": Release(
        _unet(3, 3, 128, [1, 2, 3, 4], [1, 2, 3], 3, 512), dict(head_dim=32), (0.0015, 0.0205), 256
    ),
    "semantic_256": Release(_unet(6, 3, 128, [1, 4, 8], []), dict(num_heads=8), (0.0015, 0.0205), 256),
    "superres_bsr": Release(
        _unet(6, 3, 160, [1, 2, 2, 4], [3]), dict(head_dim=32), (0.0015, 0.0155), 256, parts={"superres": {}}
    ),
    "inpainting_big": Release(
        _unet(7, 3, 256, [1, 2, 3, 4], [1, 2, 3], resblock_updown=True),
        dict(num_heads=8), (0.0015, 0.0205), 256, parts={"inpaint": {"convention": "original"}},
    ),
    "rdm_768": Release(
        _unet(16, 16, 448, [1, 2, 3, 4], [0, 1, 2], 1, 768),
        dict(head_dim=32), (0.0015, 0.015), 768, 0.22765929, guidance_scale=5.0, parts={"retrieval": {"width": 768}},
    ),
    "sd1": Release(_unet(4, 4, *_SD, 768), dict(num_heads=8), _SD_BETA, 512, 0.18215, guidance_scale=7.5,
        use_ema=False),
    "sd1_inpainting": Release(
        _unet(9, 4, *_SD, 768),
        dict(num_heads=8), _SD_BETA, 512, 0.18215, guidance_scale=7.5, use_ema=False,
        parts={"inpaint": {"convention": "stable_diffusion"}},
    ),
    "sd2": Release(
        _unet(4, 4, *_SD, 1024),
        dict(head_dim=64), _SD_BETA, 512, 0.18215, None, guidance_scale=9.0, use_ema=False,
    ),
    "sd2_inpainting": Release(
        _unet(9, 4, *_SD, 1024),
        dict(head_dim=64), _SD_BETA, 512, 0.18215, guidance_scale=9.0, use_ema=False,
        parts={"inpaint": {"convention": "stable_diffusion"}},
    ),
    "sd2_depth": Release(
        _unet(5, 4, *_SD, 1024),
        dict(head_dim=64), _SD_BETA, 512, 0.18215, guidance_scale=9.0, use_ema=False, parts={"depth": {}},
    ),
    "sd_x4_upscaler": Release(
        _unet(7, 4, 256, [1, 2, 2, 4], [1, 2, 3], 1, 1024, num_classes=1000),
        dict(num_heads=8), (1e-4, 0.02), 512, 0.08333, "v", guidance_scale=9.0, use_ema=False, parts={"upscale": {}},
    ),
    "sdxl_base": Release(
        _unet(4, 4, 320, [1, 2, 4], [1, 2], [1, 2, 10], 2048, vector_dim=2816),
        dict(head_dim=64), _SD_BETA, 1024, 0.13025, guidance_scale=5.0, use_ema=False,
    ),
    "sdxl_refiner": Release(
        _unet(4, 4, 384, [1, 2, 4, 4], [1, 2], 4, 1280, vector_dim=2560),
        dict(head_dim=64), _SD_BETA, 1024, 0.13025, guidance_scale=5.0, use_ema=False,
    ),
}  # fmt: skip


def recognize(fields: Mapping[str, Any]) -> tuple[str, Release]:
    """(name, release) whose UNet has these fields (detect.unet_fields).

    Raises: ValueError that names the nearest release and what differs from it, if it is none of them.
    """
    differing = {name: _differences(release, fields) for name, release in RELEASES.items()}
    nearest = min(differing, key=lambda name: len(differing[name]))
    if not differing[nearest]:
        return nearest, RELEASES[nearest]
    detail = ", ".join(f"{k} {got} (there {want})" for k, (got, want) in differing[nearest].items())
    raise ValueError(
        f"architecture not recognized: the nearest released model is {nearest}, from which it differs in {detail}; "
        "name its own config with --original_config FILE.yaml or --config FILE.py"
    )


def _differences(release: Release, fields: Mapping[str, Any]) -> dict[str, tuple]:
    """{field: (given, the release's)} of those that are not the same."""
    return {k: (fields.get(k), v) for k, v in release.match.items() if (fields.get(k) or None) != (v or None)}
