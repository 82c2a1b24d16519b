import dataclasses

import numpy as np
import pytest

from ldm_jax.metrics import moments, statistics
from ldm_jax.metrics.features import Collected, Extractor
from ldm_jax.metrics.images import ArrayImages


def made(seed=0, flip=False, rounding="files", **extractor):
    rng = np.random.default_rng(seed)
    images = ArrayImages(rng.integers(0, 256, (9, 6, 5, 3), np.uint8))
    layers = {name: moments.of(rng.normal(size=(9, 4))) for name in ("pool", "spatial")}
    network = Extractor("a network", "abc", "tf1", {}, None, None)._replace(**extractor)
    return statistics.describe(images, network, Collected(9, layers, None, {}), flip=flip, rounding=rounding)


def test_a_file_comes_back_as_it_was_written(tmp_path):
    before = made()
    statistics.write(tmp_path / "folder" / "s.npz", before)
    after = statistics.read(tmp_path / "folder" / "s.npz")
    assert after.recipe == before.recipe and after.num_images == 9 and after.fingerprint == before.fingerprint
    for layer in ("pool", "spatial"):
        for a, b in zip(before.gaussians[layer], after.gaussians[layer], strict=True):
            np.testing.assert_array_equal(a, b)
    assert after.gaussians["pool"].mean.dtype == np.float64
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["s.npz"]


def test_the_recipe_says_what_was_done():
    recipe = made(flip=True, rounding="truncated").recipe
    assert recipe.image_size == "6 x 5" and recipe.flip and recipe.rounding == "truncated"
    assert recipe.extractor == "a network" and recipe.resize == "tf1" and recipe.crop == "none"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extractor", "another"),
        ("extractor_hash", "def"),
        ("resize", "clean"),
        ("image_size", "7 x 7"),
        ("flip", True),
        ("color", "gray"),
    ],
)
def test_another_recipe_is_an_error_that_says_what_differs(field, value):
    other = dataclasses.replace(made(), recipe=dataclasses.replace(made().recipe, **{field: value}))
    with pytest.raises(ValueError, match=f"differ in {field} .*{value}"):
        statistics.check_comparable(made(), other)


def test_every_difference_is_said_at_once():
    with pytest.raises(ValueError, match="extractor_hash .abc and def.; resize .tf1 and clean."):
        statistics.check_comparable(made(), made(hash="def", resize="clean"))


def test_samples_compare_with_a_cropped_set_but_two_crops_do_not():
    def crop(how, rounding="files"):
        recipe = dataclasses.replace(made().recipe, crop=how, rounding=rounding)
        return dataclasses.replace(made(), recipe=recipe)

    assert statistics.check_comparable(crop("none", "truncated"), crop("center square to 6")) == ""
    with pytest.raises(ValueError, match="crop .center square to 6 and random."):
        statistics.check_comparable(crop("center square to 6"), crop("random"))
    with pytest.raises(ValueError, match="rounding .truncated and nearest."):
        statistics.check_comparable(crop("none", "truncated"), crop("none", "nearest"))


def test_references_of_others_are_read_with_a_note(tmp_path):
    mean, covariance = np.arange(4, dtype=np.float32), np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "clean.npz", mu=mean, sigma=covariance)
    np.savez(
        tmp_path / "adm.npz", mu=mean, sigma=covariance, mu_s=mean[:2], sigma_s=covariance[:2, :2], arr_0=[0]
    )
    clean, adm = (statistics.read(tmp_path / name) for name in ("clean.npz", "adm.npz"))
    assert list(clean.gaussians) == ["pool"] and list(adm.gaussians) == ["pool", "spatial"]
    np.testing.assert_array_equal(adm.gaussians["spatial"].mean, mean[:2])
    assert adm.gaussians["pool"].covariance.dtype == np.float64 and adm.gaussians["pool"].count is None
    assert "unknown recipe" in statistics.check_comparable(made(), clean)
    with pytest.raises(ValueError, match="have no recipe"):
        statistics.write(tmp_path / "again.npz", clean)


def test_other_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros(3))
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "later.npz", about=np.array('{"format": "ldm_jax statistics 9"}'))
    for name, reason in (("images", "it has arr_0"), ("text", "no .npz archive"), ("later", "statistics 9'")):
        with pytest.raises(ValueError, match=f"{name}.npz cannot be read: .*{reason}"):
            statistics.read(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match="gone.npz' is not there"):
        statistics.read(tmp_path / "gone.npz")
    with pytest.raises(ValueError, match="ends in .npz"):
        statistics.write(tmp_path / "s.json", made())
