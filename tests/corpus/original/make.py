"""Makes the corpus: tiny models in the original's layout, one for each conditioning key and each option of its
networks.

    python -m tests.corpus.original.make

Writes for every model below a folder with config.yaml, the original's; names.txt, every name of its file with its
shape, but for the running averages, which have a name for each of the UNet's; and expected.npz, what torch_ldm.py gives
for it, under its running
averages, NCHW: z of x, recon of z, prediction of (z_t, t, conditions), sample of 4 steps of DDIM from z_t, in latents.
"""

from pathlib import Path

import numpy as np
import torch
import yaml

from tests.corpus.original import rule
from tests.corpus.original.torch_ldm import LatentDiffusion, make_tables

HERE = Path(__file__).parent
B, SIDE, LATENT = 2, 16, 8
T = (7, 851)
DD = dict(
    in_channels=3, out_ch=3, resolution=SIDE, ch=32, ch_mult=[1, 2], num_res_blocks=1, attn_resolutions=[],
    z_channels=3, double_z=False
)  # fmt: skip
MODULES, ENCODERS = "ldm.modules.diffusionmodules.openaimodel.", "ldm.modules.encoders.modules."
TOKENS = [[3, 1, 8000, 8191, 5, 0, 77], [352, 0, 1, 2, 8191, 1000, 9]]


def vq(**dd) -> dict:
    params = dict(embed_dim=3, n_embed=24, ddconfig=DD | dd, lossconfig=dict(target="torch.nn.Identity"))
    return dict(target="ldm.models.autoencoder.VQModelInterface", params=params)


def kl(more=None, **dd) -> dict:
    params = dict(
        embed_dim=4,
        ddconfig=DD | dict(z_channels=4, double_z=True) | dd,
        lossconfig=dict(target="torch.nn.Identity"),
    )
    return dict(target="ldm.models.autoencoder.AutoencoderKL", params=params | (more or {}))


def encoder(name: str, **params) -> dict:
    target = "torch.nn.Identity" if name == "Identity" else ENCODERS + name
    return dict(target=target, params=params)


def model(
    first_stage: dict, unet: dict, cond="__is_unconditional__", target="LatentDiffusion", **params
) -> dict:
    channels = first_stage.get("params", {}).get("embed_dim", 3)
    defaults = dict(
        image_size=LATENT, in_channels=channels, out_channels=channels, model_channels=32, num_res_blocks=1,
        channel_mult=[1, 2],
        attention_resolutions=[2],
    )  # fmt: skip
    section = dict(target=MODULES + "UNetModel", params=defaults | unet)
    given = dict(
        linear_start=0.0015, linear_end=0.0195, timesteps=1000, first_stage_key="image", image_size=LATENT,
        channels=channels,
        unet_config=section, first_stage_config=first_stage, cond_stage_config=cond,
    )  # fmt: skip
    return dict(target=f"ldm.models.diffusion.ddpm.{target}", params=given | params)


SPATIAL = dict(use_spatial_transformer=True, context_dim=12)
PIXELS = dict(target="ldm.models.autoencoder.IdentityFirstStage")
CLASS = encoder("ClassEmbedder", embed_dim=12, n_classes=10, key="class_label")
LABELS = dict(class_labels=[3, 8])
# name: (model of the YAML, {condition: its values, or the shape of one that the rule makes})
MODELS = {
    "unconditional_heads_upsample": (model(vq(), dict(num_heads=4, num_heads_upsample=2, attention_resolutions=[1, 2])),
        {}),
    "unconditional_heads_not_legacy": (
        model(PIXELS, dict(num_heads=4, num_heads_upsample=2, legacy=False, conv_resample=False), use_ema=False,
            image_size=SIDE), {},
    ),
    "unconditional_updown": (
        model(
            kl(attn_type="linear", attn_resolutions=[8]),
            dict(num_head_channels=16, resblock_updown=True, use_scale_shift_norm=True, use_new_attention_order=True,
                dropout=0.1),
            scale_by_std=True, loss_type="l1",
        ), {},
    ),
    "unconditional_x0_cosine": (
        model(vq(use_linear_attn=True), dict(num_heads=1), parameterization="x0", beta_schedule="cosine", cosine_s=0.01,
            timesteps=900),
        {},
    ),
    "unconditional_codebook_ids": (model(vq(), dict(num_heads=2, n_embed=24)), {}),
    "crossattn_class": (
        model(
            kl(tanh_out=True, attn_resolutions=[16, 8]), SPATIAL | dict(num_head_channels=16, transformer_depth=2),
            CLASS,
            conditioning_key="crossattn", cond_stage_key="class_label", cond_stage_trainable=True, learn_logvar=True,
            scale_factor=0.6,
            l_simple_weight=0.7, original_elbo_weight=0.01, logvar_init=0.1, v_posterior=0.2,
        ), LABELS,
    ),
    "crossattn_layout": (
        model(
            vq(ch_mult=[1, 1], num_res_blocks=2), SPATIAL | dict(num_heads=2),
            encoder("BERTEmbedder", n_embed=12, n_layer=2, vocab_size=8192, max_seq_len=8, use_tokenizer=False),
            concat_mode=False,
            beta_schedule="sqrt_linear",
        ), dict(layouts=[[*row, 0] for row in TOKENS]),
    ),
    "crossattn_stability": (
        model(
            kl(), SPATIAL | dict(
                num_head_channels=16, use_linear_in_transformer=True, disable_self_attentions=[True, False],
                num_res_blocks=[2, 1],
                num_attention_blocks=[1, 1], disable_middle_self_attn=True, attention_resolutions=[1, 2],
            ),
            encoder("Identity"), conditioning_key="crossattn", parameterization="v", scale_factor=0.18215,
        ), dict(embeddings=(B, 5, 12)),
    ),
    "concat_semantic": (
        model(
            vq(attn_type="none"), dict(in_channels=6, num_heads=8, attention_resolutions=[8, 16]),
            encoder("SpatialRescaler", n_stages=1, in_channels=5, out_channels=3), cond_stage_key="segmentation",
        ), dict(segmentations=None),
    ),
    "concat_superres": (
        model(vq(resamp_with_conv=False), dict(in_channels=6, num_head_channels=32), encoder("Identity"),
            concat_mode=True),
        dict(low_res_images=(B, 3, LATENT, LATENT)),
    ),
    "concat_inpaint": (
        model(vq(attn_type="none"), dict(in_channels=7, num_heads=4, resblock_updown=True), "__is_first_stage__",
            cond_stage_key="masked_image"),
        dict(images=(B, 3, SIDE, SIDE), masks=None),
    ),
    "concat_given": (
        model(vq(), dict(in_channels=5, num_heads=4, channel_mult=[1]), encoder("Identity"), conditioning_key="concat"),
        dict(concats=(B, 2, LATENT, LATENT)),
    ),
    "hybrid_class": (
        model(vq(), SPATIAL | dict(in_channels=6, num_heads=4), CLASS, conditioning_key="hybrid"),
        LABELS | dict(concats=(B, 3, LATENT, LATENT)),
    ),
    "adm_class": (
        model(kl(dict(colorize_nlabels=5)), dict(num_heads=2, num_classes=10), encoder("Identity"),
            conditioning_key="adm"), LABELS,
    ),
    "adm_sequential": (
        model(vq(), dict(num_heads=2, num_classes="sequential", adm_in_channels=6), encoder("Identity"),
            conditioning_key="adm"),
        dict(vectors=(B, 6)),
    ),
    "adm_continuous": (
        model(vq(), dict(num_heads=2, num_classes="continuous"), encoder("Identity"), conditioning_key="adm"),
        dict(vectors=(B, 1)),
    ),
    "hybrid_adm": (
        model(
            vq(), SPATIAL | dict(in_channels=5, num_heads=2, num_classes=10), encoder("Identity"),
            conditioning_key="hybrid-adm"
        ), LABELS | dict(embeddings=(B, 3, 12), concats=(B, 2, LATENT, LATENT)),
    ),
    "crossattn_adm": (
        model(
            vq(), SPATIAL | dict(num_heads=2, num_classes="sequential", adm_in_channels=6), encoder("Identity"),
            conditioning_key="crossattn-adm",
        ), dict(embeddings=(B, 3, 12), vectors=(B, 6)),
    ),
}  # fmt: skip


def conditions(wanted: dict) -> dict[str, np.ndarray]:
    """{name: array, NCHW}: values as they are, those of a shape by the rule, a map of segments, a hole of 5 x 7
    pixels."""
    found = rule.inputs({name: shape for name, shape in wanted.items() if isinstance(shape, tuple)})
    found |= {name: np.asarray(values) for name, values in wanted.items() if isinstance(values, list)}
    if "segmentations" in wanted:
        found["segmentations"] = np.arange(B * SIDE * SIDE).reshape(B, SIDE, SIDE) // 7 % 5
    if "masks" in wanted:
        hole = np.zeros((B, SIDE, SIDE), np.float32)
        hole[0, 3:8, 4:11] = hole[1, 6:, :9] = 1
        found["masks"] = hole
    return found


def questions(params: dict) -> dict[str, np.ndarray]:
    """x, z_t and t that a model is asked about."""
    channels, side = params["channels"], params["image_size"]
    found = rule.inputs(dict(x=(B, 3, SIDE, SIDE), z_t=(B, channels, side, side)))
    return found | dict(t=np.asarray(T, np.int32))


def answers(params: dict, wanted: dict) -> tuple[dict, dict]:
    """({name: shape} of the file's tensors, {name: array} that the model gives)."""
    made = LatentDiffusion(params).eval()
    tables = make_tables(params)
    state = {n: torch.tensor(rule.tensor(n, tuple(t.shape), tables)) for n, t in made.state_dict().items()}
    made.load_state_dict(state, strict=True)
    if params.get("use_ema", True):
        made.use_averages()
    asked = {k: torch.tensor(v) for k, v in questions(params).items()}
    with torch.no_grad():
        given = made.condition({k: torch.tensor(v) for k, v in conditions(wanted).items()})
        z = made.encode(asked["x"])
        found = dict(
            z=z, recon=made.decode(z), prediction=made.predict(asked["z_t"], asked["t"].long(), given)
        )
        if params.get("parameterization") != "x0" and "n_embed" not in params["unet_config"]["params"]:
            found["sample"] = made.ddim(asked["z_t"], given, 4)
    return {n: tuple(t.shape) for n, t in state.items()}, {k: v.numpy() for k, v in found.items()}


def main() -> None:
    for name, (section, wanted) in MODELS.items():
        shapes, found = answers(section["params"], wanted)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        content = yaml.safe_dump(dict(model=section), sort_keys=False, width=120)
        (folder / "config.yaml").write_text(content)
        averages = {rule.averaged(n) for n in shapes}
        lines = [" ".join([n, *map(str, shape)]) for n, shape in shapes.items() if n not in averages]
        (folder / "names.txt").write_text("\n".join(lines) + "\n")
        np.savez_compressed(folder / "expected.npz", **found)


if __name__ == "__main__":
    main()
