"""Text encoders with random weights converted by this code give what transformers, OpenCLIP and diffusers
give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import class_label, clip, sdxl, semantic, text
from ldm_jax.convert import clip as clip_names
from ldm_jax.convert import compvis_conditioner, diffusers_ldm_bert, state_dict
from ldm_jax.models.clip_text import CLIPTextTransformer
from ldm_jax.models.text_encoder import TextTransformer
from ldm_jax.params import flatten

VOCAB, WIDTH, LAYERS, HEADS, LENGTH, PROJECTION = 60, 32, 3, 4, 9, 12
BOS, EOS = VOCAB - 2, VOCAB - 1
FIELDS = dict(vocab_size=VOCAB, width=WIDTH, num_layers=LAYERS, num_heads=HEADS, max_length=LENGTH)
TOKENS = np.array(
    [[BOS, 5, 17, 8, EOS, EOS, EOS, EOS, EOS], [BOS, 3, EOS, 0, 0, 0, 0, 0, 0], [BOS, *range(20, 27), EOS]]
)


def template_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]


def close(ours, theirs):
    theirs = np.asarray(theirs.detach())
    assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * np.abs(theirs).max()


def randomize(torch, model):
    """Weights of a size that makes every part matter, norms away from their start included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = p.ndim == 1 and name.endswith("weight")
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.3 * noise if norm else noise / max((1, *p.shape)[-1], 4) ** 0.5)
    return model.eval()


def numpy_state(model):
    return {name: t.detach().numpy() for name, t in model.state_dict().items()}


def apply(model, params, tokens=TOKENS, **options):
    return jax.jit(lambda p, t: model.apply({"params": p}, t, **options))(params, jnp.asarray(tokens))


# --------------------------------------------------------------------------------------- against transformers


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def hugging_face(request):
    """(torch model, ours, our params, activation); the model with quick GELU knows where a caption ends by
    its EOS, the other, as older configs say, by its highest id."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH if request.param == "gelu" else 48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_act=request.param,
        projection_dim=PROJECTION,
        bos_token_id=BOS,
        eos_token_id=2 if request.param == "gelu" else EOS,
        pad_token_id=1,
    )
    theirs = randomize(torch, transformers.CLIPTextModelWithProjection(config))
    ours = CLIPTextTransformer(
        **FIELDS,
        activation=request.param,
        mlp_width=None if request.param == "gelu" else 48,
        projection_dim=PROJECTION,
        eos_id=None if request.param == "gelu" else EOS,
    )
    return theirs, ours, clip_names.from_torch(numpy_state(theirs), template_of(ours))


def test_transformers_clip_text_model(hugging_face):
    torch = pytest.importorskip("torch")
    theirs, ours, params = hugging_face
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS), output_hidden_states=True)
        pooled = theirs.text_model(torch.tensor(TOKENS)).pooler_output
    out = apply(ours, params)
    close(out.last, expected.last_hidden_state)
    close(out.pooled, expected.text_embeds)
    # SDXL's choice: the entry before the last of hidden_states, which no norm has touched
    close(apply(ours, params, skip=1, final_norm=False).hidden, expected.hidden_states[-2])
    # SD2's: the same through the final norm
    normed = theirs.text_model.final_layer_norm(expected.hidden_states[-2])
    close(apply(ours, params, skip=1).hidden, normed)
    # and without a projection the pooled output is that of CLIPTextModel
    bare = CLIPTextTransformer(
        **FIELDS, activation=ours.activation, mlp_width=ours.mlp_width, eos_id=ours.eos_id
    )
    without = {name: tree for name, tree in params.items() if name != "text_projection"}
    close(apply(bare, without).pooled, pooled)


def test_transformers_names_with_and_without_the_prefix(hugging_face):
    theirs, ours, params = hugging_face
    state = numpy_state(theirs)
    back = clip_names.to_torch(params)
    assert back.keys() == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])
    # transformers 5 leaves 'text_model.' out of CLIPTextModel, older releases keep a buffer of positions
    bare = numpy_state(theirs.text_model)
    assert any(name.startswith("embeddings.") for name in bare) or "text_model" in next(iter(bare))
    bare["embeddings.position_ids"] = np.arange(LENGTH)[None]
    template = {name: tree for name, tree in template_of(ours).items() if name != "text_projection"}
    again = clip_names.from_torch(bare, template)
    for path, array in flatten(again).items():
        np.testing.assert_array_equal(array, flatten(params)[path])
    # a projection that is not read may be there, anything else may not
    clip_names.from_torch(state, template)
    with pytest.raises(ValueError, match="unused: visual_projection.weight"):
        clip_names.from_torch(state | {"visual_projection.weight": np.zeros((2, 2))}, template)


# ------------------------------------------------------------------------------------------- against OpenCLIP


def open_clip_tower(torch):
    """The text half of OpenCLIP's CLIP, from its state dict's names: pre-norm blocks of
    nn.MultiheadAttention."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attn = nn.MultiheadAttention(WIDTH, HEADS)
            self.mlp = nn.Sequential()
            self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
            self.mlp.add_module("gelu", nn.GELU())
            self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

        def forward(self, x, mask):
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            return x + self.mlp(self.ln_2(x))

    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.token_embedding = nn.Embedding(VOCAB, WIDTH)
            self.positional_embedding = nn.Parameter(torch.zeros(LENGTH, WIDTH))
            self.transformer = nn.Module()
            self.transformer.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.ln_final = nn.LayerNorm(WIDTH)
            self.text_projection = nn.Parameter(torch.zeros(WIDTH, PROJECTION))
            self.logit_scale = nn.Parameter(torch.zeros(()))
            self.register_buffer("attn_mask", torch.full((LENGTH, LENGTH), -torch.inf).triu(1))

        def forward(self, tokens):
            """(all layers' outputs, sequence first; the pooled text)"""
            x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
            hidden = []
            for block in self.transformer.resblocks:
                x = block(x, self.attn_mask)
                hidden.append(x.permute(1, 0, 2))
            last = self.ln_final(hidden[-1])
            return hidden, last[torch.arange(len(tokens)), tokens.argmax(dim=-1)] @ self.text_projection

    return randomize(torch, Tower())


@pytest.fixture(scope="module")
def open_clip():
    torch = pytest.importorskip("torch")
    tower = open_clip_tower(torch)
    with torch.no_grad():
        hidden, pooled = tower(torch.tensor(TOKENS))
    return tower, hidden, pooled


OPEN_CLIP_FIELDS = FIELDS | dict(activation="gelu", projection_dim=PROJECTION)


def test_open_clip(open_clip):
    tower, hidden, pooled = open_clip
    ours = CLIPTextTransformer(**OPEN_CLIP_FIELDS)
    state = numpy_state(tower)
    params = clip_names.from_torch(state, template_of(ours), "open_clip")
    out = apply(ours, params, skip=1)
    close(out.hidden, tower.ln_final(hidden[-2]))
    close(out.pooled, pooled)
    close(out.last, tower.ln_final(hidden[-1]))
    back = clip_names.to_torch(params, "open_clip")
    assert back.keys() | {"logit_scale", "attn_mask"} == state.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name])


def test_one_tower_in_both_layouts_is_one(open_clip):
    """OpenCLIP's weights, written under transformers' names, run there."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tower, _, pooled = open_clip
    ours = CLIPTextTransformer(**OPEN_CLIP_FIELDS)
    params = clip_names.from_torch(numpy_state(tower), template_of(ours), "open_clip")
    config = transformers.CLIPTextConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        projection_dim=PROJECTION,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.load_state_dict({name: torch.tensor(a) for name, a in clip_names.to_torch(params).items()})
    with torch.no_grad():
        close(pooled, model(torch.tensor(TOKENS)).text_embeds)


# ----------------------------------------------------------------------------------------------- single files


def single_file_names(kind, conditioner, inputs, options=None):
    template = jax.eval_shape(conditioner.init, jax.random.key(0), inputs).get("params", {})
    entries = compvis_conditioner.compvis_entries(kind, template, options)
    assert sorted(path for path, _, _ in entries) == sorted(flatten(template))
    names = {part for _, name, _ in entries for part in ([name] if isinstance(name, str) else name)}
    return names, compvis_conditioner.compvis_unused(kind, template, options)


TOKEN_INPUTS = {"tokens": np.zeros((1, LENGTH), np.int32)}
TOWER = dict(width=WIDTH, num_layers=LAYERS, num_heads=HEADS, max_length=LENGTH, vocab_size=VOCAB)


def test_single_file_names_of_stable_diffusion_1():
    names, unused = single_file_names("clip", clip.Conditioner(**TOWER), TOKEN_INPUTS)
    prefix = "cond_stage_model.transformer.text_model."
    assert all(name.startswith(prefix) for name in names) and len(names) == 2 + LAYERS * 16 + 2
    assert f"{prefix}encoder.layers.2.self_attn.v_proj.bias" in names
    assert list(unused) == [f"{prefix}embeddings.position_ids"]
    np.testing.assert_array_equal(unused[f"{prefix}embeddings.position_ids"], [range(LENGTH)])
    assert all(map(compvis_conditioner.ignored, unused)) and not any(map(compvis_conditioner.ignored, names))


@pytest.mark.parametrize("projection_dim", [PROJECTION, None])
def test_single_file_names_of_stable_diffusion_2(projection_dim):
    fields = TOWER | dict(projection_dim=projection_dim, activation="gelu", layer="penultimate")
    names, unused = single_file_names("clip", clip.Conditioner(**fields), TOKEN_INPUTS, fields)
    assert all(name.startswith("cond_stage_model.model.") for name in names)
    assert "cond_stage_model.model.transformer.resblocks.2.attn.in_proj_weight" in names
    assert ("cond_stage_model.model.text_projection" in names) == (projection_dim is not None)
    assert list(unused) == ["cond_stage_model.model.logit_scale"] and unused[next(iter(unused))].shape == ()
    assert all(map(compvis_conditioner.ignored, unused)) and not any(map(compvis_conditioner.ignored, names))


@pytest.mark.parametrize("refiner", [False, True])
def test_single_file_names_of_sdxl(refiner):
    fields = dict(clip_g=TOWER | dict(activation="gelu", projection_dim=PROJECTION))
    fields |= dict(clip_l=None if refiner else TOWER)
    inputs = TOKEN_INPUTS | dict(
        tokens_2=TOKEN_INPUTS["tokens"],
        keep=np.ones(1, np.float32),
        sizes=np.zeros((1, 6), np.float32),
        aesthetic_scores=np.zeros(1, np.float32),
    )
    names, unused = single_file_names("sdxl", sdxl.Conditioner(**fields), inputs)
    prefixes = ["conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."]
    prefixes = ["conditioner.embedders.0.model."] if refiner else prefixes
    assert {next(p for p in prefixes if name.startswith(p)) for name in names} == set(prefixes)
    assert f"{prefixes[-1]}text_projection" in names
    assert len(unused) == len(prefixes) and all(map(compvis_conditioner.ignored, unused))


def test_single_file_names_of_the_trained_conditioners():
    bert = text.Conditioner(vocab_size=VOCAB, width=WIDTH, num_layers=1, max_length=LENGTH)
    names, unused = single_file_names("text", bert, TOKEN_INPUTS)
    assert "cond_stage_model.transformer.attn_layers.layers.1.1.net.0.0.weight" in names
    assert unused["cond_stage_model.transformer.to_logits.weight"].shape == (VOCAB, WIDTH)
    assert all(map(compvis_conditioner.ignored, unused))
    labels = {"class_labels": np.zeros(1, np.int32)}
    table = class_label.Conditioner(3, 4)
    assert single_file_names("class_label", table, labels) == ({"cond_stage_model.embedding.weight"}, {})
    vector = class_label.Conditioner(3, mechanism="vector")
    assert single_file_names("class_label", vector, labels) == (set(), {})
    maps = {"segmentations": np.zeros((1, 8, 8), np.int32)}
    rescaler = semantic.Conditioner(num_classes=5)
    assert single_file_names("semantic", rescaler, maps) == ({"cond_stage_model.channel_mapper.weight"}, {})
    with pytest.raises(ValueError, match="'rescaler' has no known place"):
        compvis_conditioner.compvis_entries("rescaler", {"kernel": np.zeros(1)})


# ------------------------------------------------------------------------------------------ diffusers folders


def test_a_diffusers_folder_of_two_text_encoders(hugging_face):
    theirs, ours, params = hugging_face
    tower = TOWER | dict(
        activation=ours.activation, mlp_width=ours.mlp_width, projection_dim=PROJECTION, eos_id=ours.eos_id
    )
    template = {
        "sdxl": {
            "clip_l": {k: v for k, v in template_of(ours).items() if k != "text_projection"},
            "clip_g": template_of(CLIPTextTransformer(**tower)),
        },
        "inpaint": {},
    }
    bare = numpy_state(theirs.text_model)
    state = {f"text_encoder.{name}": array for name, array in bare.items()}
    state |= {f"text_encoder_2.{name}": array for name, array in numpy_state(theirs).items()}
    section = {"inpaint": {}, "sdxl": {}}
    read = clip_names.lazy_from_diffusers(state, section, template)
    for path, tensor in flatten(read["sdxl"]["clip_g"]).items():
        np.testing.assert_array_equal(tensor.read(), flatten(params)[path])
    np.testing.assert_array_equal(read["sdxl"]["clip_l"]["norm"]["scale"].read(), params["norm"]["scale"])
    # one kind alone, its projection unread
    alone = {"clip": {"transformer": template["sdxl"]["clip_l"]}}
    one = {name: a for name, a in state.items() if name.startswith("text_encoder.")}
    extra = {"text_encoder.text_projection.weight": state["text_encoder_2.text_projection.weight"]}
    half = {name: a.astype(np.float16) for name, a in (one | extra).items()}
    for keep, dtype in ((True, np.float16), (False, np.float32)):
        read = clip_names.lazy_from_diffusers(half, {"name": "clip"}, alone, keep_dtype=keep)
        assert {t.read().dtype for t in flatten(read).values()} == {np.dtype(dtype)}
    read = clip_names.lazy_from_diffusers(one | extra, {"name": "clip"}, alone)
    back = state_dict.to_torch(read, clip_names.diffusers_entries({"name": "clip"}, alone))
    assert {name.replace("text_model.", "") for name in back} == {n.replace("text_model.", "") for n in one}
    for name, array in clip_names.renamed(one, "text_encoder.").items():
        np.testing.assert_array_equal(back[name], array)
    with pytest.raises(ValueError, match="no place for the weights of conditioning 'semantic'"):
        clip_names.diffusers_entries({"semantic": {}}, {"semantic": {"kernel": np.zeros(1)}})


def test_stable_diffusion_2_without_the_layer_that_it_does_not_read():
    options = TOWER | dict(activation="gelu", projection_dim=PROJECTION, layer="penultimate")
    conditioner = clip.Conditioner(**options)
    inputs = {"tokens": jnp.asarray(TOKENS, jnp.int32)}
    shapes = jax.eval_shape(conditioner.init, jax.random.key(0), inputs)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) * 0.3, jnp.float32), shapes)
    less, fields = clip_names.without_unread_layer(params, options)
    assert fields["num_layers"] == LAYERS - 1 and "text_projection" not in less["transformer"]
    ours = conditioner.apply({"params": params}, inputs).context
    np.testing.assert_allclose(
        clip.Conditioner(**fields).apply({"params": less}, inputs).context, ours, atol=1e-5
    )
    assert clip_names.without_unread_layer(less, fields) == (less, fields)
    with pytest.raises(ValueError, match="final_norm=False"):
        clip_names.without_unread_layer(params, options | {"final_norm": False})


def test_diffusers_ldm_bert():
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion")
    config = module.LDMBertConfig(
        vocab_size=VOCAB,
        max_position_embeddings=LENGTH,
        encoder_layers=2,
        encoder_ffn_dim=4 * WIDTH,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=WIDTH,
    )
    theirs = randomize(torch, module.LDMBertModel(config))
    ours = TextTransformer(VOCAB, WIDTH, 2, LENGTH, num_heads=2, head_dim=8)
    state = numpy_state(theirs)
    params = diffusers_ldm_bert.from_torch(state, template_of(ours))
    with torch.no_grad():
        close(apply(ours, params), theirs(torch.tensor(TOKENS), return_dict=True).last_hidden_state)
    back = diffusers_ldm_bert.to_torch(params)
    assert {n: a.shape for n, a in back.items()} == {n: a.shape for n, a in state.items()}
    for name, array in back.items():
        np.testing.assert_array_equal(array, 0 if name.startswith("to_logits") else state[name])

    # the same encoder out of a folder, and under the original's names
    folder = {f"bert.{name}": array for name, array in state.items()}
    tree = {"transformer": template_of(ours)}
    read = clip_names.lazy_from_diffusers(folder, {"name": "text"}, {"text": tree})["text"]
    names = compvis_conditioner.compvis_entries("text", tree)
    compvis = state_dict.to_torch(read, names)
    np.testing.assert_array_equal(
        compvis["cond_stage_model.transformer.pos_emb.emb.weight"], state["model.embed_positions.weight"]
    )
