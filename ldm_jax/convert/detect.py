"""Which architecture a CompVis checkpoint holds, read off its names and shapes.

Decides every field of a UNet and of a first stage that shapes tell. What they cannot tell (numbers of heads, schedule,
scale factor) is convert/published.py's for released models and convert/original_config.py's for a user's own. It reads
no file.
Source: CompVis/latent-diffusion@a506df5 ldm/modules/diffusionmodules/openaimodel.py and model.py, whose names these
are.
"""

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]


def unet_fields(shapes: Shapes) -> dict:
    """shapes: {name without 'model.diffusion_model.': shape}. Returns: fields of models.unet.UNet, all but num_heads
    and head_dim.

    Raises: ValueError if the names are not those of a UNet.
    """
    for name in ("input_blocks.0.0.weight", "time_embed.0.weight", "middle_block.0.in_layers.2.weight"):
        if name not in shapes:
            raise ValueError(f"no UNet of the original's: {name} is not there")
    channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    sizes, updown = _levels(shapes)
    fields: dict = dict(in_channels=in_channels, channels=channels, resblock_updown=updown)
    if "id_predictor.1.weight" in shapes:
        fields["n_embed"] = shapes["id_predictor.1.weight"][0]
        fields["out_channels"] = shapes["out.2.weight"][0] if "out.2.weight" in shapes else in_channels
    else:
        fields["out_channels"] = shapes["out.2.weight"][0]

    first, blocks = 1, []  # blocks: per level, the torch prefixes of its residual blocks on the way down
    for size in sizes:
        blocks.append([f"input_blocks.{first + j}" for j in range(size)])
        first += size + 1
    widths = [shapes[f"{level[0]}.0.out_layers.3.weight"][0] for level in blocks]
    embedded = shapes[f"{blocks[0][0]}.0.emb_layers.1.weight"][0]
    fields["channel_mult"] = [width // channels for width in widths]
    fields["num_res_blocks"] = sizes[0] if len(set(sizes)) == 1 else sizes
    fields["use_scale_shift_norm"] = embedded == 2 * widths[0]
    resampled = f"input_blocks.{sizes[0] + 1}.0.op.weight" in shapes
    fields["conv_resample"] = updown or resampled or len(sizes) == 1
    return fields | _attention(shapes, blocks) | _label_embedding(shapes)


def _levels(shapes: Shapes) -> tuple[list[int], bool]:
    """(residual blocks per level on the way down, finest first; whether residual blocks do the resampling)."""
    numbered = [m[1] for m in (re.match(r"output_blocks\.(\d{1,6})\.", name) for name in shapes) if m]
    last = max(map(int, numbered), default=0)
    if last >= len(shapes):
        raise ValueError(f"no UNet of the original's: it has output_blocks.{last} and {len(shapes)} tensors")
    counts, since, updown = [], 0, False
    for j in range(last + 1):
        since += 1
        updown |= any(f"output_blocks.{j}.{k}.in_layers.2.weight" in shapes for k in (1, 2))
        ends = [f"output_blocks.{j}.{k}.{layer}.weight" for k in (1, 2) for layer in ("conv", "in_layers.2")]
        if any(name in shapes for name in ends):
            counts.append(since - 1)
            since = 0
    counts.append(since - 1)
    if len(counts) == 1:  # resampling without parameters leaves gaps on the way down
        down = [f"input_blocks.{i}.0.in_layers.2.weight" in shapes for i in range(1, last + 2)]
        counts = [len(run) for run in "".join("r" if there else " " for there in down).split()][::-1]
    return counts[::-1], updown


def _attention(shapes: Shapes, blocks: list[list[str]]) -> dict:
    """attention_levels, transformer depths, context and the form of the projections."""
    per_level = [[f"{b}.1" for b in level if f"{b}.1.norm.weight" in shapes] for level in blocks]
    attention_levels = [i for i, found in enumerate(per_level) if found]
    fields: dict = dict(attention_levels=attention_levels)
    if any(0 < len(found) < len(level) for found, level in zip(per_level, blocks, strict=True)):
        fields["num_attention_blocks"] = [len(found) for found in per_level]
    depths = {i: _depth(shapes, per_level[i][0]) for i in attention_levels}
    middle = _depth(shapes, "middle_block.1")
    if len({*depths.values(), middle}) == 1:
        fields["transformer_depth"] = middle
    else:
        fields["transformer_depth"] = [depths.get(i, 1) for i in range(len(blocks))]
        if fields["transformer_depth"][-1] != middle:
            fields["transformer_depth_middle"] = middle
    if middle:
        inner, context_dim = shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"]
        fields["context_dim"] = context_dim
        fields["use_linear_projection"] = len(shapes["middle_block.1.proj_in.weight"]) == 2
        to_context = []
        for i in range(len(blocks)):
            first = f"{per_level[i][0]}.transformer_blocks.0.attn1.to_k.weight" if per_level[i] else None
            to_context.append(first is not None and shapes[first][1] == context_dim != shapes[first][0])
        if any(to_context):
            fields["disable_self_attention"] = to_context
    return fields


def _depth(shapes: Shapes, block: str) -> int:
    """Transformer blocks of one attention block; 0 for the plain one."""
    depth = 0
    while f"{block}.transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _label_embedding(shapes: Shapes) -> dict:
    if "label_emb.0.0.weight" in shapes:
        return dict(vector_dim=shapes["label_emb.0.0.weight"][1])
    if "label_emb.bias" in shapes:
        return dict(num_classes="continuous")
    if "label_emb.weight" in shapes:
        return dict(num_classes=shapes["label_emb.weight"][0])
    return {}


def first_stage_section(shapes: Shapes) -> dict:
    """shapes: {name without 'first_stage_model.': shape}. Returns: a config's first_stage section, all of it.

    Raises: ValueError if the names are not those of an autoencoder.
    """
    for name in ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight"):
        if name not in shapes:
            raise ValueError(f"no first stage of the original's: {name} is not there")
    channels, in_channels = shapes["encoder.conv_in.weight"][:2]
    z_channels = shapes["decoder.conv_in.weight"][1]
    levels = 0
    while f"encoder.down.{levels}.block.0.conv1.weight" in shapes:
        levels += 1
    num_res_blocks = 0
    while f"encoder.down.0.block.{num_res_blocks}.conv1.weight" in shapes:
        num_res_blocks += 1
    middle = "encoder.mid.attn_1"
    attn_type = (
        "vanilla"
        if f"{middle}.q.weight" in shapes
        else "linear"
        if f"{middle}.to_qkv.weight" in shapes
        else "none"
    )
    section = dict(
        name="vq" if "quantize.embedding.weight" in shapes else "kl",
        channels=channels,
        channel_mult=[shapes[f"encoder.down.{i}.block.0.conv2.weight"][0] // channels for i in range(levels)],
        num_res_blocks=num_res_blocks,
        attention_levels=[
            i for i in range(levels) if any(name.startswith(f"encoder.down.{i}.attn.0.") for name in shapes)
        ],
        attn_type=attn_type,
        z_channels=z_channels,
        embed_dim=shapes["post_quant_conv.weight"][1],
        in_channels=in_channels,
        out_channels=shapes["decoder.conv_out.weight"][0],
        double_z=shapes["encoder.conv_out.weight"][0] == 2 * z_channels,
        resamp_with_conv=levels == 1 or "encoder.down.0.downsample.conv.weight" in shapes,
    )
    if section["name"] == "vq":
        section["n_embed"] = shapes["quantize.embedding.weight"][0]
    return section


def diffusers_first_stage_section(shapes: Shapes) -> dict:
    """shapes: {diffusers' name: shape} of an AutoencoderKL or a VQModel. Returns: a config's first_stage section, all
    of it."""
    down = "encoder.down_blocks.%d.resnets.%d.conv2.weight"
    levels = 0
    while down % (levels, 0) in shapes:
        levels += 1
    channels, in_channels = shapes["encoder.conv_in.weight"][:2]
    z_channels = shapes["decoder.conv_in.weight"][1]
    embed_dim = shapes["post_quant_conv.weight"][1] if "post_quant_conv.weight" in shapes else z_channels
    attended = [
        any(n.startswith(f"encoder.down_blocks.{i}.attentions.") for n in shapes) for i in range(levels)
    ]
    middle = any(name.startswith("encoder.mid_block.attentions.") for name in shapes)
    section = dict(
        name="vq" if "quantize.embedding.weight" in shapes else "kl",
        channels=channels,
        channel_mult=[shapes[down % (i, 0)][0] // channels for i in range(levels)],
        num_res_blocks=_count(shapes, "encoder.down_blocks.0.resnets.%d.conv2.weight"),
        attention_levels=[i for i, there in enumerate(attended) if there],
        attn_type="vanilla" if middle else "none",
        z_channels=z_channels,
        embed_dim=embed_dim,
        in_channels=in_channels,
        out_channels=shapes["decoder.conv_out.weight"][0],
        double_z=shapes["encoder.conv_out.weight"][0] == 2 * z_channels,
    )
    return section | (dict(n_embed=shapes["quantize.embedding.weight"][0]) if section["name"] == "vq" else {})


def conditioner_sections(shapes: Shapes) -> dict[str, dict]:
    """shapes: {full name: shape} of a whole checkpoint. Returns: {kind of conditioning: its options}, of those that
    have weights.

    A CLIP text encoder under transformers' names is read at its last layer, one under OpenCLIP's at its last but one,
    as the models released so are; both are then normalized. Kinds without weights leave no trace, see
    convert/published.py.
    """
    if "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight" in shapes:
        options = _hugging_face_clip(shapes, "cond_stage_model.transformer.text_model.")
        return {"clip": options | dict(layer="last", final_norm=True)}
    if "cond_stage_model.model.token_embedding.weight" in shapes:
        options = _open_clip(shapes, "cond_stage_model.model.")
        # OpenCLIP ViT-H/14 has 24 layers; one with 23 came through diffusers, which keeps no layer that is not read
        layer = "last" if (options["width"], options["num_layers"]) == (1024, 23) else "penultimate"
        return {"clip": options | dict(layer=layer, final_norm=True)}
    if "conditioner.embedders.1.model.token_embedding.weight" in shapes:
        clip_l = _hugging_face_clip(shapes, "conditioner.embedders.0.transformer.text_model.")
        clip_g = _open_clip(shapes, "conditioner.embedders.1.model.")
        return {"sdxl": dict(clip_l=clip_l, clip_g=clip_g, use_aesthetic=False, force_zeros=True)}
    if "conditioner.embedders.0.model.token_embedding.weight" in shapes:
        clip_g = _open_clip(shapes, "conditioner.embedders.0.model.")
        return {"sdxl": dict(clip_l=None, clip_g=clip_g, use_aesthetic=True, force_zeros=False)}
    if "cond_stage_model.transformer.token_emb.weight" in shapes:
        return _ldm_bert(shapes, "cond_stage_model.transformer.")
    if "cond_stage_model.embedding.weight" in shapes:
        rows, width = shapes["cond_stage_model.embedding.weight"]
        return {"class_label": dict(num_rows=rows, width=width)}
    if "cond_stage_model.channel_mapper.weight" in shapes:
        out_channels, num_classes = shapes["cond_stage_model.channel_mapper.weight"][:2]
        return {"semantic": dict(num_classes=num_classes, out_channels=out_channels)}
    return {}


def _count(shapes: Shapes, pattern: str) -> int:
    """The number of numbered layers; pattern: 'layers.%d.weight'."""
    number = 0
    while pattern % number in shapes:
        number += 1
    return number


def _hugging_face_clip(shapes: Shapes, prefix: str) -> dict:
    """Fields of models.clip_text.CLIPTextTransformer; every CLIP text encoder has heads of 64."""
    vocab_size, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
    return dict(
        vocab_size=vocab_size,
        width=width,
        num_layers=_count(shapes, prefix + "encoder.layers.%d.layer_norm1.weight"),
        num_heads=width // 64,
        max_length=shapes[f"{prefix}embeddings.position_embedding.weight"][0],
        activation="quick_gelu",
    )


def _open_clip(shapes: Shapes, prefix: str) -> dict:
    vocab_size, width = shapes[f"{prefix}token_embedding.weight"]
    options = dict(
        vocab_size=vocab_size,
        width=width,
        num_layers=_count(shapes, prefix + "transformer.resblocks.%d.ln_1.weight"),
        num_heads=width // 64,
        max_length=shapes[f"{prefix}positional_embedding"][0],
        activation="gelu",
    )
    projection = shapes.get(f"{prefix}text_projection")
    return options | (dict(projection_dim=projection[1]) if projection else {})


def _ldm_bert(shapes: Shapes, prefix: str) -> dict:
    """The original's own transformer, of text or of layout tokens: 8 heads of 64 at every width."""
    vocab_size, width = shapes[f"{prefix}token_emb.weight"]
    max_length = shapes[f"{prefix}pos_emb.emb.weight"][0]
    num_layers = _count(shapes, prefix + "attn_layers.layers.%d.0.weight") // 2
    options = dict(vocab_size=vocab_size, width=width, num_layers=num_layers, max_length=max_length)
    # the layout builder's vocabulary has 8192 tokens, and its sequences 92 (3 per object, 2 of the crop)
    return {"layout" if (vocab_size, max_length) == (8192, 92) else "text": options}
