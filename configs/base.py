"""What the configs of published models have in common. No experiment: the other files of this folder are.

The tables are those of the configuration files in CompVis/latent-diffusion@a506df5 models/ and configs/, with the
hyper-parameters of Rombach et al. 2022 (arXiv:2112.10752), tables 8 and 12 to 17, where the files are silent.
"""

from ml_collections import ConfigDict, config_dict

from ldm_jax.config import conditioning_kinds, conditioning_section
from ldm_jax.shapes_world.scenes import WORDS


def _kl(channel_mult, z, attention_levels=()):
    return dict(
        name="kl",
        channels=128,
        channel_mult=channel_mult,
        num_res_blocks=2,
        attention_levels=list(attention_levels),
        z_channels=z,
        embed_dim=z,
    )


def _vq(channel_mult, z, n_embed, attention_levels=(), attn_type="vanilla"):
    section = _kl(channel_mult, z, attention_levels)
    return section | dict(name="vq", n_embed=n_embed, attn_type=attn_type)


# Of the shapes world, 64 x 64 pixels.
SHAPES_FIRST_STAGE = dict(
    name="kl", channels=16, channel_mult=[1, 2, 2], num_res_blocks=1, z_channels=4, embed_dim=4, num_groups=8
)

# Of table 8, trained on 256 x 256 pixels of OpenImages; of seven no file was released (their configs say so).
# The original names levels of attention by their size in pixels there.
FIRST_STAGES = {
    "kl_f4": _kl([1, 2, 4], 3),
    "kl_f8": _kl([1, 2, 4, 4], 4),
    "kl_f16": _kl([1, 1, 2, 2, 4], 16, [4]),
    "kl_f32": _kl([1, 1, 2, 2, 4, 4], 64, [4, 5]),
    "vq_f4": _vq([1, 2, 4], 3, 8192),
    "vq_f4_noattn": _vq([1, 2, 4], 3, 8192, attn_type="none"),
    "vq_f8": _vq([1, 2, 2, 4], 4, 16384, [3]),
    "vq_f8_n256": _vq([1, 2, 2, 4], 4, 256, [3]),
    "vq_f16": _vq([1, 1, 2, 2, 4], 8, 16384, [4]),
    "kl_f2": _kl([1, 2], 2),
    "kl_f16_d8": _kl([1, 1, 2, 2, 4], 8, [4]),
    "kl_f32_d16": _kl([1, 1, 2, 2, 4, 4], 16, [4, 5]),
    "vq_f2": _vq([1, 2], 2, 2048),
    "vq_f2_n64": _vq([1, 2], 2, 64),
    "vq_f4_n256": _vq([1, 2, 4], 3, 256),
    "vq_f32": _vq([1, 1, 2, 2, 4, 4], 16, 16384, [4, 5]),
    "vq_f32_d32": _vq([1, 1, 2, 2, 4, 4], 32, 16384, [4, 5]),  # of table 13's LDM-32 alone
    "kl_f4_z4": _kl([1, 2, 4], 4),  # of the x4 upscaler alone
    "pixels": dict(name="identity"),  # none: the second stage is of pixels, LDM-1
}

# The UNet of Stable Diffusion but for its heads and the width of its context.
SD = dict(
    in_channels=4,
    out_channels=4,
    channels=320,
    channel_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    attention_levels=[0, 1, 2],
    transformer_depth=1,
    remat="full",
)
SD2 = dict(SD, head_dim=64, context_dim=1024, use_linear_projection=True)
SD_BETA = (0.00085, 0.012)
TURBO_SAMPLING = dict(num_steps=1, guidance_scale=1.0, sampler="euler_ancestral", spacing="trailing")

# The text encoders that are not trained with the model; their weights come with a converted checkpoint.
CLIP_L = dict(
    vocab_size=49408, width=768, num_layers=12, num_heads=12, max_length=77, activation="quick_gelu"
)
OPENCLIP_H = dict(CLIP_L, width=1024, num_layers=24, num_heads=16, activation="gelu", projection_dim=1024)
OPENCLIP_G = dict(CLIP_L, width=1280, num_layers=32, num_heads=20, activation="gelu", projection_dim=1280)


def text_sd1() -> dict:
    """CLIP ViT-L/14: the last layer, normed; captions padded with their end marker."""
    return dict(CLIP_L, layer="last", final_norm=True, tokenizer=_clip_tokenizer(49407))


def text_sd2() -> dict:
    """OpenCLIP ViT-H/14: the layer before the last, normed; captions padded with 0."""
    return dict(OPENCLIP_H, layer="penultimate", final_norm=True, tokenizer=_clip_tokenizer(0))


def text_sdxl(refiner: bool = False) -> dict:
    """CLIP ViT-L/14 beside OpenCLIP bigG/14, the base's; or bigG/14 alone, the refiner's; and the sizes of the
    picture."""
    own = {k: v for k, v in OPENCLIP_G.items() if k not in ("vocab_size", "max_length")}
    beside = {k: v for k, v in CLIP_L.items() if k not in ("vocab_size", "max_length")}
    return dict(
        clip_g=own,
        clip_l=None if refiner else beside,
        tokenizer=_clip_tokenizer(49407),
    )


def _clip_tokenizer(pad_id: int) -> dict:
    return dict(name="clip", vocab_file="", max_length=77, pad_id=pad_id)


def text_bert(width: int) -> dict:
    """The transformer that is trained with the model, on BERT's tokens; `tokenizer.vocab_file` is the user's to
    name."""
    tokenizer = dict(name="wordpiece", vocab_file="", max_length=77)
    return dict(name="text", vocab_size=30522, width=width, num_layers=32, max_length=77, tokenizer=tokenizer)


IMAGENET = dict(name="tfds", split="train", dataset="imagenet2012", label_key="label", recipe="imagenet")


def folder(recipe: str, **more) -> dict:
    """Pictures, perhaps with captions, in a folder that the user names with --config.data.root."""
    return dict(name="folder", split="train", root="", recipe=recipe, **more)


def warm_up(steps: int) -> dict:
    """Linear from 1e-6 to 1 over `steps`, then constant: the original's LambdaLinearScheduler as its configs use it."""
    return dict(
        name="lambda_linear",
        warm_up_steps=[steps],
        f_min=[1.0],
        f_max=[1.0],
        f_start=[1e-6],
        cycle_lengths=[1e13],
    )


def spread(c: ConfigDict) -> None:
    """How a run is spread over devices (ldm_jax/distributed/parallel.py), and steps over dispatches."""
    c.parallelism, c.steps_per_dispatch = "pmap", 1
    # Of each None is what the devices say, or what is left of them.
    c.mesh = {name: config_dict.placeholder(int) for name in ("data", "fsdp", "slices")}
    c.mesh.reduce_dtype = config_dict.placeholder(str)


def _start(name: str, arg: str, task: str, image_size: int) -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/{name}.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = ConfigDict()
    c.task, c.seed, c.image_size, c.dtype = task, 0, image_size, "float32"
    c.log_every, c.checkpoint_every, c.preview_every, c.keep = 100, 5000, 5000, 3
    spread(c)
    return c


def first_stage(
    name: str, arg: str, *, batch_size: int, total_steps: int, loss: dict, disc_layers: int = 3
) -> ConfigDict:
    """The config of one of the sixteen first stages of table 8. batch_size: of the original, per device there."""
    c = _start(name, arg, "first_stage", 256)
    c.data = folder("openimages")
    c.first_stage = FIRST_STAGES[name]
    c.loss = loss
    c.discriminator = dict(num_layers=disc_layers, channels=64)
    # The original's LPIPS drops out half of the features that its heads see, which was not meant.
    c.lpips = dict(vgg_path="", heads_path="", dropout=False)  # "" takes the weights that are at hand
    c.optimizer = dict(name="adam", base_lr=4.5e-6, accumulate=1, schedule=dict(name="constant"))
    c.ema_decay = None
    c.batch_size, c.total_steps = batch_size, total_steps
    if arg == "runlocal":
        _run_locally(c)
        c.loss.disc_start, c.lpips.vgg_path = 1, "off"
        c.discriminator.update(num_layers=1, channels=8)
    return c


def diffusion(
    name: str,
    arg: str,
    *,
    image_size: int,
    first_stage: str,
    model: dict,
    beta: tuple[float, float],
    optimizer: dict,
    batch_size: int,
    total_steps: int,
    data: dict,
    sampling: dict,
    scale_factor: float | None = 1.0,
    conditioning: dict | None = None,
    condition_dropout: float = 0.0,
    freeze: tuple[str, ...] = (),
    loss_type: str = "l2",
    prediction_type: str = "eps",
    schedule: str = "linear",
    learned_variance: bool = False,
) -> ConfigDict:
    """The config of a published second stage.

    first_stage: one of FIRST_STAGES, trained before or converted; --config.first_stage_from says where it is. 'pixels'
    is none. beta: (start, end) of 1000 timesteps, linear in the square root unless `schedule` is another. scale_factor:
    None measures it over the data. learned_variance: the network says each step's variance as well.
    optimizer: base_lr and what else differs from AdamW at that rate times the batch size.
    """
    c = _start(name, arg, "diffusion", image_size)
    c.data = data
    c.first_stage = FIRST_STAGES[first_stage]
    c.first_stage_from = config_dict.placeholder(str)
    if first_stage != "pixels":
        c.first_stage_from = f"runs/{first_stage}"
    c.init_from = config_dict.placeholder(str)  # None is from scratch
    c.scale_factor, c.per_channel_latents = scale_factor, False
    c.learned_variance = learned_variance
    c.model = dict(remat=config_dict.placeholder(str)) | model  # None computes nothing again
    c.conditioning = conditioning or {}
    c.condition_dropout = condition_dropout
    c.freeze = list(freeze)
    c.schedule = dict(name=schedule, num_timesteps=1000, beta_start=beta[0], beta_end=beta[1])
    c.prediction_type = prediction_type
    c.loss = dict(loss_type=loss_type) | (dict(vlb_weight=0.001) if learned_variance else {})
    c.optimizer = dict(name="adamw", accumulate=1, schedule=dict(name="constant")) | optimizer
    c.ema_decay = 0.9999
    c.batch_size, c.total_steps = batch_size, total_steps
    c.sampling = sampling
    if arg == "runlocal":
        _run_locally(c)
    return c


# ------------------------------------------------------------------------------------------- the shapes world


# The UNet of the shipped model, which the tasks of tokens and classes start from: attention at 16 x 16 and 8 x 8 latent
# cells, whose maps show small objects as well.
SHAPES_UNET = dict(
    in_channels=4,
    out_channels=4,
    channels=64,
    channel_mult=[1, 2, 3],
    num_res_blocks=1,
    conv_resample=False,
    attention_levels=[0, 1],
    head_dim=32,
    transformer_depth=1,
    context_dim=128,
    num_groups=16,
    coordinates=True,
)
# What reads its captions, and the tokens of layouts.
SHAPES_TRANSFORMER = dict(width=128, num_layers=2, num_heads=4, head_dim=32)
# Of the tasks whose condition is a picture of the same size: less is needed, and attention in the middle alone.
SHAPES_SMALL_UNET = dict(
    out_channels=4,
    channels=32,
    channel_mult=[1, 2],
    num_res_blocks=2,
    conv_resample=False,
    head_dim=32,
    num_groups=16,
)


def shapes(
    name: str,
    arg: str,
    *,
    conditioning: dict,
    model: dict,
    total_steps: int,
    sampling: dict,
    data: dict,
    condition_dropout: float = 0.0,
    first_stage_from: str = "shapes",
    init_from: str | None = "shapes",
) -> ConfigDict:
    """A second stage on the shapes world, in the latents of the shipped first stage, small enough for two cores.

    It predicts v: at the high noise levels, where the layout of a scene is decided, eps weighs errors of x_start by
    next
    to nothing. data: options of the source `shapes` beyond its split. init_from: a model whose weights it begins with
    (ldm_jax/checkpoints/warm_start.py).
    """
    c = _start(name, arg, "diffusion", 64)
    c.data = (
        dict(name="shapes", split="train", num_scenes=30_000, annotations=False, precompute_latents=True)
        | data
    )
    c.first_stage_from = first_stage_from
    c.per_channel_latents = False  # True takes each channel's own mean and deviation off (docs/latents.md)
    c.init_from = config_dict.placeholder(str)  # None is from scratch
    c.init_from = init_from
    c.model = dict(remat=config_dict.placeholder(str)) | model  # None computes nothing again
    c.conditioning = conditioning
    c.condition_dropout = condition_dropout
    c.freeze = []
    c.schedule = dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)
    c.prediction_type = "v"
    c.stratified_timesteps = True
    c.timestep_density = dict(mean=config_dict.placeholder(float), std=1.0)  # evenly
    c.loss = dict(loss_type="l2", min_snr_gamma=config_dict.placeholder(float))
    c.optimizer = dict(
        name="adamw",
        base_lr=1e-3,
        scale_lr=False,
        b2=0.99,
        clip_norm=1.0,
        schedule=dict(name="warmup_cosine", warm_up_steps=200, final=0.05),  # over total_steps
    )
    c.ema_decay = 0.9995
    c.batch_size, c.total_steps = 32, total_steps
    c.log_every, c.checkpoint_every, c.preview_every, c.keep = 50, 250, 1000, 2
    c.sampling = sampling
    if arg == "runlocal":
        c.first_stage_from = c.init_from = None
        c.first_stage = SHAPES_FIRST_STAGE
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 4, 1, 2, 2
        c.data.num_scenes = 16
        c.sampling.num_steps = 2
    return c


# ------------------------------------------------------------------------------------------- the same, tiny

TOKENIZER = dict(name="word_level", words=list(WORDS), max_length=20)  # its end marker is 3
TINY_TEXT = dict(width=8, num_layers=1, max_length=20, num_heads=2, head_dim=4, tokenizer=TOKENIZER)
TINY_TOWER = dict(width=8, num_layers=2, num_heads=2)
TINY_CONDITIONING = {
    "class_label": dict(num_classes=24, width=8),
    "text": TINY_TEXT,
    "layout": dict(width=8, num_layers=1, num_heads=2, head_dim=4),
    "semantic": dict(num_classes=25),
    "retrieval": dict(width=8),
    "unclip": dict(width=6),
    "clip": dict(TINY_TOWER, max_length=20, eos_id=3, tokenizer=TOKENIZER),
    "sdxl": dict(max_length=20, eos_id=3, size_width=4, tokenizer=TOKENIZER),
}
# Where the shapes world has no such annotation, something of its shape.
TINY_FIELDS = {
    "superres": dict(low_res=dict(name="low_res", factor=4)),
    "inpaint": dict(mask=dict(name="mask", full=0.0)),
    "retrieval": dict(embeddings=dict(name="unit_vectors", shape=[11, 8])),
    "depth": dict(depth=dict(name="gray")),
    "unclip": dict(
        image_embedding=dict(name="unit_vectors", shape=[6]), noise_level=dict(name="integer", below=1000)
    ),
    "upscale": dict(low_res=dict(name="low_res", factor=4), noise_level=dict(name="integer", below=351)),
}


def _run_locally(c: ConfigDict) -> None:
    """Makes c two steps of the same structure, in small, on the shapes world."""
    c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
    c.optimizer = dict(name=c.optimizer.name, base_lr=1e-4, scale_lr=False)
    levels = len(c.first_stage.get("channel_mult", [1]))
    if c.first_stage.name != "identity":
        c.first_stage.update(channels=8, channel_mult=[1] * levels, num_res_blocks=1, num_groups=4)
    if "n_embed" in c.first_stage:
        c.first_stage.n_embed = 16
    factor = 2 ** (levels - 1)
    c.image_size = max(64, factor * (2 ** (len(c.model.channel_mult) - 1) if c.task == "diffusion" else 1))
    c.data = dict(name="shapes", split="train", num_scenes=8)
    c.data.recipe = "none" if c.image_size == 64 else "plain"
    if c.task == "diffusion":
        c.first_stage_from = None
        c.sampling.num_steps = min(2, c.sampling.num_steps)
        _shrink_model(c)


def _shrink_model(c: ConfigDict) -> None:
    levels = len(c.model.channel_mult)
    c.model.update(channels=8, channel_mult=[1] * levels, num_res_blocks=1, num_groups=4, remat=None)
    for heads, few in (("num_heads", 2), ("head_dim", 4)):
        if c.model.get(heads):
            c.model[heads] = few
    depth = c.model.get("transformer_depth")
    if depth:
        c.model.transformer_depth = min(depth, 2) if isinstance(depth, int) else [min(d, 2) for d in depth]
    if c.model.get("context_dim"):
        c.model.context_dim = 8
    shrunk = {}
    for kind, options in conditioning_kinds(c.conditioning.to_dict()).items():
        c.data.derive = dict(c.data.get("derive", {})) | TINY_FIELDS.get(kind, {})
        shrunk[kind] = _shrunk_conditioning(c, kind, options)
    c.conditioning = conditioning_section(shrunk) or {}


def _shrunk_conditioning(c: ConfigDict, kind: str, options: dict) -> dict:
    of_its_tokens = ("vocab_size", "tokenizer", "projection_dim")
    options = {k: v for k, v in options.items() if k not in of_its_tokens} | TINY_CONDITIONING.get(kind, {})
    if kind == "unclip":
        c.model.vector_dim = 2 * options["width"]
    if kind == "sdxl":
        refiner = options["clip_l"] is None
        options |= dict(clip_g=dict(TINY_TOWER, projection_dim=8), clip_l=None if refiner else TINY_TOWER)
        c.model.context_dim, c.model.vector_dim = (8, 8 + 5 * 4) if refiner else (16, 8 + 6 * 4)
    return options
