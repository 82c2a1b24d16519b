"""What a Frechet distance of pictures has to do: nothing between halves of a set, more for more blur, much for
noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ldm_jax.metrics.features import collect
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.shapes_world import scenes as world
from tests.metrics.test_features import small_extractor


def gaussian(images):
    return collect(ArrayImages(images), small_extractor()).moments["pool"].gaussian()


@pytest.fixture(scope="module")
def scenes():
    return np.stack([world.render(world.scene(i, "test")) for i in range(128)])


def test_halves_are_near_blur_is_farther_and_noise_is_far(scenes):
    first, second = gaussian(scenes[:64]), scenes[64:]
    half = fid(gaussian(second), first)
    blurred = [fid(gaussian(gaussian_filter(scenes[:64], (0, s, s, 0))), first) for s in (0.5, 1.0, 2.0, 4.0)]
    noise = fid(gaussian(np.random.default_rng(0).integers(0, 256, second.shape, np.uint8)), first)
    assert blurred == sorted(blurred) and blurred[0] > 1e-6
    assert half < 0.05 * noise and max(blurred) < noise
    assert abs(fid(first, first)) < 1e-6
