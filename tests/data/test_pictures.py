"""Files as users have them, against what was drawn before they were written; and the fitting to a size."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data import pictures

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def png(path, rows: np.ndarray, bits: int):
    """A gray PNG of 1, 2, 4 or 16 bits, written by hand: Pillow writes no gray of 2 or 4."""
    height, width = rows.shape
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        each = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(each.reshape(height, -1), axis=-1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def saved(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def test_a_plain_picture(tmp_path):
    got = pictures.read_picture(saved(tmp_path / "x.png", IMAGE))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, IMAGE)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    Image.fromarray(IMAGE).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "x.png"), np.rot90(IMAGE, -1))
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 1] = 255
    Image.fromarray(mask).save(tmp_path / "m.png", exif=exif)
    np.testing.assert_array_equal(pictures.read_mask(tmp_path / "m.png"), np.rot90(mask == 255, -1))
    np.testing.assert_array_equal(pictures.read_map(tmp_path / "m.png"), np.rot90(mask, -1))


def test_transparency_lies_on_white(tmp_path):
    alpha = np.full((6, 8, 1), 255, np.uint8)
    alpha[0, 0] = 0
    saved(tmp_path / "x.png", np.concatenate([IMAGE, alpha], -1))
    got = pictures.read_picture(tmp_path / "x.png")
    assert (got[0, 0] == 255).all()
    np.testing.assert_array_equal(got[1:], IMAGE[1:])


def test_palettes_grays_16_bits_and_cmyk(tmp_path):
    palette = Image.fromarray(np.uint8([[0, 1], [2, 0]]), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]]
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "p.png"), expected)
    got = pictures.read_picture(png(tmp_path / "16.png", np.array([[0, 257, 65535, 32896]]), 16))
    np.testing.assert_array_equal(got[0, :, 1], [0, 1, 255, 128])
    got = pictures.read_picture(png(tmp_path / "4.png", np.array([[0, 15, 5, 1]]), 4))
    np.testing.assert_array_equal(got[0, :, 2], [0, 255, 85, 17])
    Image.fromarray(np.full((4, 4, 4), (0, 255, 255, 0), np.uint8), "CMYK").save(tmp_path / "c.tif")
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "c.tif")[0, 0] > 128, [True, False, False])


def test_what_is_no_picture_is_said_in_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    noise = np.random.default_rng(1).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    whole = saved(tmp_path / "whole.png", noise)
    (tmp_path / "short.png").write_bytes(whole.read_bytes()[:20000])
    (tmp_path / "text.npy").write_text("no array")
    for read, name, said in (
        (pictures.read_picture, "away.png", "away.png is not there"),
        (pictures.read_picture, "", "is a folder"),
        (pictures.read_picture, "text.png", "text.png is no image"),
        (pictures.read_picture, "short.png", "short.png cannot be read.*truncated"),
        (pictures.read_mask, "text.png", "mask .*text.png is no image"),
        (pictures.read_map, "text.npy", "map .*text.npy cannot be read"),
        (pictures.read_depth, "away.npy", "depth map .*away.npy is not there"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_masks(tmp_path):
    hole = np.zeros((4, 5), bool)
    hole[1:3, 2] = True
    saved(tmp_path / "gray.png", hole.astype(np.uint8) * 255)
    saved(tmp_path / "bits.png", hole.astype(np.uint8) * 255, "1")
    saved(
        tmp_path / "rgb.jpg",
        np.repeat(hole[..., None], 3, -1).astype(np.uint8) * 255,
        quality=100,
        subsampling=0,
    )
    np.save(tmp_path / "bool.npy", hole)
    np.save(tmp_path / "float.npy", hole * 0.5)
    painted = np.zeros((4, 5, 4), np.uint8)
    painted[hole] = 255
    saved(tmp_path / "painted.png", painted)  # white strokes on nothing
    for name in ("gray.png", "bits.png", "rgb.jpg", "bool.npy", "float.npy", "painted.png"):
        got = pictures.read_mask(tmp_path / name)
        assert got.dtype == bool
        np.testing.assert_array_equal(got, hole, err_msg=name)
    np.testing.assert_array_equal(
        pictures.read_mask(saved(tmp_path / "half.png", np.uint8([[127, 128]]))), [[False, True]]
    )
    np.save(tmp_path / "bytes.npy", hole * 255)
    with pytest.raises(ValueError, match="values from 0 to 1"):
        pictures.read_mask(tmp_path / "bytes.npy")


def test_maps_are_the_values_of_the_pixels(tmp_path):
    labels = np.array([[0, 3, 2], [1, 0, 3]])
    colors = Image.fromarray(labels.astype(np.uint8), "P")
    colors.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 255, 255, 255])
    colors.save(tmp_path / "palette.png", bits=2)
    saved(tmp_path / "gray.png", labels.astype(np.uint8))
    saved(tmp_path / "rgb.png", np.repeat(labels[..., None], 3, -1).astype(np.uint8))
    for bits in (2, 4, 16):
        png(tmp_path / f"{bits}.png", labels, bits)
    np.save(tmp_path / "array.npy", labels.astype(np.uint8))
    for name in ("palette.png", "gray.png", "rgb.png", "2.png", "4.png", "16.png", "array.npy"):
        got = pictures.read_map(tmp_path / name)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, labels, err_msg=name)
    np.testing.assert_array_equal(pictures.read_map(png(tmp_path / "1.png", labels > 1, 1)), labels > 1)
    np.testing.assert_array_equal(
        pictures.read_map(png(tmp_path / "many.png", labels * 1000, 16)), labels * 1000
    )


def test_maps_that_are_none(tmp_path):
    saved(tmp_path / "colors.png", IMAGE)
    saved(tmp_path / "gray.jpg", IMAGE[..., 0])
    saved(tmp_path / "clear.png", np.concatenate([IMAGE[..., :1]] * 3 + [IMAGE[..., :1]], -1))
    saved(tmp_path / "gray.webp", IMAGE)
    np.save(tmp_path / "float.npy", np.zeros((2, 2)))
    np.save(tmp_path / "large.npy", np.array([[2**32 + 1]]))
    np.save(tmp_path / "unsigned.npy", np.array([[2**64 - 1]], np.uint64))
    for name, said in (
        ("colors.png", "has colors"),
        ("gray.jpg", "format is JPEG"),
        ("gray.webp", "format is WEBP"),
        ("large.npy", "got 4294967297 to 4294967297"),
        ("unsigned.npy", "got 18446744073709551615"),
        ("clear.png", "transparent"),
        ("float.npy", "expected integers"),
    ):
        with pytest.raises(ValueError, match=said):
            pictures.read_map(tmp_path / name)


def test_depths(tmp_path):
    depth = np.array([[0.5, 2.25], [7.0, 1.0]], np.float32)
    np.save(tmp_path / "d.npy", depth)
    Image.fromarray(depth).save(tmp_path / "d.tif")  # floating point
    np.testing.assert_array_equal(pictures.read_depth(tmp_path / "d.npy"), depth)
    np.testing.assert_array_equal(pictures.read_depth(tmp_path / "d.tif"), depth)
    values = np.array([[0, 300], [65535, 2]])
    np.testing.assert_array_equal(pictures.read_depth(png(tmp_path / "16.png", values, 16)), values)
    with pytest.raises(ValueError, match="has colors"):
        pictures.read_depth(saved(tmp_path / "c.png", IMAGE))
    with pytest.raises(ValueError, match="has a palette, whose indices are no depths"):
        pictures.read_depth(saved(tmp_path / "p.png", IMAGE[..., 0], "P"))


def test_fit():
    wide = np.arange(4 * 8).reshape(4, 8)
    np.testing.assert_array_equal(pictures.fit(wide, 4, 4, "crop"), wide[:, 2:6])
    np.testing.assert_array_equal(pictures.fit(wide, 2, 4, "resize"), wide[1::2, 1::2])
    np.testing.assert_array_equal(pictures.fit(wide, 8, 16, "resize"), wide.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(pictures.fit(wide, 4, 2, "crop"), wide[:, 3:5])
    # 4 x 20/3 of it are rounded to 4 x 7, of which the pixels nearest to the middles of 3 x 5 are shown
    expected = wide[np.ix_([0, 2, 3], [0, 2, 3, 4, 6])]
    np.testing.assert_array_equal(pictures.fit(wide, 3, 5, "crop"), expected)
    assert pictures.fit(wide, 3, 3, "none") is wide
    lanczos = Image.fromarray(IMAGE).resize((5, 3), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pictures.fit(IMAGE, 3, 5, "resize"), np.asarray(lanczos))
    np.testing.assert_array_equal(pictures.fit(IMAGE, 6, 6, "crop"), IMAGE[:, 1:7])
    with pytest.raises(ValueError, match="'squash' not found.*resize"):
        pictures.fit(wide, 4, 4, "squash")


def test_an_image_and_its_mask_stay_one_upon_the_other():
    hole = np.zeros((30, 50), bool)
    hole[5:25, 20:40] = True
    image = np.repeat(hole[..., None], 3, -1).astype(np.uint8) * 255
    for how in ("crop", "resize"):
        fitted = pictures.fit(image, 16, 16, how)[..., 0] > 127
        assert np.mean(fitted == pictures.fit(hole, 16, 16, how)) > 0.98  # a cell's shift leaves 0.95


def test_files_of_a_folder(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "c.npy"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [f.name for f in pictures.files_in(tmp_path)] == ["a.jpg", "b.PNG", "c.npy"]
    with pytest.raises(ValueError, match="holds no files .json"):
        pictures.files_in(tmp_path, (".json",))
