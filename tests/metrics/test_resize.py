import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.metrics import resize
from tests.metrics import fidelity


def image(height=13, width=9):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_tf1_by_hand():
    """Pixel i of 5 from 3 lies at 0.6 i: 0, 0.6, 1.2, 1.8, and 2.4, where the last pixel stays."""
    x = np.array([0, 100, 50], np.uint8)[None, :, None]
    found = resize.tf1_bilinear(np.repeat(x, 3, axis=0), 5)
    np.testing.assert_allclose(found[:, :, 0], [[0, 60, 90, 60, 50]] * 5, atol=1e-4)


def test_tf1_is_tensorflows_and_torch_fidelitys():
    torch = pytest.importorskip("torch")
    theirs = fidelity.load("interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    for size in (5, 29):
        x = torch.tensor(image()).movedim(-1, 0)[None].float()
        expected = theirs(x, size=(size, size), align_corners=False)[0].movedim(0, -1)
        np.testing.assert_allclose(resize.tf1_bilinear(image(), size), expected, atol=1e-3)
    tf = pytest.importorskip("tensorflow")
    expected = tf.compat.v1.image.resize_bilinear(image()[None], (29, 29), align_corners=False)[0]
    np.testing.assert_allclose(resize.tf1_bilinear(image(), 29), expected, atol=1e-4)


@pytest.mark.parametrize("size", [5, 9, 29])
def test_pytorch_is_torchs(size):
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.interpolate(
        torch.tensor(image()).movedim(-1, 0)[None].float(), (size, size), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resize.pytorch_bilinear(image(), size), expected[0].movedim(0, -1), atol=1e-3)


@pytest.mark.parametrize("size", [5, 29])
def test_clean_is_pillows_without_rounding(size):
    flat = image() // 2 + 64  # so that nothing overshoots 0..255, where 8 bits clip after each axis
    found = resize.clean_bicubic(flat, size)
    rounded = np.asarray(Image.fromarray(flat).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    assert found.dtype == np.float32
    assert np.abs(found - rounded).max() < 1.25  # 8 bits round after each axis
    assert np.abs(found - np.rint(found)).max() > 0.1
    channel = Image.fromarray(image()[..., 1].astype(np.float32)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    np.testing.assert_array_equal(resize.clean_bicubic(image(), size)[..., 1], np.clip(channel, 0, 255))


def test_the_conventions_differ_where_they_should():
    shrunk = [
        how(image(64, 64), 16) for how in (resize.tf1_bilinear, resize.pytorch_bilinear, resize.clean_bicubic)
    ]
    assert shrunk[2].std() < 0.7 * shrunk[1].std()  # only Pillow's filter widens
    np.testing.assert_array_equal(shrunk[0], image(64, 64)[::4, ::4])


@pytest.mark.parametrize("how", [resize.tf1_bilinear, resize.pytorch_bilinear, resize.clean_bicubic])
def test_an_image_of_the_size_stays_as_it_is(how):
    np.testing.assert_array_equal(how(image(9, 9), 9), image(9, 9))


@pytest.mark.parametrize("how", [resize.tf1_bilinear, resize.pytorch_bilinear])
def test_batches_on_a_device_give_what_numpy_gives(how):
    batch = np.stack([image(), image()[::-1]])
    np.testing.assert_allclose(how(jnp.asarray(batch), 21), how(batch, 21), rtol=1e-6)


def test_an_unknown_convention_lists_them():
    with pytest.raises(ValueError, match="'tf2' not found; there are: tf1, clean, pytorch"):
        resize.convention("tf2")
