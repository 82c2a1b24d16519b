import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import transforms
from ldm_jax.metrics.images import ArrayImages, FileImages, open_images


def pixels(height=8, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".hidden").mkdir()
    for i, name in enumerate(("b.png", "deeper/a.png", ".hidden/c.png")):
        Image.fromarray(pixels(seed=i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_and_a_list_and_samples(folder):
    images = open_images(folder)
    assert [images.name(i) for i in range(len(images))] == [
        str(folder / "b.png"),
        str(folder / "deeper/a.png"),
    ]
    np.testing.assert_array_equal(images[1], pixels(seed=1))
    assert len(open_images([folder / "b.png"])) == 1
    np.savez(folder / "samples.npz", arr_0=np.stack([pixels(), pixels(seed=1)]))
    np.testing.assert_array_equal(open_images(folder / "samples.npz")[1], pixels(seed=1))


def test_the_crop_is_the_originals(folder):
    Image.fromarray(pixels(10, 17)).save(folder / "wide.png")
    images = open_images(folder, crop=4)
    wide = Image.fromarray(pixels(10, 17)[:, 3:13]).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images[2], np.asarray(wide))
    assert {image.shape for image in (images[i] for i in range(3))} == {(4, 4, 3)}
    assert images.crop == "center square, Pillow bicubic to 4"


def test_several_sizes_need_a_crop(folder):
    Image.fromarray(pixels(8, 9)).save(folder / "wide.png")
    with pytest.raises(ValueError, match="images of 2 sizes, such as 8 x 8 .*b.png.* and 9 x 8 .*wide.png"):
        open_images(folder)


def test_an_image_on_its_side_is_turned_up(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(8, 6)).save(tmp_path / "side.png", exif=exif)
    Image.fromarray(pixels(6, 8)).save(tmp_path / "up.png")
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images[0], np.rot90(pixels(8, 6), -1))


def test_eight_bit_colors_become_rgb(tmp_path):
    gray = pixels()[..., 0]
    Image.fromarray(gray).save(tmp_path / "a_gray.png")
    Image.fromarray(pixels()).quantize(256).save(tmp_path / "b_palette.png")
    opaque = np.dstack([pixels(), np.full((8, 8), 255, np.uint8)])
    Image.fromarray(opaque, "RGBA").save(tmp_path / "c_opaque.png")
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images[0], np.repeat(gray[..., None], 3, axis=-1))
    assert images[1].shape == (8, 8, 3)
    np.testing.assert_array_equal(images[2], pixels())


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("alpha.png", np.dstack([pixels(), pixels()[..., :1]]), "is transparent in places"),
        ("deep.png", np.full((8, 8), 40_000, np.uint16), "more than 8 bits"),
        ("float.tif", np.zeros((8, 8), np.float32), "more than 8 bits"),
    ],
)
def test_what_needs_a_choice_is_refused_by_name(tmp_path, name, array, reason):
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} .*{reason}.*color 'photo'"):
        open_images(tmp_path)[0]
    if name != "float.tif":
        with Image.open(tmp_path / name) as picture:
            expected = transforms.to_rgb(picture)
        np.testing.assert_array_equal(open_images(tmp_path, color="photo")[0], expected)


def test_unreadable_files_are_named(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="1 of 3 images cannot be opened: .*broken.png"):
        open_images(folder)
    whole = (folder / "b.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    images = open_images(folder)  # its header is sound
    with pytest.raises(ValueError, match="broken.png cannot be read"):
        images[1]


def test_nothing_to_measure_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        open_images(tmp_path)
    with pytest.raises(ValueError, match="is not there, expected a folder"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="list of files is empty"):
        open_images([])
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        open_images(tmp_path / "file.txt")
    np.savez(tmp_path / "wrong.npz", mu=np.zeros(3))
    with pytest.raises(ValueError, match="has mu, expected the images in arr_0"):
        open_images(tmp_path / "wrong.npz")
    with pytest.raises(ValueError, match="color 'green' not found; there are: strict, photo"):
        FileImages(["a"], color="green")
    with pytest.raises(ValueError, match="crop is 0"):
        FileImages(["a"], crop=0)
    for array in (np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8|holds no images"):
            ArrayImages(array)


def test_fingerprints_tell_data_apart(folder):
    before = open_images(folder).fingerprint()
    assert before == open_images(folder).fingerprint()
    Image.fromarray(pixels(12, 12)).save(folder / "b.png")
    assert open_images(folder, crop=8).fingerprint() != before
    a = np.stack([pixels(), pixels(seed=1)])
    assert (
        ArrayImages(a).fingerprint()
        == ArrayImages(a.copy()).fingerprint()
        != ArrayImages(a[::-1]).fingerprint()
    )
