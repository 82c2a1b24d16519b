"""What is wrong with a picture, on pictures of which it is known."""

import numpy as np
import pytest
from scipy.stats import norm

from ldm_jax.shapes_world import failures
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import score

BACKGROUND = world.Background("plain", (242, 242, 242), 0.0, 0)
RED = world.Object("circle", "red", "large", 16, 16, 12)
BLUE = world.Object("square", "blue", "small", 48, 48, 7)
BOTH = "a large red circle above a small blue square"


def painted(*objects: world.Object) -> np.ndarray:
    return world.render(world.Scene(objects, BACKGROUND))


@pytest.mark.parametrize(
    "caption, objects, wrong",
    [
        (BOTH, (RED, BLUE), set()),
        (BOTH, (RED,), {"neglect", "counting"}),
        (BOTH, (), {"neglect", "counting"}),
        (BOTH, (RED, BLUE._replace(shape="triangle")), {"neglect"}),
        # The colors are swapped, and a size is another's.
        (BOTH, (RED._replace(color="blue"), BLUE._replace(color="red")), {"binding"}),
        (BOTH, (RED._replace(size="small", r=7), BLUE), {"binding"}),
        (BOTH, (RED._replace(y=48), BLUE._replace(y=16)), {"relation"}),
        (BOTH, (RED, BLUE, BLUE._replace(x=16)), {"counting"}),
        # A third of a wrong color does not make the two that are right wrong.
        (BOTH, (RED, BLUE, BLUE._replace(x=16, color="green")), {"counting"}),
        ("two red circles", (RED, RED._replace(x=46, y=46)), set()),
        ("two red circles", (RED,), {"neglect", "counting"}),
        ("two red circles", (RED, RED._replace(x=46, y=46, color="green")), {"binding"}),
    ],
)
def test_each_failure_is_told_from_the_others(caption, objects, wrong):
    found = score(painted(*objects), caption)
    assert failures.failures(found, caption) == wrong and found.right == (not wrong)


def test_shares_are_of_all_pictures():
    scores = [
        score(painted(*objects), BOTH) for objects in [(RED, BLUE), (RED,), (RED,), (RED, RED._replace(x=46))]
    ]
    found = failures.shares(scores, [BOTH] * 4)
    assert found == {"neglect": 0.75, "binding": 0.0, "relation": 0.0, "counting": 0.5}


@pytest.mark.parametrize("right, number", [(0, 10), (7, 10), (40, 51), (51, 51)])
def test_the_interval_is_wilsons(right, number):
    """Closed form: the rates p with |p - right / number| = z sqrt(p (1 - p) / number)."""
    for p in failures.wilson(right, number):
        z = norm.ppf(0.975)
        assert (p - right / number) ** 2 == pytest.approx(z**2 * p * (1 - p) / number, abs=1e-12)
