"""SAM against transformers': masks of points and boxes, and the parts of its loss."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.convert import sam as convert
from ldm_jax.models import sam
from ldm_jax.training.beside import sam as beside

SIZE, PATCH = 24, 4


def tiny():
    return sam.SAM(
        SIZE, PATCH, width=16, num_layers=2, num_heads=2, window=4, global_layers=(1,), features=16, mask_hidden=8,
        decoder_heads=2, decoder_hidden=24, iou_hidden=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both():
    """(theirs, our parameters) with weights far from where they start."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config=dict(
            hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE,
            patch_size=PATCH, window_size=4, global_attn_indexes=[1], num_pos_feats=8, mlp_dim=64,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=SIZE, patch_size=PATCH, mask_input_channels=8),
        mask_decoder_config=dict(
            hidden_size=16, mlp_dim=24, num_attention_heads=2, iou_head_hidden_dim=12, num_hidden_layers=2
        ),
    )  # fmt: skip
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    blank = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros((1, 2, 2)), jnp.zeros((1, 2), jnp.int32)
    template = jax.eval_shape(tiny().init, jax.random.key(0), *blank)["params"]
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return model, convert.from_state(state, template)


def test_masks_are_transformers(both):
    """Of two points, of which transformers makes three, and of a box with an earlier mask."""
    torch = pytest.importorskip("torch")
    rng, (theirs, params) = np.random.default_rng(0), both
    x = rng.normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    seen = torch.tensor(x).movedim(-1, 1)
    points = rng.uniform(0, SIZE, (2, 2, 2)).astype(np.float32)
    earlier = rng.normal(size=(2, SIZE, SIZE)).astype(np.float32)
    asked = [
        ("points", [sam.INSIDE, sam.OUTSIDE], dict(input_points=torch.tensor(points)[:, None])),
        ("box", [sam.TOP_LEFT, sam.BOTTOM_RIGHT], dict(input_boxes=torch.tensor(points).reshape(2, 1, 4))),
    ]
    apply = jax.jit(tiny().apply)
    for name, kinds, given in asked:
        labels, where, mask = np.asarray([kinds, kinds], np.int32), points, None
        if name == "points":
            given |= dict(input_labels=torch.tensor(labels)[:, None])
            labels = np.pad(labels, ((0, 0), (0, 1)), constant_values=sam.NOTHING)
            where = np.pad(points, ((0, 0), (0, 1), (0, 0)))
        else:
            mask, given = earlier, given | dict(input_masks=torch.tensor(earlier)[:, None])
        ours = apply({"params": params}, x, where, labels, mask)
        for several, which in ((True, slice(1, None)), (False, slice(0, 1))):
            with torch.no_grad():
                expected = theirs(pixel_values=seen, multimask_output=several, **given)
            np.testing.assert_allclose(ours.logits[:, which], expected.pred_masks[:, 0], atol=1e-4)
            np.testing.assert_allclose(ours.iou[:, which], expected.iou_scores[:, 0], atol=1e-4)


def test_losses_of_masks_are_transformers():
    torch = pytest.importorskip("torch")
    from transformers.loss import loss_for_object_detection as theirs

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 4)).astype(np.float32)
    mask = (rng.random((3, 5, 4)) < 0.5).astype(np.float32)
    flat = [torch.tensor(a.reshape(3, -1)) for a in (logits, mask)]
    np.testing.assert_allclose(
        beside.focal_loss(logits, mask).sum(), theirs.sigmoid_focal_loss(*flat, 1), rtol=1e-5
    )
    np.testing.assert_allclose(beside.dice_loss(logits, mask).sum(), theirs.dice_loss(*flat, 1), rtol=1e-5)


def test_a_point_teaches_the_best_of_three_and_a_box_the_first():
    mask = np.zeros((2, 4, 4), np.float32)
    mask[:, :2] = 1
    right, wrong = 20 * (2 * mask[0] - 1), 20 * (1 - 2 * mask[0])
    logits = jnp.asarray(np.stack([[wrong, wrong, right, wrong], [right, wrong, wrong, wrong]]))
    iou = jnp.asarray([[0.3, 0, 1, 0], [1, 0.3, 0.3, 0.3]])
    doubt = np.asarray([True, False])
    value, parts = beside.mask_loss(sam.Masks(logits, iou), mask, doubt)
    assert parts["iou"] == 1 and parts["off"] == 0  # of masks that are not asked for nothing is expected
    assert value < 1e-3
    assert beside.mask_loss(sam.Masks(logits, iou), mask, ~doubt)[0] > 20


def test_what_is_asked_lies_where_it_should():
    instances = np.zeros((20, 20), np.uint8)
    instances[2:6, 3:9], instances[12:15, 10:18] = 1, 2
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        points, labels, mask = beside.asked(instances, rng, 0.0)
        seen.add((labels[0], mask.sum()))
        if labels[0] == sam.INSIDE:
            x, y = points[0].astype(int)
            assert mask[y, x] and labels[1] == sam.NOTHING
        else:
            np.testing.assert_array_equal(points.ravel(), beside.box_of(mask))
    assert seen == {(1, 24), (1, 48), (2, 24)}
    with pytest.raises(ValueError, match="a picture without an object"):
        beside.asked(0 * instances, rng, 0.0)


def test_masks_of_pictures_of_any_size(monkeypatch):
    """Prompts are brought to the network's size, and its masks back to the pictures'."""
    seen = []

    def apply_in_parts(apply, params, images, where, labels):
        seen.append((images.shape, where, labels.tolist()))
        masks = np.where(np.arange(8)[:, None] < 4, 1.0, -1.0) * np.asarray([1, 1, 1, -1])[:, None, None]
        return sam.Masks(
            np.tile(masks * np.ones(8), (len(images), 1, 1, 1)),
            np.tile([0.9, 0.1, 0.2, 0.3], (len(images), 1)),
        )

    monkeypatch.setattr(beside, "apply_in_parts", apply_in_parts)
    trained = SimpleNamespace(learner=SimpleNamespace(network=sam.SAM(8, 4)), params={})
    images = [np.zeros((16, 32, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]
    first, second = beside.masks_of(trained, images, boxes=[(0, 8, 32, 16), (1, 1, 2, 3)])
    assert first[:8].all() and not first[8:].any() and first.shape == (16, 32) and second.shape == (4, 4)
    shape, where, labels = seen[-1]
    assert shape == (2, 8, 8, 3) and labels == [[sam.TOP_LEFT, sam.BOTTOM_RIGHT]] * 2
    np.testing.assert_allclose(where[0], [[0, 4], [8, 8]])
    lower, _ = beside.masks_of(trained, images, points=[[(16, 12, True)], [(1, 1, True)]])
    assert lower[8:].all() and not lower[:8].any()  # the last of the three is expected to be the best
    assert seen[-1][2] == [[sam.INSIDE, sam.NOTHING]] * 2
    beside.masks_of(trained, images, points=[[(1, 1, True), (3, 3, False)]] * 2)
    assert seen[-1][2] == [[sam.INSIDE, sam.OUTSIDE, sam.NOTHING]] * 2
    for given, said in (
        ({}, "got neither of boxes and points"),
        (dict(boxes=[(0, 0, 1, 1)]), "prompts of 1 pictures, expected 2"),
        (dict(boxes=[(0, 0, 1, 1), (0, 0, 5, 1)]), "outside of picture 1, which is 4 x 4"),
        (dict(points=[[(-1, 0, True)], [(0, 0, True)]]), "outside of picture 0, which is 32 x 16"),
    ):
        with pytest.raises(ValueError, match=said):
            beside.masks_of(trained, images, **given)


def test_masks_are_asked_for_again_without_compiling(monkeypatch):
    traced = []

    def refine(network, params, images, points, labels):
        traced.append(network)
        return sam.Masks(jnp.zeros((len(images), 4, 8, 8)), jnp.zeros((len(images), 4)))

    monkeypatch.setattr(beside, "refine", refine)
    for layers in ([0], (0,)):  # as a file of JSON has them, and as they are given
        learner = beside.learner(image_size=8, num_layers=1, global_layers=layers)
        trained = SimpleNamespace(learner=learner, params={})
        beside.masks_of(trained, [np.zeros((8, 8, 3), np.uint8)], boxes=[(0, 0, 4, 4)])
    assert len(traced) == 1


def test_windows_that_do_not_fill_the_picture():
    x = np.arange(2 * 5 * 6.0).reshape(2, 5, 6, 1)
    np.testing.assert_array_equal(sam.in_windows(lambda parts: 2 * parts, x, 4), 2 * x)
    sums = sam.in_windows(lambda p: 0 * p + p.sum((1, 2), keepdims=True), x, 4)
    np.testing.assert_allclose(sums[0, 4, 5], x[0, 4:, 4:].sum())
