"""The image tower against transformers', from both layouts, and how pixels reach it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import clip_vision
from ldm_jax.models.clip_vision import CLIPVisionTransformer


def tiny(activation="quick_gelu"):
    return CLIPVisionTransformer(16, 2, 2, 4, 6, image_size=12, activation=activation)


def template(model):
    x = jnp.zeros((1, model.image_size, model.image_size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]


def theirs(activation):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
        projection_dim=6,
        hidden_act=activation,
    )
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # its own start is nearly zero
            p.add_(torch.randn_like(p) * 0.2)
    return model


def published(model):
    """Its arrays under the names of the published files, which every transformers before 5 has, too."""
    state = {name: p.detach().numpy() for name, p in model.state_dict().items()}
    inner = {
        n if n.startswith(("vision_model.", "visual_projection.")) else f"vision_model.{n}": a
        for n, a in state.items()
    }
    return inner


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_embeddings_are_transformers(activation):
    torch = pytest.importorskip("torch")
    reference, model = theirs(activation), tiny(activation)
    params = clip_vision.from_state(published(reference), template(model))
    x = np.random.default_rng(0).normal(size=(3, 12, 12, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(x).movedim(-1, 1)).image_embeds.numpy()
    np.testing.assert_allclose(model.apply({"params": params}, x), expected, atol=1e-5)


def to_openai(state):
    """The layout of openai/CLIP: q, k and v of a layer in one array, the projection not transposed."""
    out = {
        "visual.proj": state["visual_projection.weight"].T,
        "transformer.resblocks.0.ln_1.weight": np.zeros(3),
    }
    embeddings = "vision_model.embeddings"
    out["visual.class_embedding"] = state[f"{embeddings}.class_embedding"]
    out["visual.positional_embedding"] = state[f"{embeddings}.position_embedding.weight"]
    out["visual.conv1.weight"] = state[f"{embeddings}.patch_embedding.weight"]
    for leaf in ("weight", "bias"):
        out[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        out[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
        for i in range(2):
            a, b = f"visual.transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}"
            qkv = [state[f"{b}.self_attn.{n}_proj.{leaf}"] for n in "qkv"]
            out[f"{a}.attn.in_proj_{leaf}"] = np.concatenate(qkv)
            out[f"{a}.attn.out_proj.{leaf}"] = state[f"{b}.self_attn.out_proj.{leaf}"]
            out[f"{a}.ln_1.{leaf}"] = state[f"{b}.layer_norm1.{leaf}"]
            out[f"{a}.ln_2.{leaf}"] = state[f"{b}.layer_norm2.{leaf}"]
            out[f"{a}.mlp.c_fc.{leaf}"] = state[f"{b}.mlp.fc1.{leaf}"]
            out[f"{a}.mlp.c_proj.{leaf}"] = state[f"{b}.mlp.fc2.{leaf}"]
    return out


def test_both_layouts_give_the_same_parameters():
    state = published(theirs("quick_gelu"))
    a, b = (clip_vision.from_state(s, template(tiny())) for s in (state, to_openai(state)))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    whole = state | {"text_model.final_layer_norm.bias": np.zeros(3), "logit_scale": np.zeros(())}
    jax.tree.map(np.testing.assert_array_equal, a, clip_vision.from_state(whole, template(tiny())))
    with pytest.raises(ValueError, match="missing: visual_projection.weight"):
        clip_vision.from_state({n: v for n, v in state.items() if "visual_proj" not in n}, template(tiny()))


def test_parameters_of_vit_l_14():
    vit_l_14 = CLIPVisionTransformer(
        width=1024, num_layers=24, num_heads=16, patch_size=14, projection_dim=768
    )
    leaves = jax.tree.leaves(template(vit_l_14))
    assert sum(a.size for a in leaves) == 303_966_208  # clip.load("ViT-L/14").visual


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 16}, r"got \(1, 12, 12, 3\), expected \[B, 16, 16, 3\]"),
        ({"num_heads": 3}, "num_heads=3, expected a divisor of 16"),
        ({"patch_size": 5}, "patch_size=5, expected a divisor of 12"),
        ({"activation": "relu"}, "activation='relu', expected quick_gelu or gelu"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    model = tiny().clone(**change)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 12, 12, 3))))
