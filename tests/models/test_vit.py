"""Vision transformers against transformers': DINOv2's, ViT's and MAE's, from their state dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import vit as convert
from ldm_jax.models.mae import MAE, assembled, patches
from ldm_jax.models.vit import ViT
from ldm_jax.training.beside import dino
from ldm_jax.training.beside import mae as beside

SIZE, PATCH, LENGTH, KEPT = 12, 4, 9, 3
X = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=PATCH)


def moved(model):
    """With weights far from where they start, and its state dict."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    model.eval()
    return model, {name: value.numpy() for name, value in model.state_dict().items()}


def converted(state, model, *inputs):
    template = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return {"params": convert.from_state(state, template)}


@pytest.mark.parametrize(("name", "epsilon", "scale"), [("Dinov2", 1e-6, 1.0), ("ViT", 1e-12, 0.0)])
def test_tokens_are_transformers(name, epsilon, scale):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    more = {} if name == "Dinov2" else dict(intermediate_size=64)
    theirs, state = moved(
        getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**SIZES, **more))
    )
    model = ViT(SIZE, PATCH, 16, 2, 2, epsilon, scale)
    with torch.no_grad():
        expected = theirs(torch.tensor(X).movedim(-1, 1)).last_hidden_state
    np.testing.assert_allclose(model.apply(converted(state, model, X), X), expected, atol=2e-5)


def test_a_masked_autoencoder_is_transformers():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = transformers.ViTMAEConfig(
        **SIZES, intermediate_size=64, decoder_hidden_size=8, decoder_num_hidden_layers=1, mask_ratio=0.6,
        decoder_num_attention_heads=2, decoder_intermediate_size=32, norm_pix_loss=True,
    )  # fmt: skip
    theirs, state = moved(transformers.ViTMAEForPreTraining(config))
    model = MAE(KEPT, SIZE, PATCH, 16, 2, 2, 8, 1, 2)
    noise = np.random.default_rng(1).random((2, LENGTH)).astype(np.float32)
    order = np.argsort(noise, axis=1)
    with torch.no_grad():
        expected = theirs(torch.tensor(X).movedim(-1, 1), noise=torch.tensor(noise))
    found = model.apply(converted(state, model, X, order), X, order)
    np.testing.assert_allclose(found, expected.logits, atol=2e-5)
    loss = beside.filled_loss(found, beside.standardized(patches(X, PATCH)), order, KEPT)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)


def test_patches_are_put_together_again():
    np.testing.assert_array_equal(assembled(patches(X, PATCH), SIZE), X)
    assert patches(X, PATCH)[0, 1, 3] == X[0, 0, 5, 0]  # the second pixel of the second patch


def test_distillation_in_closed_form():
    """Equal distributions cost their entropy, even ones its most, and a view is never compared with itself."""
    flat = jnp.zeros((2, 3, 8))
    value, entropy = dino.distillation(flat, flat, jnp.zeros(8), 0.1, 0.04)
    np.testing.assert_allclose([value, entropy], [np.log(8)] * 2, rtol=1e-6)
    one, other = (jnp.eye(2)[i] for i in range(2))
    views = jnp.stack([one, other])[:, None]  # each sure of what the other is not
    value, entropy = dino.distillation(views, views, jnp.zeros(2), 0.1, 0.1)
    p = 1 / (1 + np.exp(-10.0))
    np.testing.assert_allclose(value, -(p * np.log(1 - p) + (1 - p) * np.log(p)), rtol=1e-5)
    np.testing.assert_allclose(entropy, -(p * np.log(p) + (1 - p) * np.log(1 - p)), rtol=1e-3)
    # What all say alike is taken away by the center.
    value, _ = dino.distillation(
        flat, jnp.broadcast_to(10 * jnp.eye(8)[0], (2, 3, 8)), 10 * jnp.eye(8)[0], 0.1, 0.04
    )
    np.testing.assert_allclose(value, np.log(8), rtol=1e-6)


def test_the_teacher_follows_and_the_center_moves():
    learner = dino.learner(momentum=0.5, center_momentum=0.5, prototypes=4)
    before = {"student": {"a": jnp.zeros(2)}, "teacher": {"a": jnp.ones(2)}, "center": {"mean": jnp.zeros(4)}}
    stepped = before | {"student": {"a": 3 * jnp.ones(2)}}
    for part, mean in ((0.0, 2.0), (1.0, 1.0)):  # half way at first, and not at all at the end
        after = learner.after(before, stepped, jnp.ones(4), part)
        np.testing.assert_allclose(after["teacher"]["a"], mean)
        np.testing.assert_allclose(after["center"]["mean"], 0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [(dict(patch_size=5), "patch_size=5, expected a divisor of 12"), (dict(num_heads=3), "num_heads=3"),
     (dict(image_size=16), r"got \(2, 12, 12, 3\)")],
)  # fmt: skip
def test_sizes_that_cannot_be(change, said):
    model = ViT(**(dict(image_size=SIZE, patch_size=PATCH, width=16, num_layers=1, num_heads=2) | change))
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(model.init, jax.random.key(0), X)
