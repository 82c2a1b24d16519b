"""A tiny shapes data set on disk, built once for all tests that read TFDS."""

import pytest


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    """(builder, data_dir) of 5 training, 3 test and 2 unseen scenes in array_record files."""
    from ldm_jax.data import shapes_builder

    data_dir = str(tmp_path_factory.mktemp("tfds"))
    config = shapes_builder.ShapesConfig(name="tiny", train=5, test=3, unseen=2)
    builder = shapes_builder.Shapes(config=config, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder, data_dir
