"""The TFDS builder `shapes`: writes the examples of shapes.py to disk, for tools that read TFDS.

Decides the features and the sizes of the splits; what an example is lies in shapes.py. Imported on demand
only, because it imports tensorflow_datasets: training needs no copy on disk.

    from ldm_jax.data import shapes_builder
    shapes_builder.Shapes(data_dir=..., file_format="array_record").download_and_prepare()
"""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from ldm_jax import grid
from ldm_jax.data import shapes
from ldm_jax.shapes_world import scenes as world


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
    """How many scenes each split has, and the seed of all."""

    train: int = 1_000
    test: int = 200
    unseen: int = 200
    seed: int = 0


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Scenes of one to three colored shapes with captions, boxes, masks and corners. Nothing is downloaded.

    `unseen` holds attribute pairs and relations that `train` and `test` never show.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[ShapesConfig]] = [
        ShapesConfig(name="small", description="1,000 training scenes."),
        ShapesConfig(name="full", description="All scenes.", **shapes.NUM_SCENES),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        classes = tfds.features.ClassLabel(names=world.CLASS_NAMES)
        mask = tfds.features.Tensor(shape=(world.SIZE, world.SIZE), dtype=np.uint8, encoding="zlib")
        features = {
            "image": tfds.features.Image(shape=(world.SIZE, world.SIZE, 3), encoding_format="png"),
            "caption": tfds.features.Text(),
            "class_label": classes,
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
            "labels": tfds.features.Sequence(classes),
            "instance_mask": mask,
            "semantic_mask": mask,
            "corners": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),
            "corner_objects": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "class_label"),
            disable_shuffling=True,  # record i is scene i
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples(split) for split in world.SPLITS}

    def _generate_examples(self, split: str):
        config = self.builder_config
        for index, example in enumerate(_examples(split, getattr(config, split), config.seed)):
            boxes = [tfds.features.BBox(*(float(v) for v in box)) for box in example["boxes"]]
            for name in ("layout", "instances"):  # boxes, labels and masks say it
                example.pop(name)
            image = grid.to_pil(
                example["image"]
            )  # tfds encodes an array by tensorflow, a picture of Pillow without
            yield index, example | {"boxes": boxes, "image": image}


def _examples(split: str, num_scenes: int, seed: int):
    scenes = shapes.source(split, num_scenes=num_scenes, seed=seed)
    return (scenes[index] for index in range(num_scenes))
