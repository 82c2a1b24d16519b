"""Every option of the original's constructors, and what becomes of it: it is honored, it has to have one value, or it
changes no picture.

Decides nothing of what an honored option means (original_config.py). An option that no constructor here has is an
error.
Source: the constructors of CompVis/latent-diffusion@a506df5, CompVis/stable-diffusion@21f890f,
runwayml/stable-diffusion@08ab4d3, Stability-AI/stablediffusion@cf1d67a and Stability-AI/generative-models@0ad7de9;
tests/corpus/original/constructors.json lists their names and defaults.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ldm_jax.convert import schema
from ldm_jax.text_files import shown


class NetworkOptions(NamedTuple):
    """honored: names. only: {name: (values that are accepted, why no others)}. without_effect: {name: why}, on a
    picture that is drawn with weights that are there."""

    honored: tuple[str, ...]
    only: Mapping[str, tuple[tuple, str]] = {}
    without_effect: Mapping[str, str] = {}


_FILE = "the weights are the file's"
_TRAINING = "how it is trained"
_LOGGING = "what training logs and names"
_DEVICE = "where and how fast it runs"
_BATCH = "a field of training batches"

UNET = NetworkOptions(
    honored=(
        "in_channels", "model_channels", "out_channels", "num_res_blocks", "attention_resolutions", "dropout",
        "channel_mult",
        "conv_resample", "num_classes", "num_heads", "num_head_channels", "num_heads_upsample", "use_scale_shift_norm",
        "resblock_updown", "use_new_attention_order", "use_spatial_transformer", "transformer_depth", "context_dim",
        "n_embed",
        "legacy", "disable_self_attentions", "num_attention_blocks", "disable_middle_self_attn",
        "use_linear_in_transformer",
        "adm_in_channels", "transformer_depth_middle",
    ),
    only=dict(
        dims=((2,), "latents are pictures"),
        disable_middle_transformer=((False, None), "the middle attends"),
        spatial_transformer_attn_type=(("softmax", "softmax-xformers", None), "attention is softmax"),
    ),
    without_effect=dict(
        image_size="the original does not read it", use_checkpoint=_DEVICE, use_fp16=_DEVICE, use_bf16=_DEVICE,
        offload_to_cpu=_DEVICE
    ),
)  # fmt: skip

LATENT_DIFFUSION = NetworkOptions(
    honored=(
        "unet_config", "first_stage_config", "cond_stage_config", "timesteps", "beta_schedule", "linear_start",
        "linear_end",
        "cosine_s", "v_posterior", "image_size", "channels", "conditioning_key", "concat_mode", "concat_keys",
        "parameterization",
        "scale_factor", "use_ema", "scale_by_std", "learn_logvar", "low_scale_config",
    ),
    only=dict(
        given_betas=((None,), "its noise schedule has a name"),
        use_positional_encodings=((False, None), "the original's own code for it is missing"),
        num_timesteps_cond=((None, 1), "conditions are not noised"),
        cond_stage_forward=((None,), "conditions are encoded by `encode`"),
        force_null_conditioning=((False, None), "its condition is not left out"),
        reshuffle_patch_size=((None,), "no patches are reshuffled"),
    ),
    without_effect=dict(
        loss_type=_TRAINING, original_elbo_weight=_TRAINING, l_simple_weight=_TRAINING, logvar_init=_TRAINING,
        scheduler_config=_TRAINING, cond_stage_trainable=_TRAINING, ucg_training=_TRAINING, reset_ema=_TRAINING,
        reset_num_ema_updates=_TRAINING, ckpt_path=_FILE, ignore_keys=_FILE, load_only_unet=_FILE, make_it_fit=_FILE,
        finetune_keys=_FILE, keep_finetune_dims=_FILE, monitor=_LOGGING, log_every_t=_LOGGING,
        c_concat_log_start=_LOGGING,
        c_concat_log_end=_LOGGING, first_stage_key=_BATCH, cond_stage_key=_BATCH, masked_image_key=_BATCH,
        low_scale_key=_BATCH,
        noise_level_key=_BATCH, depth_stage_config="maps of depth are given, not estimated",
        clip_denoised="LatentDiffusion sets it to False itself",
    ),
)  # fmt: skip

LOW_SCALE = NetworkOptions(("noise_schedule_config", "max_noise_level"), without_effect=dict(to_cuda=_DEVICE))
LOW_SCALE_SCHEDULE = NetworkOptions(
    ("timesteps", "linear_start", "linear_end"),
    only=dict(
        beta_schedule=(("linear",), "its noise is linear in the root"),
        cosine_s=((8e-3,), "its noise is linear in the root"),
    ),
)

AUTOENCODER = NetworkOptions(
    honored=("ddconfig", "embed_dim", "n_embed"),
    without_effect=dict(
        lossconfig=_TRAINING, batch_resize_range=_TRAINING, scheduler_config=_TRAINING, lr_g_factor=_TRAINING,
        learn_logvar=_TRAINING,
        ckpt_path=_FILE, ignore_keys=_FILE, image_key=_BATCH, monitor=_LOGGING, colorize_nlabels=_LOGGING,
        remap="numbers codes anew, and decodes the same ones", sane_index_shape="the shape of the codes' numbers",
        use_ema="a first stage is used with its weights", ema_decay="a first stage is used with its weights",
    ),
)  # fmt: skip

DDCONFIG = NetworkOptions(
    honored=(
        "ch", "out_ch", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout", "resamp_with_conv", "in_channels",
        "resolution",
        "z_channels", "double_z", "use_linear_attn", "attn_type", "tanh_out",
    ),
    only=dict(give_pre_end=((False, None), "the decoder ends in a picture")),
)  # fmt: skip

_CLIP = dict(device=_DEVICE, freeze=_TRAINING)
_LENGTH = ((77,), "its prompts have 77 tokens")
CONDITIONERS = {
    "BERTEmbedder": NetworkOptions(
        ("n_embed", "n_layer", "vocab_size", "max_seq_len", "use_tokenizer", "embedding_dropout"),
        without_effect=dict(device=_DEVICE),
    ),
    "ClassEmbedder": NetworkOptions(("embed_dim", "n_classes", "ucg_rate"), without_effect=dict(key=_BATCH)),
    "SpatialRescaler": NetworkOptions(
        ("n_stages", "in_channels", "out_channels"),
        only=dict(
            method=(("bilinear",), "pixels are averaged two by two"),
            multiplier=((0.5,), "pixels are averaged two by two"),
            bias=((False, None), "its map of channels has none"),
        ),
    ),
    "Identity": NetworkOptions(()),
    "FrozenCLIPEmbedder": NetworkOptions(
        ("layer",),
        only=dict(
            version=(("openai/clip-vit-large-patch14",), "shapes do not tell its activation"),
            max_length=_LENGTH,
            layer_idx=((None,), "it is read at its last layer"),
        ),
        without_effect=_CLIP,
    ),
    "FrozenOpenCLIPEmbedder": NetworkOptions(
        ("layer",),
        only=dict(
            arch=(("ViT-H-14",), "shapes do not tell its activation"),
            version=(("laion2b_s32b_b79k",), "shapes do not tell its activation"),
            max_length=_LENGTH,
        ),
        without_effect=_CLIP,
    ),
}

DIFFUSION_ENGINE = NetworkOptions(
    honored=("network_config", "denoiser_config", "first_stage_config", "conditioner_config", "scale_factor",
        "use_ema"),
    without_effect=dict(
        sampler_config="the sampler is asked for where it is drawn", optimizer_config=_TRAINING,
        scheduler_config=_TRAINING,
        loss_fn_config=_TRAINING, ema_decay_rate=_TRAINING, ckpt_path=_FILE, network_wrapper=_DEVICE,
        compile_model=_DEVICE,
        disable_first_stage_autocast=_DEVICE, en_and_decode_n_samples_a_time=_DEVICE, input_key=_BATCH,
        log_keys=_LOGGING,
        no_cond_log=_LOGGING,
    ),
)  # fmt: skip
DENOISER = NetworkOptions(
    honored=("scaling_config", "discretization_config", "num_idx"),
    only=dict(
        do_append_zero=((False, None), "levels of noise are the schedule's"),
        quantize_c_noise=((True,), "timesteps are integers"),
        flip=((True,), "levels of noise are counted from the lowest"),
    ),
    without_effect=dict(weighting_config=_TRAINING),
)
DISCRETIZATION = NetworkOptions(("linear_start", "linear_end", "num_timesteps"))


_SGM_CLIP = dict(
    _CLIP, is_trainable=_TRAINING, always_return_pooled="the pooled text is taken where it is wanted"
)
# Of the embedders of sgm's GeneralConditioner: (its defaults where they are not what is read here, options).
EMBEDDERS: dict[str, tuple[dict, NetworkOptions]] = {
    "FrozenCLIPEmbedder": (
        dict(layer="last", layer_idx=None),
        NetworkOptions(
            (),
            only=dict(
                layer=(("hidden",), "SDXL reads its last layer but one"),
                layer_idx=((11,), "SDXL reads its last layer but one"),
                version=(("openai/clip-vit-large-patch14",), "shapes do not tell its activation"),
                max_length=_LENGTH,
            ),
            without_effect=_SGM_CLIP,
        ),
    ),
    "FrozenOpenCLIPEmbedder2": (
        dict(
            arch="ViT-H-14",
            version="laion2b_s32b_b79k",
            layer="last",
            always_return_pooled=False,
            legacy=True,
        ),
        NetworkOptions(
            (),
            only=dict(
                arch=(("ViT-bigG-14",), "SDXL has this one"),
                version=(("laion2b_s39b_b160k",), "SDXL has this one"),
                layer=(("penultimate",), "SDXL reads its last layer but one"),
                always_return_pooled=((True,), "SDXL takes the pooled text beside the tokens"),
                legacy=((False,), "SDXL takes the pooled text beside the tokens"),
                max_length=_LENGTH,
            ),
            without_effect=_CLIP,
        ),
    ),
    "FrozenOpenCLIPEmbedder": (
        dict(layer="last"),
        NetworkOptions(
            (),
            only=dict(
                arch=(("ViT-H-14",), "shapes do not tell its activation"),
                version=(("laion2b_s32b_b79k",), "shapes do not tell its activation"),
                layer=(("penultimate",), "Stable Diffusion 2 reads its last layer but one"),
                max_length=_LENGTH,
            ),
            without_effect=_CLIP,
        ),
    ),
    "ConcatTimestepEmbedderND": (
        {},
        NetworkOptions((), only=dict(outdim=((256,), "SDXL has embeddings of this width"))),
    ),
}


def check(what: str, given: Any, options: NetworkOptions) -> dict[str, Any]:
    """`given` as a dict. Raises: ValueError that names an option that is not known, or has a value that is not."""
    schema.check(what, given, {name: schema.ORIGINAL[name] for name in options.honored})
    for name, value in given.items():
        if name in options.only:
            values, why = options.only[name]
            if value not in values:
                raise ValueError(
                    f"{what}: option {name!r} is {shown(value)}, expected {values[0]!r}: {why} here"
                )
        elif name not in options.honored and name not in options.without_effect:
            raise ValueError(f"{what}: option {shown(name)} ({shown(value)}) is not known here")
    return dict(given)
