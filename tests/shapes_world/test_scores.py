"""The scores of the tasks: drawn scenes are right, and each hand-made error costs what its definition says."""

import numpy as np
import pytest

from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores

PLAIN = world.Background("plain", (242, 242, 242), 0.0, 0)
RED = world.Object("circle", "red", "small", 16.0, 16.0, 7.0)
BLUE = world.Object("square", "blue", "large", 44.0, 44.0, 12.0)


def scene(*objects: world.Object) -> world.Scene:
    return world.Scene(objects, PLAIN)


def picture(*objects: world.Object) -> np.ndarray:
    return world.render(scene(*objects))


def paint(image: np.ndarray, obj: world.Object, rgb) -> np.ndarray:
    """The object in a color that is not of the palette."""
    alpha = world.coverage(obj.shape, obj.x, obj.y, obj.r)[..., None]
    return np.rint(image * (1 - alpha) + np.float32(rgb) * alpha).astype(np.uint8)


@pytest.fixture(scope="module")
def test_scenes() -> list[world.Scene]:
    return [world.scene(i, "test") for i in range(120)]


# ------------------------------------------------------------------------------------------------------------------
# class


def test_the_class_is_that_of_the_largest_object():
    red, blue = world.class_label(RED), world.class_label(BLUE)
    assert scores.class_right(picture(RED), red) and not scores.class_right(picture(RED), blue)
    assert scores.class_right(picture(RED, BLUE), blue) and not scores.class_right(picture(RED, BLUE), red)
    for wrong in (RED._replace(color="orange"), RED._replace(shape="square")):
        assert not scores.class_right(picture(wrong), red)
    assert not scores.class_right(picture(), red)
    gray = paint(picture(), RED, (128, 128, 128))
    assert not any(scores.class_right(gray, label) for label in range(24))


def test_training_sees_20_of_the_24_classes():
    unseen = [world.CLASS_NAMES[i] for i in scores.unseen_classes()]
    assert unseen == ["red cross", "blue triangle", "purple circle", "green square"]
    assert sorted(scores.seen_classes() + scores.unseen_classes()) == list(range(24))


# -----------------------------------------------------------------------------------------------------------------
# layout


def test_iou_of_boxes_by_hand():
    a = [(0, 0, 2, 2)]
    b = [(1, 1, 3, 3), (0, 0, 2, 2), (0, 0, 1, 1), (2, 0, 4, 2), (5, 5, 6, 6)]
    np.testing.assert_allclose(scores.box_iou(a, b), [[1 / 7, 1, 1 / 4, 0, 0]])
    assert scores.box_iou(a, []).shape == (1, 0)


def test_a_layout_that_is_drawn_as_asked(test_scenes):
    found = [scores.layout_score(world.render(s), s) for s in test_scenes]
    assert np.concatenate([one.iou for one in found]).mean() > 0.98
    assert all(one.class_right.all() and one.count_right for one in found)


def test_errors_of_a_layout():
    asked = scene(RED, BLUE)
    shifted = scores.layout_score(picture(RED, BLUE._replace(x=36.0)), asked)  # 24 wide, 16 shared of 32
    np.testing.assert_allclose(shifted.iou, [1, 0.5], atol=0.03)
    assert shifted.class_right.all() and shifted.count_right

    recolored = scores.layout_score(picture(RED, BLUE._replace(color="green")), asked)
    np.testing.assert_allclose(recolored.iou, [1, 1], atol=0.03)
    assert recolored.class_right.tolist() == [True, False] and recolored.count_right

    missing = scores.layout_score(picture(BLUE), asked)
    np.testing.assert_allclose(missing.iou, [0, 1], atol=0.03)
    assert missing.class_right.tolist() == [False, True] and not missing.count_right

    extra = scores.layout_score(picture(RED, BLUE, RED._replace(x=50.0)), asked)
    np.testing.assert_allclose(extra.iou, [1, 1], atol=0.03)
    assert extra.class_right.all() and not extra.count_right

    elsewhere = scores.layout_score(
        picture(RED._replace(x=50.0)), scene(RED)
    )  # boxes that do not touch are no match
    assert elsewhere.iou.tolist() == [0] and not elsewhere.class_right.any() and elsewhere.count_right
    assert scores.layout_score(picture(), asked).iou.tolist() == [0, 0]


def test_objects_are_matched_so_that_the_sum_is_largest():
    """The best pair alone, of the second box and the first object, would leave nothing for the first box."""
    box = BLUE._replace(r=7.0)
    drawn = picture(box._replace(x=29.5), box._replace(x=44.5, color="red"))
    found = scores.layout_score(drawn, scene(box._replace(x=24.0), box._replace(x=34.0)))
    np.testing.assert_allclose(found.iou, [8.5 / 19.5, 3.5 / 24.5], atol=0.04)
    assert found.class_right.tolist() == [True, False]


# ---------------------------------------------------------------------------------------------------------------
# semantic


def test_maps_of_drawn_scenes_are_read_back(test_scenes):
    asked = np.stack([world.semantic_mask(s) for s in test_scenes])
    images = [world.render(s) for s in test_scenes]
    everything, objects = scores.agreement(asked, np.stack([scores.segment(image) for image in images]))
    assert everything >= 0.999 and objects >= 0.99
    wide = [np.concatenate(images[i : i + 2], axis=1) for i in range(0, 40, 2)]
    beside = [np.concatenate(asked[i : i + 2], axis=1) for i in range(0, 40, 2)]
    everything, objects = scores.agreement(
        np.stack(beside), np.stack([scores.segment(image) for image in wide])
    )
    assert everything >= 0.999 and objects >= 0.99


def test_agreement_by_hand():
    asked, got = np.array([[0, 0, 3, 3], [0, 0, 3, 3]]), np.array([[0, 0, 3, 4], [3, 0, 255, 3]])
    assert scores.agreement(asked, got) == (5 / 8, 2 / 4)
    assert np.isnan(scores.agreement(asked * 0, got)[1])


def test_errors_of_a_map():
    asked = world.semantic_mask(scene(RED, BLUE))
    red, blue = (world.class_label(o) + 1 for o in (RED, BLUE))

    def classes(image: np.ndarray) -> set:
        return set(np.unique(scores.segment(image)).tolist())

    assert classes(picture(RED, BLUE)) == {0, red, blue}
    assert classes(picture(BLUE)) == {0, blue}
    green = BLUE._replace(color="green")
    assert classes(picture(RED, green)) == {0, red, world.class_label(green) + 1}
    gray = scores.segment(paint(picture(RED), BLUE, (125, 125, 125)))
    assert set(np.unique(gray[asked == blue])) == {scores.UNREAD} and (gray[asked == red] == red).all()
    specks = picture(RED, BLUE)
    specks[4:8, 50:54] = (20, 130, 40)  # 16 pixels, too few for an object
    assert (scores.segment(specks)[4:8, 50:54] == scores.UNREAD).all()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert scores.agreement(asked, scores.segment(noise))[0] < 0.5


# -------------------------------------------------------------------------------------------------------------
# inpainting


def rectangle(rng: np.random.Generator) -> np.ndarray:
    out = np.zeros((64, 64), bool)
    height, width = rng.integers(10, 40, 2)
    top, left = rng.integers(0, 65 - height), rng.integers(0, 65 - width)
    out[top : top + height, left : left + width] = True
    return out


def test_a_hole_filled_with_the_truth_is_right_and_one_of_rubbish_is_not(test_scenes):
    rng = np.random.default_rng(0)
    holes = [rectangle(rng) for _ in test_scenes]

    def rate(fill) -> float:
        right = []
        for known, hole in zip(test_scenes, holes, strict=True):
            image = world.render(known)
            image[hole] = fill(image, hole)
            right.append(scores.completed_right(image, known, hole))
        return float(np.mean(right))

    assert rate(lambda image, hole: image[hole]) == 1
    assert rate(lambda image, hole: rng.integers(0, 256, image[hole].shape)) < 0.05
    assert rate(lambda image, hole: 127) < 0.15
    assert (
        rate(lambda image, hole: np.median(image[~hole], axis=0)) < 0.7
    )  # right where it hides nothing, or the whole


def test_what_is_known_of_an_object_decides_what_must_be_there():
    asked, hole = scene(RED, BLUE), np.zeros((64, 64), bool)
    hole[30:, 30:] = True  # all of the square
    for instead in ((), (BLUE,), (BLUE._replace(shape="cross", x=46.0),), (RED._replace(x=40.0, y=40.0),)):
        assert scores.completed_right(picture(RED, *instead), asked, hole)
    assert not scores.completed_right(picture(BLUE), asked, hole)  # the circle is known
    assert not scores.completed_right(picture(RED._replace(color="orange"), BLUE), asked, hole)
    gray = paint(picture(RED), BLUE, (125, 125, 125))
    assert not scores.completed_right(gray, asked, hole)

    hole[:] = False
    hole[:, 48:] = True  # a third of the square
    assert scores.completed_right(picture(RED, BLUE._replace(x=46.0)), asked, hole)
    assert not scores.completed_right(picture(RED, BLUE._replace(x=38.0)), asked, hole)
    assert not scores.completed_right(picture(RED, BLUE._replace(shape="circle")), asked, hole)
    assert not scores.completed_right(picture(RED), asked, hole)

    hole[:, 40:] = True  # two thirds of it: what is left may become a square or anything else, but no strip
    assert scores.completed_right(picture(RED, BLUE), asked, hole)
    assert scores.completed_right(picture(RED, BLUE._replace(shape="cross")), asked, hole)
    strip = picture(RED, BLUE)
    strip[hole] = 242
    assert not scores.completed_right(strip, asked, hole)


def test_a_hole_touches_an_object_if_it_hides_a_pixel_of_one():
    hole = np.zeros((64, 64), bool)
    hole[:9] = True
    assert not scores.touches(scene(RED), hole)
    hole[9] = True  # the circle's top is at 9
    assert scores.touches(scene(RED), hole)


# -----------------------------------------------------------------------------------------------------------------
# color


def test_luma_by_hand():
    image = np.array([[[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [93, 93, 93]]]], np.uint8)
    assert scores.luma(image)[..., 0].tolist() == [[[76, 150], [29, 93]]]


def test_colors_are_free_and_shapes_are_not(test_scenes):
    for known in test_scenes[:30]:
        found = scores.color_score(world.render(known), known)
        assert found.shape_right and found.legible.all()
    asked = scene(RED, BLUE)

    def said(image: np.ndarray) -> tuple:
        found = scores.color_score(image, asked)
        return found.shape_right, found.legible.tolist()

    assert said(picture(RED._replace(color="green"), BLUE)) == (True, [True, True])
    assert said(paint(picture(RED), BLUE, (0, 90, 110))) == (True, [True, False])
    assert said(picture(RED, BLUE._replace(x=36.0))) == (False, [True, False])
    assert said(picture(RED, BLUE._replace(shape="circle"))) == (False, [True, True])
    assert said(picture(RED)) == (False, [True, False])
    assert said(picture(RED, BLUE, RED._replace(x=50.0))) == (False, [True, True])
