"""Small images pass as they come; what has another shape is refused."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioning import superres
from tests.conditioning.examples import images, setting


def test_the_image_is_the_channels():
    inputs = superres.inputs({"low_res_images": images(4)}, setting(superres.Conditioner()))
    np.testing.assert_array_equal(superres.Conditioner().apply({}, inputs).concat, images(4))
    with pytest.raises(ValueError, match=r"got shape \(16, 16, 3\), expected \(4, 4, 3\)"):
        superres.inputs({"low_res_images": images(16)}, setting(superres.Conditioner()))


def test_a_model_of_pixels_sees_it_enlarged_as_pillow_does():
    setting_of_pixels = setting(superres.Conditioner(enlarge=2))
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (1, 2, 2, 3), np.uint8)
    inputs = superres.inputs({"low_res_images": list(small)}, setting_of_pixels)
    seen = np.asarray(superres.Conditioner(enlarge=2).apply({}, inputs).concat[0])
    channels = [Image.fromarray(inputs["low_res_images"][0, :, :, i], "F") for i in range(3)]
    expected = np.stack([np.asarray(c.resize((4, 4), Image.Resampling.BICUBIC)) for c in channels], -1)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"got shape \(4, 4, 3\), expected \(2, 2, 3\)"):
        superres.inputs({"low_res_images": images(4)}, setting_of_pixels)
