"""Small images pass as they come; what has another shape is refused."""

import numpy as np
import pytest

from ldm_jax.conditioning import superres
from tests.conditioning.examples import images, setting


def test_the_image_is_the_channels():
    inputs = superres.inputs({"low_res_images": images(4)}, setting(superres.Conditioner()))
    np.testing.assert_array_equal(superres.Conditioner().apply({}, inputs).concat, images(4))
    with pytest.raises(ValueError, match=r"got shape \(16, 16, 3\), expected \(4, 4, 3\)"):
        superres.inputs({"low_res_images": images(16)}, setting(superres.Conditioner()))
