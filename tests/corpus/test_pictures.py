"""Pictures of kinds that readers get wrong: every reader shows what a photo program does, and all of them the same."""

import shutil

import numpy as np
import pytest

from ldm_jax.data import folder, pictures, tfds
from ldm_jax.metrics.images import open_images
from tests.corpus.make_pictures import FOLDER, SHOWN, make

NAMES = sorted(SHOWN)
READABLE = [name for name in NAMES if SHOWN[name] is not None]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The same files as a TFDS data set, in the order of NAMES."""
    import tensorflow_datasets

    class Corpus(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = {"nested": {"image": tensorflow_datasets.features.Image()}}
            return self.dataset_info_from_configs(
                features=tensorflow_datasets.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {f"file{i}": self._generate_examples(name) for i, name in enumerate(NAMES)}

        def _generate_examples(self, name):
            yield name, {"nested": {"image": str(FOLDER / name)}}

    builder = Corpus(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return builder


def by_tfds(prepared, name, monkeypatch):
    monkeypatch.setattr(tfds, "_builder", lambda *_: prepared)
    split = f"file{NAMES.index(name)}"
    return tfds.source(split, dataset="corpus", image_key="nested/image")[0]["image"]


def by_folder(name, place):
    shutil.copy(FOLDER / name, place / name)
    return folder.source("train", root=place)[0]["image"]


def test_the_files_are_those_that_the_script_makes(tmp_path):
    make(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == NAMES == sorted(p.name for p in FOLDER.iterdir())


@pytest.mark.parametrize("name", READABLE)
def test_every_reader_shows_it(name, prepared, tmp_path, monkeypatch):
    shown = pictures.read_picture(FOLDER / name)
    np.testing.assert_allclose(shown, SHOWN[name], atol=2 if name.endswith(".jpg") else 0)
    np.testing.assert_array_equal(by_folder(name, tmp_path), shown)
    np.testing.assert_array_equal(by_tfds(prepared, name, monkeypatch), shown)
    np.testing.assert_array_equal(open_images([FOLDER / name], color="photo")[0], shown)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(READABLE)))
def test_what_does_not_say_what_is_white_is_refused(name, prepared, tmp_path, monkeypatch):
    for read in (
        lambda: pictures.read_picture(FOLDER / name),
        lambda: by_tfds(prepared, name, monkeypatch),
        lambda: open_images([FOLDER / name], color="photo")[0],
    ):
        with pytest.raises(ValueError, match="expected 8 or 16 bits a channel"):
            read()
    with pytest.raises(ValueError, match="none of the images"):
        by_folder(name, tmp_path)
