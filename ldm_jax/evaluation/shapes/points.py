"""Points that a model finds in rendered scenes, beside the true ones: rows of `ldm-evaluate recognition`.

Each function is (model, number of scenes, options) -> (figures, rows of pictures); recognition.py calls them.
"""

from collections.abc import Iterator

import numpy as np

from ldm_jax.evaluation.shapes.base import Model
from ldm_jax.metrics import keypoints
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.failures import wilson

NEAR = 0.1  # of the picture's side: PCK@.1


def correspondence(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """Corners of an object found again after it was moved and recolored: the share nearer than .1 of the side (PCK),
    and the mean distance in pixels. The ceiling is the nearest cell's middle; the baseline says that nothing moved."""
    return found_again(model, number, "correspondence", **options)


def optimal_transport(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """As `correspondence`, of cells that are matched together."""
    return found_again(model, number, "optimal_transport", **options)


def optimized_embeddings(model: Model, number: int, /, **options) -> tuple[dict, list[np.ndarray]]:
    """As `correspondence`, of the first three corners of each object."""
    return found_again(model, number, "optimized_embeddings", most=3, **options)


def found_again(
    model: Model, number: int, method: str, most: int | None = None, **options
) -> tuple[dict, list[np.ndarray]]:
    near, still, ceiling, distances, shown = [], [], [], [], []
    cell = world.SIZE // model.system.latent_shape[0]
    for scene, moved in pairs(number):
        corners, truth = (
            np.clip(world.corners(s.objects[0]), 0, world.SIZE - 1)[:most] for s in (scene, moved)
        )
        images = [world.render(scene), world.render(moved)]
        made = model.model.analyze(images, None, method, points=corners.tolist(), **options)
        distances += np.linalg.norm(made.found.points[1] - truth, axis=-1).tolist()
        near += keypoints.near(made.found.points[1], truth, NEAR * world.SIZE).tolist()
        still += keypoints.near(corners, truth, NEAR * world.SIZE).tolist()
        ceiling += keypoints.near((truth // cell + 0.5) * cell, truth, NEAR * world.SIZE).tolist()
        shown.append(images)
    figures = dict(
        pck=float(np.mean(near)), interval=wilson(sum(near), len(near)), distance=float(np.mean(distances)),
        ceiling=float(np.mean(ceiling)), baseline=float(np.mean(still)), points=len(near),
    )  # fmt: skip
    return figures, [np.stack([pair[i] for pair in shown]) for i in range(2)]


def tokens(model: Model, number: int, /, shape: str = "square", **options) -> tuple[dict, list[np.ndarray]]:
    """Keypoints learned on scenes of one object of a shape: the distance in pixels at which a linear map, learned
    of them on half of the scenes, says the corners in the others, and how far a keypoint moves in the object's own
    frame. The ceiling is the same of the true corners in whole pixels, the baseline the mean corners."""
    found = (world.scene(i, "test") for i in range(1 << 20))
    alone = (s for s in found if len(s.objects) == 1 and s.objects[0].shape == shape)
    scenes = [next(alone) for _ in range(number)]
    images = np.stack([world.render(scene) for scene in scenes])
    made = model.model.analyze(images, None, "keypoints", **options)
    objects = [scene.objects[0] for scene in scenes]
    truth = np.stack([world.corners(o) for o in objects]) / world.SIZE
    points, half = made.found.points / world.SIZE, number // 2

    def left(seen):
        said = keypoints.regression(seen[:half], truth[:half], seen[half:])
        return float(world.SIZE * np.linalg.norm(said - truth[half:], axis=-1).mean())

    frames = (
        np.asarray([(o.x, o.y) for o in objects])[:, None],
        np.asarray([o.r for o in objects])[:, None, None],
    )
    inside = (made.found.points - frames[0]) / frames[1]  # in units of half the object's side
    moved = np.linalg.norm((inside - np.median(inside, 0)) * frames[1], axis=-1)
    whole = (np.floor(truth * world.SIZE) + 0.5) / world.SIZE
    figures = dict(
        error=left(points), ceiling=left(whole), baseline=left(np.zeros_like(points)), moved=float(np.median(moved)),
        points=points.shape[1], scenes=number,
    )  # fmt: skip
    marked = images.copy()
    for image, own in zip(marked, made.found.points.astype(int), strict=True):
        for i, (x, y) in enumerate(own.clip(1, world.SIZE - 2)):
            image[y - 1 : y + 2, x - 1 : x + 2] = list(world.COLORS.values())[i % len(world.COLORS)]
    return figures, [images, marked]


def pairs(number: int) -> Iterator[tuple[world.Scene, world.Scene]]:
    """Held-out scenes of one object, and the same object elsewhere in another color."""
    rng = np.random.default_rng(0)
    scenes = [world.scene(i, "test") for i in range(4 * number)]
    for scene in [s for s in scenes if len(s.objects) == 1][:number]:
        obj = scene.objects[0]
        other = next(
            s.objects[0]._replace(shape=obj.shape, size=obj.size, r=obj.r)
            for s in (world.scene(int(rng.integers(1 << 20)), "test") for _ in range(1000))
            if s.objects[0].size == obj.size
            and s.objects[0].color != obj.color
            and _fits(s.objects[0], obj.r)
        )
        yield scene, world.Scene((other,), scene.background)


def _fits(obj: world.Object, r: float) -> bool:
    return r + 1.5 <= obj.x <= world.SIZE - r - 1.5 and r + 1.5 <= obj.y <= world.SIZE - r - 1.5
