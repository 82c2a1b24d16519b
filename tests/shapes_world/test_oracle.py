"""The oracle against scenes whose contents are known: what it must read, and what it must not let pass."""

import time

import numpy as np
import pytest
from scipy import ndimage

from ldm_jax.shapes_world import oracle
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import ParsedObject

CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def draw(*objects, background=(240, 242, 238)):
    return world.render(world.Scene(objects, world.Background("plain", background, 0.0, 0)))


def obj(shape, color, x, y, size="small"):
    return world.Object(shape, color, size, x, y, sum(world.RADII[size]) / 2)


def matches(objects, parsed):
    """Whether the parsed objects are the drawn ones: shape, color, size, and center within 2 pixels."""
    left = list(parsed)
    for o in objects:
        same = [p for p in left if p[:3] == o[:3] and np.hypot(p.x - o.x, p.y - o.y) <= 2]
        if not same:
            return False
        left.remove(same[0])
    return not left


def accuracy(number, disturb=None, split="test", first=0):
    """Fraction of scenes fully right: objects, full caption and random caption; and CPU ms for each parse."""
    right, seconds, rng = 0, 0.0, np.random.default_rng(0)
    for index in range(first, first + number):
        scene = world.scene(index, split)
        image = world.render(scene)
        if disturb is not None:
            image = np.clip(np.rint(disturb(image.astype(np.float32), rng)), 0, 255).astype(np.uint8)
        start = time.process_time()
        parsed = oracle.parse(image)
        seconds += time.process_time() - start
        captions = world.caption(scene), world.caption(scene, rng)
        right += matches(scene.objects, parsed) and all(
            oracle.score_objects(parsed, c).right for c in captions
        )
    return right / number, 1000 * seconds / number


def blur(sigma):
    return lambda image, rng: ndimage.gaussian_filter(image, (sigma, sigma, 0))


def test_reads_rendered_test_scenes():
    right, milliseconds = accuracy(2000)
    assert right >= 0.995
    assert milliseconds < 10


def test_reads_unseen_scenes():
    assert accuracy(200, split="unseen")[0] >= 0.995


@pytest.mark.parametrize(
    "disturb",
    [
        blur(0.7),
        blur(1.0),
        lambda image, rng: image + rng.normal(0, 6, image.shape),
        lambda image, rng: blur(0.7)(image, rng) + rng.normal(0, 6, image.shape),
        lambda image, rng: np.roll(image, 1, (0, 1)) * 0.5 + image * 0.5,
        lambda image, rng: 0.9 * image + 12,  # paler
    ],
    ids=["blur .7", "blur 1", "noise 6", "blur and noise", "ghost", "pale"],
)
def test_reads_what_an_autoencoder_may_give(disturb):
    assert accuracy(300, disturb)[0] >= 0.99


def test_wrong_captions_do_not_pass():
    passed, tried = {}, {}

    def expect_wrong(kind, image_objects, caption):
        tried[kind] = tried.get(kind, 0) + 1
        passed[kind] = passed.get(kind, 0) + oracle.score_objects(image_objects, caption).right

    for index in range(250):
        scene = world.scene(index, "test")
        parsed, caption = oracle.parse(world.render(scene)), world.caption(scene)
        phrases = [world.noun_phrase(o) for o in scene.objects]
        expect_wrong("missing object", parsed, " and ".join([*phrases, "a large red square"]))
        if len(scene.objects) > 1:
            expect_wrong("extra object", parsed, " and ".join(phrases[1:]))
        for relation in world.RELATIONS:
            if relation in caption:
                expect_wrong("wrong relation", parsed, caption.replace(relation, CONVERSE[relation]))
        a, b = scene.objects[0], scene.objects[-1]
        if a.color != b.color and (a.shape, a.size) != (b.shape, b.size):
            swapped = (a._replace(color=b.color), *scene.objects[1:-1], b._replace(color=a.color))
            if {o[:3] for o in swapped} != {o[:3] for o in scene.objects}:
                expect_wrong("swapped colors", parsed, " and ".join(map(world.noun_phrase, swapped)))
    assert min(tried.values()) > 50 and len(tried) == 4
    assert passed == dict.fromkeys(tried, 0)


def test_clauses_tell_what_is_wrong():
    image = draw(obj("circle", "red", 20, 20), obj("square", "blue", 45, 44, "large"))
    score = oracle.score(image, "a small red circle below a large green square")
    assert [(c.kind, c.text, c.holds) for c in score.clauses] == [
        ("object", "a small red circle", True),
        ("object", "a large green square", False),
        ("relation", "a small red circle below a large green square", False),
        ("count", "2 objects in all", True),
    ]
    assert not score.right
    assert {o.shape for o in score.objects} == {"circle", "square"}


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle and a blue square",
        "one small circle above a square",
        "A blue square, a circle",
        "a blue square right of a red circle",
        "a square below a circle",
        "a small circle and one square",
    ],
)
def test_true_captions_in_other_words(caption):
    assert oracle.score(
        draw(obj("circle", "red", 20, 20), obj("square", "blue", 45, 44, "large")), caption
    ).right


def test_counts():
    two = draw(obj("cross", "green", 15, 15), obj("cross", "green", 45, 40))
    assert oracle.score(two, "two small green crosses").right
    assert oracle.score(two, "a green cross and a green cross").right
    assert not oracle.score(two, "three green crosses").right
    assert not oracle.score(two, "a green cross").right
    three = draw(obj("cross", "green", 12, 15), obj("cross", "green", 50, 40), obj("circle", "red", 30, 30))
    assert oracle.score(three, "two crosses and a circle").right
    assert not oracle.score(three, "two circles and a cross").right
    assert oracle.score(three, "a circle, two green crosses").right


def test_relations_pick_the_reading_that_holds():
    # two circles, left and right of the square: either caption has a reading that is true
    image = draw(obj("circle", "red", 10, 32), obj("square", "blue", 32, 32), obj("circle", "red", 54, 32))
    for relation in ("left of", "right of"):
        clauses = oracle.score(image, f"a red circle {relation} a blue square and a red circle").clauses
        assert all(c.holds for c in clauses)
    assert not oracle.score(image, "two red circles left of a blue square").right


@pytest.mark.parametrize(("distance", "expected"), [(3.5, False), (4.0, True), (12.0, True)])
def test_relation_margin(distance, expected):
    a = ParsedObject("circle", "red", "small", 20.0, 20.0, 7.0, 1.0)
    b = ParsedObject("square", "blue", "small", 20.0 + distance, 60.0, 7.0, 1.0)
    assert oracle.holds(a, "left of", b) is expected
    assert oracle.holds(b, "right of", a) is expected
    assert not oracle.holds(b, "left of", a)
    assert oracle.holds(a, "above", b) and oracle.holds(b, "below", a)


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("a small pink circle", "'pink'"),
        ("a red hexagon", "'hexagon'"),
        ("a red circle under a blue square", "'under'"),
        ("two red circle", "'circle'"),
        ("a red circles", "'circles'"),
        ("four red circles", "'four'"),
        ("a red small circle", "'small'"),
        ("a red circle left a blue square", "'left'"),
        ("a red circle and", "the end"),
        ("a red", "the end"),
        ("", "the end"),
        ("three circles, three squares and a cross", "7 objects"),
    ],
)
def test_captions_outside_the_grammar(caption, word):
    with pytest.raises(ValueError, match=word):
        oracle.read_caption(caption)


def test_every_caption_of_the_world_is_in_the_grammar():
    rng = np.random.default_rng(0)
    for index in range(200):
        scene = world.scene(index)
        caption = world.caption(scene, rng)
        phrases, relations = oracle.read_caption(caption)
        assert sum(p.number for p in phrases) == len(scene.objects)
        assert sorted(p.shape for p in phrases for _ in range(p.number)) == sorted(
            o.shape for o in scene.objects
        )
        assert [name for _, name, _ in relations] == [
            name for name in world.RELATIONS if f" {name} " in caption
        ]


def test_what_is_no_shape_is_unknown_and_counts():
    image = draw(obj("circle", "red", 15, 15))
    image[40:44, 4:60] = world.COLORS["blue"]  # a long bar
    parsed = oracle.parse(image)
    assert sorted(o.shape for o in parsed) == ["circle", "unknown"]
    assert not oracle.score(image, "a small red circle").right


def test_foreign_colors_are_unknown():
    image = draw(obj("square", "red", 30, 30, "large"))
    inside = (image == world.COLORS["red"]).all(-1, keepdims=True)
    for color in ((120, 120, 120), (0, 200, 220), (150, 150, 60), (255, 80, 230)):
        (parsed,) = oracle.parse(np.where(inside, color, image).astype(np.uint8))
        assert (parsed.shape, parsed.color) == ("square", "unknown")


def test_a_faded_object_counts():
    alone = draw(obj("circle", "red", 18, 18))
    both = draw(obj("circle", "red", 18, 18), obj("square", "black", 46, 46))
    faded = np.rint(0.6 * alone + 0.4 * both).astype(np.uint8)
    assert oracle.score(alone, "a red circle").right and not oracle.score(faded, "a red circle").right


def test_touching_objects_of_two_colors_are_two():
    image = draw(obj("square", "red", 20, 32), obj("square", "blue", 20 + 13.5, 32))
    assert oracle.score(image, "a red square left of a blue square").right


def test_empty_and_meaningless_pictures():
    assert oracle.parse(np.full((64, 64, 3), 240, np.uint8)) == []
    assert not oracle.score(np.zeros((64, 64, 3), np.uint8), "a red circle").right
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert not oracle.score(noise, "a red circle").right
    with pytest.raises(ValueError, match="float32"):
        oracle.parse(np.zeros((64, 64, 3), np.float32))
