"""DETR against transformers': what it says, how queries are matched, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ldm_jax.convert import detr as convert
from ldm_jax.models.detr import DETR
from ldm_jax.training import set_prediction

SIZE = 24
TARGETS = [([0, 2], [[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]]), ([1], [[0.5, 0.2, 0.4, 0.3]])]


def tiny():
    backbone = dict(stem_width=8, widths=(8, 16), depths=(1, 2))
    return DETR(3, 5, 16, 2, 1, 2, hidden=32, decoder_hidden=24, backbone=backbone)


@pytest.fixture(scope="module")
def both():
    """(theirs, our parameters) with weights and statistics that are far from where they start."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 2],
        layer_type="bottleneck",
        out_features=["stage2"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone,
        d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=24, num_queries=5, num_labels=3,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.rand_like(value) * 0.2
            value.add_(noise if name.endswith("running_var") else noise - 0.1)
    x = jnp.zeros((1, SIZE, SIZE, 3))
    template = jax.eval_shape(tiny().init, jax.random.key(0), x)["params"]
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return model, convert.from_state(state, template)


@pytest.fixture(scope="module")
def said(both):
    x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    return x, jax.jit(tiny().apply)({"params": both[1]}, x)


def objects():
    boxes, labels = np.zeros((2, 2, 4), np.float32), np.zeros((2, 2), np.int32)
    for i, (classes, where) in enumerate(TARGETS):
        boxes[i, : len(classes)], labels[i, : len(classes)] = where, classes
    return set_prediction.Objects(boxes, labels, np.asarray([[True, True], [True, False]]))


def test_outputs_are_transformers(both, said):
    torch = pytest.importorskip("torch")
    x, found = said
    with torch.no_grad():  # not with auxiliary_loss, where its decoder goes on from what it has normalized
        theirs = both[0](torch.tensor(x).movedim(-1, 1))
    np.testing.assert_allclose(found.logits[-1], theirs.logits, atol=1e-5)
    np.testing.assert_allclose(found.boxes[-1], theirs.pred_boxes, atol=1e-5)


def test_the_loss_of_every_layer_is_transformers(both, said):
    torch = pytest.importorskip("torch")
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    _, found = said
    labels = [{"class_labels": torch.tensor(c), "boxes": torch.tensor(b)} for c, b in TARGETS]
    logits, boxes = (torch.tensor(np.asarray(a)) for a in found)
    both[0].config.auxiliary_loss = True
    theirs, about, _ = ForObjectDetectionLoss(
        logits[-1], labels, "cpu", boxes[-1], both[0].config, logits, boxes
    )
    total, parts = jax.jit(set_prediction.loss)(found, objects())
    np.testing.assert_allclose(total, theirs, rtol=1e-5)
    for ours, name in (("classes", "loss_ce"), ("l1", "loss_bbox"), ("giou", "loss_giou")):
        np.testing.assert_allclose(parts[ours], about[name], rtol=1e-5)


def test_the_order_of_queries_does_not_matter(said):
    _, found = said
    order = np.asarray([3, 0, 4, 1, 2])
    turned = found._replace(logits=found.logits[:, :, order], boxes=found.boxes[:, :, order])
    loss = jax.jit(set_prediction.loss)
    np.testing.assert_allclose(loss(found, objects())[0], loss(turned, objects())[0], rtol=1e-6)


def test_matching_is_scipys():
    cost = np.random.default_rng(1).normal(size=(20, 6, 4)).astype(np.float32)
    found = np.asarray(jax.jit(set_prediction.match)(cost))
    for queries, one in zip(found, cost, strict=True):
        rows, columns = linear_sum_assignment(one)
        np.testing.assert_array_equal(queries[columns], rows)


def test_boxes_that_are_apart_and_boxes_without_an_area():
    a, b = jnp.asarray([0.0, 0, 1, 1]), jnp.asarray([3.0, 0, 4, 1])
    assert set_prediction.giou(a, b) == pytest.approx(-0.5)  # a hull of 4, of which 2 are covered
    assert set_prediction.giou(a, a) == 1
    point = jnp.zeros(4)
    assert np.isfinite(jax.jit(jax.grad(lambda p: set_prediction.giou(p, point)))(point)).all()


def test_too_few_queries_are_refused(said):
    _, found = said
    few = found._replace(logits=found.logits[:, :, :1], boxes=found.boxes[:, :, :1])
    with pytest.raises(ValueError, match="1 queries for up to 2 objects"):
        set_prediction.loss(few, objects())
