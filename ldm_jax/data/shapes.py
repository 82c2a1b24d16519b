"""The source `shapes`: the procedural scenes of shapes_world, drawn on demand, with every annotation.

Decides which fields an example has and how they are laid out. Knows neither TFDS (shapes_builder.py writes
the same examples to disk) nor batches (inference/pipeline.py). What a scene is, looks like and is called is
shapes_world's alone.
"""

import hashlib

import numpy as np

from ldm_jax.shapes_world import scenes as world

NUM_SCENES = {"train": 100_000, "test": 2_000, "unseen": 2_000}


class ShapesSource:
    """Random access to the scenes of one split; example i depends on (seed, split, i) alone.

    An example holds:
        image           [64, 64, 3] uint8
        caption         str, the full description
        class_label     int in [0, 24): the color and shape of the largest object
        boxes           [n, 4] float32, (y0, x0, y1, x1) relative to the side of the image, in caption order
        labels          [n] int64 in [0, 24), the class of each object
        layout          the same boxes and labels as conditioning on a layout takes them: boxes are (x0, y0, w, h)
        instance_mask   [64, 64] uint8, 0 background, i + 1 object i
        semantic_mask   [64, 64] uint8, 0 background, class + 1
        corners         [k, 2] float32, (y, x) relative to the side of the image, object after object
        corner_objects  [k] int64 in [0, n), the object that each corner belongs to
        instances       what each object is and where, in one or more forms, as conditioning/instances.py takes them
    """

    def __init__(
        self, split: str, num_scenes: int, seed: int, annotations: bool, max_objects: int, related: float
    ):
        self.split, self.num_scenes, self.seed, self.annotations = split, num_scenes, seed, annotations
        self.max_objects, self.related = max_objects, related
        self.class_names = list(world.CLASS_NAMES)

    def __len__(self) -> int:
        return self.num_scenes

    def __repr__(self) -> str:
        few = "" if self.max_objects == world.MAX_OBJECTS else f", max_objects={self.max_objects}"
        return f"shapes({self.split!r}, num_scenes={self.num_scenes}, seed={self.seed}{few})"

    def scene(self, index: int) -> world.Scene:
        """The scene behind example `index`. Raises: IndexError outside [0, len)."""
        if not 0 <= index < self.num_scenes:
            raise IndexError(f"scene {index} of {self!r}, expected 0 <= index < {self.num_scenes}")
        return world.scene(int(index), self.split, self.seed, self.max_objects)

    def __getitem__(self, index: int) -> dict:
        scene = self.scene(index)
        example = {
            "image": world.render(scene),
            "caption": world.caption(scene),
            "class_label": world.class_label(max(scene.objects, key=lambda o: o.r)),
        }
        if not self.annotations:
            return example
        return example | annotations(scene) | {"instances": instances(scene, np.random.default_rng(index))}

    def caption(self, index: int, rng: np.random.Generator | None = None) -> str:
        """A true caption of example `index`: with `rng` the order, the sizes and the relation are said or
        left out at random, as training wants it; without, the full description."""
        return world.caption(self.scene(index), rng, self.related)

    def described(self, index: int, rng: np.random.Generator | None = None) -> tuple[str, list]:
        """`caption`, and for each of its phrases (start, end, mask): caption[start:end] speaks of what covers mask [64,
        64] float32, the part of each pixel, in [0, 1]."""
        scene = self.scene(index)
        caption, phrases = world.described(scene, rng, self.related)
        return caption, [(p.start, p.end, world.objects_mask(scene, p.objects)) for p in phrases]

    def segments(self, index: int) -> list[tuple[dict[str, int], np.ndarray]]:
        """Of each object its labels and the part of each pixel that it covers, [64, 64] float32 in [0, 1]; labels:
        'shape', 'color' and 'size', places in SHAPES, COLOR_NAMES and SIZES of shapes_world/scenes.py."""
        scene = self.scene(index)

        def labels(obj: world.Object) -> dict[str, int]:
            named = (("shape", world.SHAPES), ("color", world.COLOR_NAMES), ("size", world.SIZES))
            return {name: known.index(getattr(obj, name)) for name, known in named}

        return [(labels(obj), world.objects_mask(scene, [i])) for i, obj in enumerate(scene.objects)]

    def fingerprint(self) -> str:
        """Hex digest of what the split holds: its law (seed, split, length) and the first scenes as they are
        drawn."""
        digest = hashlib.sha256(f"shapes/{self.split}/{self.seed}/{self.num_scenes}".encode())
        for index in range(min(self.num_scenes, 4)):
            scene = self.scene(index)
            digest.update(world.render(scene).tobytes() + world.caption(scene).encode())
        return digest.hexdigest()


def layout(scene: world.Scene) -> dict[str, list]:
    """The boxes [[x0, y0, w, h], …] relative to the side of the image and the labels of a scene's objects, in caption
    order: what conditioning/layout.py calls a layout."""
    corners = [obj.box for obj in scene.objects]
    boxes = [[float(v) / world.SIZE for v in (x0, y0, x1 - x0, y1 - y0)] for x0, y0, x1, y1 in corners]
    return {"boxes": boxes, "labels": [world.class_label(obj) for obj in scene.objects]}


def instances(scene: world.Scene, rng: np.random.Generator | None = None) -> list[dict]:
    """What conditioning/instances.py takes, of a scene's objects in caption order. rng: each form in which a place is
    said is left out half of the time, but never all of them; None: it is said in all.
    """
    found = []
    for i, obj in enumerate(scene.objects):
        box = [float(v) / world.SIZE for v in obj.box]
        forms = dict(
            box=box, point=[obj.x / world.SIZE, obj.y / world.SIZE], mask=world.objects_mask(scene, [i])
        )
        if rng is not None:
            always = rng.choice(list(forms))
            forms = {name: value for name, value in forms.items() if name == always or rng.random() < 0.5}
        found.append({"text": world.noun_phrase(obj)} | forms)
    return found


def annotations(scene: world.Scene) -> dict:
    """The fields of an example that say where its objects are; shapes in ShapesSource."""
    points = [world.corners(obj)[:, ::-1] for obj in scene.objects]
    boxes = [(y0, x0, y1, x1) for x0, y0, x1, y1 in (obj.box for obj in scene.objects)]
    return {
        "boxes": np.asarray(boxes, np.float32) / world.SIZE,
        "labels": np.asarray([world.class_label(obj) for obj in scene.objects], np.int64),
        "layout": layout(scene),
        "instance_mask": world.instance_mask(scene),
        "semantic_mask": world.semantic_mask(scene),
        "corners": np.concatenate(points).astype(np.float32) / world.SIZE,
        "corner_objects": np.repeat(np.arange(len(points)), [len(p) for p in points]).astype(np.int64),
    }


def source(
    split: str,
    *,
    num_scenes: int | None = None,
    seed: int = 0,
    annotations: bool = True,
    max_objects: int = world.MAX_OBJECTS,
    related: float = world.RELATED,
) -> ShapesSource:
    """The scenes of 'train', 'test' or 'unseen'.

    num_scenes: how many; None is NUM_SCENES[split]. A longer split begins with the shorter one's scenes.
    annotations: False leaves out boxes, layout, masks and corners (image, caption and class_label stay), which is
        faster.
    max_objects: 1 to 3; scenes of more are left out. related: the share, 0 to 1, of the captions of training that say
    a relation, among those that can.

    Raises: ValueError for an unknown split, num_scenes < 1, or max_objects or related out of range.
    """
    if split not in world.SPLITS:
        raise ValueError(f"split {split!r} of shapes not found; there are: {', '.join(world.SPLITS)}")
    num_scenes = NUM_SCENES[split] if num_scenes is None else num_scenes
    if num_scenes < 1:
        raise ValueError(f"num_scenes of shapes is {num_scenes}, expected at least 1")
    if not 1 <= max_objects <= world.MAX_OBJECTS:
        raise ValueError(f"max_objects of shapes is {max_objects}, expected 1 to {world.MAX_OBJECTS}")
    if not 0 <= related <= 1:
        raise ValueError(f"related of shapes is {related}, expected a share, 0 to 1")
    return ShapesSource(split, int(num_scenes), int(seed), annotations, max_objects, related)
