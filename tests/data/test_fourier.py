"""Pictures in the light of others: what changes and what stays, by numpy's transform."""

import numpy as np
import pytest

from ldm_jax.data import fourier

RNG = np.random.default_rng(0)
IMAGE, LIKE = RNG.uniform(-0.3, 0.3, (2, 16, 24, 3))


def test_the_mean_color_is_the_others():
    dark = LIKE - 0.5
    found = fourier.adapted(IMAGE + 0.4, dark, 0.01)
    np.testing.assert_allclose(found.mean((0, 1)), dark.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found - found.mean((0, 1)), IMAGE - IMAGE.mean((0, 1)), atol=1e-5)


def test_low_amplitudes_are_the_others_and_phases_its_own():
    found = fourier.adapted(IMAGE, LIKE, 0.2)  # 3 frequencies to each side
    spectra = [np.fft.fft2(v + 1, axes=(0, 1)) for v in (found, IMAGE, LIKE)]
    y, x = (np.abs(np.fft.fftfreq(n) * n) for n in (16, 24))
    low = (y[:, None] <= 3) & (x <= 3)
    np.testing.assert_allclose(np.abs(spectra[0])[low], np.abs(spectra[2])[low], atol=1e-3)
    np.testing.assert_allclose(spectra[0][~low], spectra[1][~low], atol=1e-3)
    turned = np.exp(1j * (np.angle(spectra[0]) - np.angle(spectra[1])))
    strong = np.abs(spectra[0]) > 0.1
    np.testing.assert_allclose(turned[strong], 1, atol=1e-2)


def test_a_picture_like_itself_and_one_that_is_left_as_it_is():
    np.testing.assert_allclose(fourier.adapted(IMAGE, IMAGE, 0.3), IMAGE, atol=1e-6)
    np.testing.assert_array_equal(fourier.adapted(IMAGE, LIKE, 0), IMAGE.astype(np.float32))


@pytest.mark.parametrize(
    ("like", "beta", "said"),
    [(LIKE[1:], 0.1, "got pictures of"), (LIKE, 0.5, "beta is 0.5, expected a number from 0")],
)
def test_what_cannot_be(like, beta, said):
    with pytest.raises(ValueError, match=f"fourier: {said}"):
        fourier.adapted(IMAGE, like, beta)
