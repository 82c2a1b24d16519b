"""What an option of a config that is read may be: a kind of value and its range, for every vocabulary in one table.

Decides this by the option's name, wherever it stands, as a name means one thing in a vocabulary and mostly in all: in
configs of ours, the original's YAML, and the JSON of diffusers and transformers. It knows no file: what it refuses, it
names by `what`, and whoever reads says the file. Which options there are is not decided here, nor what they mean.

Ranges are beyond every released model, and bound what reading a config costs: the number of blocks of a network above
all, as each of them is traced (`check_config`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ldm_jax.config import conditioning_kinds
from ldm_jax.text_files import shown


class Rule(NamedTuple):
    """fits: whether it holds of a value. expected: in words."""

    fits: Callable[[Any], bool]
    expected: str


def whole(least: int, most: int) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return Rule(fits, f"a whole number from {least} to {most}")


def number(least: float, most: float) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most

    return Rule(fits, f"a number from {least:g} to {most:g}")


def lists(rule: Rule, most: int = 16) -> Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) <= most and all(map(rule.fits, value))

    return Rule(fits, f"a list of at most {most}, each {rule.expected}")


def either(*rules: Rule) -> Rule:
    return Rule(
        lambda value: any(rule.fits(value) for rule in rules), " or ".join(rule.expected for rule in rules)
    )


def one_of(*values: Any) -> Rule:
    """Of strings and None."""
    expected = " or ".join("null" if value is None else repr(value) for value in values)
    return Rule(lambda value: isinstance(value, str | None) and value in values, expected)


NOTHING = one_of(None)
FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
TEXT = Rule(lambda value: isinstance(value, str) and len(value) <= 1000, "a string of at most 1000 letters")
SECTION = Rule(
    lambda value: isinstance(value, Mapping) and all(isinstance(k, str) for k in value), "a section"
)
SECTIONS = lists(SECTION)


def maybe(rule: Rule) -> Rule:
    return either(rule, NOTHING)


def each(rule: Rule) -> Rule:
    """One for all levels, or one for each."""
    return either(rule, lists(rule))


WIDTH, COUNT = whole(1, 2**16), whole(0, 64)  # of layers; of blocks one after the other
ROWS = whole(1, 2**24)  # of a table of embeddings
SIDE = whole(1, 8192)  # of pictures that a model is trained at, in pixels
LEVEL = whole(0, 15)
TIMESTEPS = whole(1, 100_000)
LENGTH = whole(1, 2**15)  # of a text, in tokens
BETA, SHARE = number(0, 1), number(0, 1)
ANY_NUMBER = number(-1e9, 1e9)

# The options of the networks, of their noise schedules and of conditioning, by vocabulary: ours first.
RULES: dict[str, Rule] = dict(
    # what a config is of
    task=TEXT, image_size=each(SIDE), scale_factor=maybe(number(1e-9, 1e9)),
    latents_mean=maybe(lists(ANY_NUMBER, 2**16)), latents_std=maybe(lists(number(1e-9, 1e9), 2**16)),
    per_channel_latents=maybe(FLAG), learned_variance=maybe(FLAG), variance=TEXT,
    prediction_type=TEXT, class_names=maybe(lists(TEXT, 2**20)), name=TEXT,
    dtype=one_of("float32", "bfloat16", "float16"), remat=maybe(either(FLAG, TEXT)),
    text_from=maybe(TEXT), base_tokenizer=maybe(TEXT), holdout_every=maybe(whole(0, 2**31)),
    writers=maybe(lists(TEXT)),
    # networks
    in_channels=WIDTH, out_channels=maybe(WIDTH), channels=WIDTH, channel_mult=lists(COUNT), z_channels=WIDTH,
    embed_dim=WIDTH, num_res_blocks=each(COUNT), attention_levels=lists(LEVEL), num_heads=maybe(each(WIDTH)),
    head_dim=maybe(each(WIDTH)), num_heads_upsample=maybe(whole(-1, 2**16)), context_dim=maybe(each(WIDTH)),
    transformer_depth=maybe(each(COUNT)), transformer_depth_middle=maybe(COUNT), vector_dim=maybe(WIDTH),
    guidance_dim=maybe(whole(4, 2**16)),
    num_attention_blocks=maybe(each(COUNT)), num_groups=WIDTH, n_embed=maybe(ROWS), dropout=SHARE,
    num_classes=maybe(either(ROWS, one_of("continuous", "sequential"))), disable_self_attention=maybe(each(FLAG)),
    attn_type=TEXT, beta=ANY_NUMBER, remap=NOTHING, unknown_index=either(TEXT, whole(0, 2**24)),
    **dict.fromkeys(
        (
            "use_linear_projection", "use_scale_shift_norm", "resblock_updown", "conv_resample", "coordinates",
            "new_attention_order", "disable_middle_self_attention", "double_z", "resamp_with_conv", "give_pre_end",
            "tanh_out", "legacy", "null_class", "final_norm", "use_aesthetic", "force_zeros", "zero_terminal_snr",
        ),
        maybe(FLAG),
    ),
    # the noise schedule
    num_timesteps=TIMESTEPS, beta_start=BETA, beta_end=BETA, cosine_s=number(0, 100), v_posterior=SHARE,
    # conditioning
    width=WIDTH, vocab_size=ROWS, num_layers=COUNT, max_length=LENGTH, mlp_width=maybe(WIDTH), activation=TEXT,
    projection_dim=maybe(WIDTH), eos_id=maybe(whole(0, 2**24)), pad_id_g=whole(0, 2**24),
    layer=either(TEXT, whole(1, 64)), mechanism=TEXT,
    convention=TEXT, embedding_dropout=SHARE, num_stages=COUNT, size_width=WIDTH, max_noise_level=TIMESTEPS,
    enlarge=whole(1, 64), noise_schedule=TEXT,
    clip_l=maybe(SECTION), clip_g=SECTION, tokenizer=maybe(SECTION),
    words=lists(TEXT, 2**16), group_sizes=lists(WIDTH),
    site_words=maybe(lists(whole(0, 2**24), 2)), tokens=whole(1, 1024), nets=either(lists(lists(WIDTH)), SECTIONS),
    token=TEXT, side=SIDE, widths=lists(WIDTH), scale=ANY_NUMBER, number=whole(1, 1024), dim=WIDTH, hidden=WIDTH,
    # how a model is sampled unless one says otherwise
    num_steps=TIMESTEPS, guidance_scale=ANY_NUMBER, sampler=TEXT, eta=maybe(number(0, 1e9)), spacing=TEXT,
    final_alpha=maybe(TEXT), clip_denoised=maybe(number(1e-9, 1e9)), batch_size=whole(1, 2**20),
    sampler_options=maybe(SECTION),
)  # fmt: skip
# Sections of a config of ours, of which each option is looked at.
OURS = dict(
    shared=SECTION, first_stage=SECTION, model=SECTION, conditioning=maybe(SECTION), schedule=SECTION,
    sampling=maybe(SECTION), original=maybe(SECTION),
)  # fmt: skip

ORIGINAL: dict[str, Rule] = RULES | dict(
    # UNetModel
    model_channels=WIDTH, attention_resolutions=lists(whole(1, 2**16)), num_head_channels=maybe(whole(-1, 2**16)),
    num_heads=maybe(whole(-1, 2**16)), adm_in_channels=WIDTH, disable_self_attentions=maybe(lists(FLAG)),
    # LatentDiffusion
    timesteps=TIMESTEPS, beta_schedule=TEXT, linear_start=BETA, linear_end=BETA, conditioning_key=maybe(TEXT),
    concat_keys=lists(TEXT), parameterization=TEXT, cond_stage_config=maybe(either(TEXT, SECTION)),
    # AutoencoderKL, VQModel
    ch=WIDTH, out_ch=WIDTH, ch_mult=lists(COUNT), attn_resolutions=lists(whole(0, 2**16)), resolution=SIDE,
    # conditioners
    n_layer=COUNT, max_seq_len=LENGTH, n_classes=ROWS, n_stages=COUNT, ucg_rate=SHARE,
    # sgm
    num_idx=TIMESTEPS,
    **dict.fromkeys(
        ("unet_config", "first_stage_config", "ddconfig", "network_config", "denoiser_config", "conditioner_config"),
        SECTION,
    ),
    **dict.fromkeys(
        ("low_scale_config", "noise_schedule_config", "scaling_config", "discretization_config"), maybe(SECTION)
    ),
    **dict.fromkeys(
        (
            "use_spatial_transformer", "use_new_attention_order", "disable_middle_self_attn", "concat_mode", "use_ema",
            "use_linear_in_transformer", "scale_by_std", "learn_logvar", "use_linear_attn", "use_tokenizer",
        ),
        maybe(FLAG),
    ),
)  # fmt: skip

DIFFUSERS: dict[str, Rule] = dict(
    # UNet2DConditionModel, UNet2DModel, AutoencoderKL, VQModel
    in_channels=WIDTH, out_channels=WIDTH, block_out_channels=lists(WIDTH), layers_per_block=each(COUNT),
    down_block_types=lists(TEXT), up_block_types=lists(TEXT), latent_channels=WIDTH, norm_num_groups=WIDTH,
    attn_norm_num_groups=maybe(WIDTH), cross_attention_dim=maybe(each(WIDTH)), dropout=SHARE,
    transformer_layers_per_block=each(each(COUNT)), attention_head_dim=maybe(each(WIDTH)),
    num_attention_heads=maybe(each(WIDTH)), num_class_embeds=maybe(ROWS), class_embed_type=maybe(TEXT),
    addition_embed_type=maybe(TEXT), projection_class_embeddings_input_dim=maybe(WIDTH), mid_block_type=maybe(TEXT),
    only_cross_attention=each(FLAG), use_linear_projection=FLAG, mid_block_add_attention=FLAG,
    resnet_time_scale_shift=TEXT, downsample_type=TEXT, upsample_type=TEXT, scaling_factor=number(1e-9, 1e9),
    latents_mean=maybe(lists(ANY_NUMBER, 2**16)), latents_std=maybe(lists(number(1e-9, 1e9), 2**16)),
    num_vq_embeddings=ROWS, vq_embed_dim=maybe(WIDTH), sample_size=maybe(each(SIDE)),
    addition_time_embed_dim=maybe(WIDTH), time_cond_proj_dim=maybe(WIDTH),
    # schedulers
    num_train_timesteps=maybe(TIMESTEPS), beta_start=BETA, beta_end=BETA, trained_betas=maybe(lists(BETA, 100_000)),
    max_noise_level=TIMESTEPS,
    # CLIPTextModel, LDMBertModel
    text_config=maybe(SECTION), hidden_size=WIDTH, vocab_size=ROWS, num_hidden_layers=COUNT,
    max_position_embeddings=LENGTH, intermediate_size=WIDTH, projection_dim=maybe(WIDTH), hidden_act=TEXT,
    eos_token_id=maybe(whole(0, 2**24)), layer_norm_eps=SHARE, d_model=WIDTH, encoder_layers=COUNT, head_dim=WIDTH,
    encoder_attention_heads=WIDTH, encoder_ffn_dim=whole(1, 2**18), _class_name=maybe(TEXT),
)  # fmt: skip

MOST_BLOCKS = 400  # of a network, of any kind; SDXL's UNet has 87


def check(what: str, options: Any, rules: Mapping[str, Rule]) -> None:
    """Raises: ValueError for what is no section, and for an option, of those that have a rule, that breaks it."""
    if not SECTION.fits(options):
        raise ValueError(f"{what} is {shown(options)}, expected {SECTION.expected}")
    for name, value in options.items():
        if name in rules and not rules[name].fits(value):
            raise ValueError(f"{what}: {name} is {shown(value)}, expected {rules[name].expected}")


def like(default: Any) -> Rule:
    """What may stand where a class has this default, of an option without a rule of its own."""
    if isinstance(default, bool):
        return maybe(FLAG)
    if isinstance(default, int | float):
        return maybe(
            Rule(lambda value: number(-1e9, 1e9).fits(value) or value == default, ANY_NUMBER.expected)
        )
    if isinstance(default, str):
        return maybe(TEXT)
    return maybe(either(FLAG, ANY_NUMBER, TEXT, lists(ANY_NUMBER, 100_000), SECTION))


def check_config(config: Any, what: str) -> dict[str, Any]:
    """config, one of ours, once its options are what they may be; sections may be missing.

    Raises: ValueError as `check`, and for networks of more than MOST_BLOCKS blocks.
    """
    check(what, config, {})
    given = {
        name: value for name, value in config.items() if value is not None
    }  # of a run that a base fills in
    check(what, given, RULES | OURS)
    for name in ("first_stage", "model", "schedule", "sampling"):
        check(f"{what}: {name}", config.get(name) or {}, RULES)
    for kind, options in _kinds(config, what).items():
        check(f"{what}: conditioning {kind}", options, RULES)
        for tower in ("clip_l", "clip_g"):
            check(f"{what}: conditioning {kind}.{tower}", options.get(tower) or {}, RULES)
    for name in ("first_stage", "model"):
        blocks = _blocks(config.get(name) or {})
        if blocks > MOST_BLOCKS:
            raise ValueError(f"{what}: {name} has {blocks} blocks, expected at most {MOST_BLOCKS}")
    return config


def _kinds(config: Mapping[str, Any], what: str) -> dict[str, dict]:
    section = config.get("conditioning") or {}
    if "name" not in section:
        check(f"{what}: conditioning", section, dict.fromkeys(section, maybe(SECTION)))
    elif not TEXT.fits(section["name"]):
        check(f"{what}: conditioning", section, RULES)
    return conditioning_kinds(section)


def _blocks(network: Mapping[str, Any]) -> int:
    """Residual blocks and those of transformers, on the way down; of a network that passed `check`."""
    levels = len(network.get("channel_mult") or ())

    def at(name: str, default: int) -> list[int]:
        value = network.get(name)
        value = default if value is None else value
        return list(value) if isinstance(value, list | tuple) else [value] * levels

    pairs = zip(at("num_res_blocks", 2), at("transformer_depth", 0), strict=False)
    return sum(blocks * (1 + depth) for blocks, depth in pairs)
