"""Degradations: resizes and kernels by hand, PIL, SciPy and OpenCV; the chance by its closed forms; what is refused."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from ldm_jax.data import degradation as d

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
FLOATS = PIXELS.astype(np.float32) / 255
LAWS = {"bsrgan": d.BSRGAN, "bsrgan_light": d.BSRGAN_LIGHT}
NUMBER = 2000


def row(*values):
    """An image of two equal rows, all channels alike."""
    return np.tile(np.array(values, np.float32)[None, :, None], (2, 1, 3))


def near(fraction, expected, number):
    """Whether a fraction of `number` draws is within four standard deviations."""
    return abs(fraction - expected) < 4 * np.sqrt(expected * (1 - expected) / number)


# ------------------------------------------------------------------------------------------------ resizes


@pytest.mark.parametrize(
    ("before", "interpolation", "after"),
    [
        ((0.0, 0.2, 0.4, 0.6), "linear", (0.1, 0.5)),
        # Four samples are looked at, whatever the factor: 4 to 1 is the mean of the middle two.
        ((0.9, 0.2, 0.4, 0.9), "linear", (0.3,)),
        # Half way between samples Keys' kernel of a = -0.75 is 19/32 and -3/32; the border is repeated.
        ((0.5, 0.5, 0.5, 0.82, 0.5, 0.5, 0.5, 0.5), "cubic", (0.5, 0.69, 0.47, 0.5)),
        ((0.32, 0.0), "cubic", (0.16,)),
        ((0.1, 0.2, 0.5, 0.7, 0.9), "area", (0.55 / 2.5, 1.85 / 2.5)),
        ((0.2, 0.8), "area", (0.2, 0.5, 0.8)),  # enlarging: blocks, and a mean where a pixel lies across
        ((0.2, 0.8), "linear", (0.2, 0.35, 0.65, 0.8)),
    ],
)
def test_resizes_by_hand(before, interpolation, after):
    got = d.resize(row(*before), 2, len(after), interpolation)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, row(*after), atol=1e-6)
    turned = d.resize(row(*before).swapaxes(0, 1), len(after), 2, interpolation)
    np.testing.assert_allclose(turned, row(*after).swapaxes(0, 1), atol=1e-6)


def test_an_area_is_a_mean_of_blocks_and_nearest_a_corner():
    blocks = PIXELS.reshape(12, 4, 10, 4, 3).mean((1, 3))
    assert np.abs(d.downscale(PIXELS, 4, "cv_area") - blocks).max() <= 0.5 + 1e-4
    assert np.abs(d.downscale(PIXELS, 4, "pil_box") - blocks).max() <= 1
    np.testing.assert_array_equal(d.downscale(PIXELS, 4, "cv_nearest"), PIXELS[::4, ::4])
    np.testing.assert_array_equal(d.downscale(PIXELS, 4, "pil_nearest"), PIXELS[2::4, 2::4])


def test_bilinear_without_antialiasing_looks_at_two_samples_a_direction():
    middle = (
        PIXELS[1::4, 1::4].astype(int) + PIXELS[1::4, 2::4] + PIXELS[2::4, 1::4] + PIXELS[2::4, 2::4]
    ) / 4
    assert np.abs(d.downscale(PIXELS, 4, "cv_bilinear") - middle).max() <= 0.5 + 1e-4


def test_lanczos_is_its_formula():
    impulse = np.full((8, 8, 3), 100, np.uint8)
    impulse[:, 3] = 200
    lanczos = np.sinc(np.arange(-3.5, 4)) * np.sinc(np.arange(-3.5, 4) / 4)
    lanczos /= (
        lanczos.sum()
    )  # the second of four samples lies at 2.5, and looks at -1 to 6: pixel 3 is the fifth
    assert abs(int(d.downscale(impulse, 2, "cv_lanczos")[0, 1, 0]) - (100 + 100 * lanczos[4])) <= 0.5


@pytest.mark.parametrize("name", d.PIL_FILTERS)
def test_pil_filters_are_pils(name):
    theirs = Image.fromarray(PIXELS).resize((10, 12), d.PIL_FILTERS[name])
    np.testing.assert_array_equal(d.downscale(PIXELS, 4, name), np.asarray(theirs))


def test_halving_is_antialiased_bicubic():
    got = d.halve(np.clip(FLOATS, 0.3, 0.7))
    for channel in range(3):
        plane = Image.fromarray(np.clip(FLOATS, 0.3, 0.7)[..., channel])
        theirs = np.asarray(plane.resize((20, 24), Image.Resampling.BICUBIC))
        # PIL leaves out what lies beyond the border, where MATLAB mirrors.
        np.testing.assert_allclose(got[2:-2, 2:-2, channel], theirs[2:-2, 2:-2], atol=1e-5)
    mirrored = np.pad(np.clip(FLOATS, 0.3, 0.7), ((4, 4), (4, 4), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(got, d.halve(mirrored)[2:-2, 2:-2], atol=1e-6)


@pytest.mark.parametrize("size", [(12, 10), (31, 17), (90, 77), (20, 77)])
def test_resizes_are_opencvs(size):
    cv2 = pytest.importorskip("cv2")
    codes = dict(linear=cv2.INTER_LINEAR, cubic=cv2.INTER_CUBIC, area=cv2.INTER_AREA)
    for interpolation, code in codes.items():
        theirs = np.clip(cv2.resize(FLOATS, size[::-1], interpolation=code), 0, 1)
        np.testing.assert_allclose(d.resize(FLOATS, *size, interpolation), theirs, atol=1e-5)


def test_downscaling_and_jpeg_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    codes = dict(nearest=0, bilinear=1, bicubic=2, area=3, lanczos=4)
    for name, code in codes.items():
        theirs = cv2.resize(PIXELS, (10, 12), interpolation=code).astype(int)
        assert np.abs(d.downscale(PIXELS, 4, f"cv_{name}") - theirs).max() <= 1
    for quality in (30, 80, 95):
        file = cv2.imencode(".jpg", PIXELS[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        theirs = cv2.imdecode(file, 1)[..., ::-1] / 255
        assert np.abs(d.jpeg(FLOATS, quality) - theirs).mean() < 0.5 / 255


# --------------------------------------------------------------------------------------- blurs, noise, JPEG


@pytest.mark.parametrize("size", [25, 24])
def test_a_kernel_has_the_covariance_asked_for(size):
    angle, variances = 0.6, (4.0, 1.0)
    kernel = d.gaussian_kernel(size, variances, angle)
    assert kernel.sum() == pytest.approx(1) and (kernel >= 0).all()
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = axes @ np.diag(variances) @ axes.T
    got = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_a_width_of_zero_is_no_blur():
    kernel = d.gaussian_kernel(7, (0.0, 0.0), 0.3)
    assert kernel[3, 3] == 1 and np.count_nonzero(kernel) == 1
    np.testing.assert_allclose(d.blur(FLOATS, 7, (0.0, 0.0), 0.3), FLOATS, atol=1e-6)
    assert np.isfinite(d.gaussian_kernel(6, (0.0, 0.0), 0.3)).all()


@pytest.mark.parametrize("size", [7, 25, 6, 14])
def test_a_blur_is_scipys_convolution(size):
    kernel = d.gaussian_kernel(size, (5.0, 0.7), 0.9)
    theirs = ndimage.convolve(FLOATS, kernel[..., None], mode="mirror")
    np.testing.assert_allclose(d.blur(FLOATS, size, (5.0, 0.7), 0.9), theirs, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_subsampling_takes_the_middle_of_what_it_replaces(factor):
    ramp = np.tile(np.linspace(0, 1, 60, dtype=np.float32)[None, :, None], (24, 1, 3))
    got = d.subsample(ramp, factor, 0.5 * factor)
    places = factor * np.arange(60 // factor) + (factor - 1) / 2
    inside = (places > 15) & (places < 45)
    np.testing.assert_allclose(got[0, inside, 0], places[inside] / 59, atol=1e-5)
    assert got.shape == (24 // factor, 60 // factor, 3)


def test_subsampling_is_a_shifted_kernel_of_25_pixels():
    sigma, factor, at = 1.7, 4, np.arange(25.0)
    kernel = d.gaussian_kernel(25, (sigma**2, sigma**2), 0.0)
    shifted = np.minimum(at + 1.5, 24)
    places = np.stack(np.meshgrid(shifted, shifted, indexing="ij"), -1)
    kernel = RegularGridInterpolator((at, at), kernel)(places)
    theirs = ndimage.convolve(FLOATS, (kernel / kernel.sum())[..., None], mode="mirror")[::factor, ::factor]
    np.testing.assert_allclose(d.subsample(FLOATS, factor, sigma), theirs, atol=2e-6)


def test_noise_has_its_covariance_and_is_clipped():
    gray = np.full((200, 200, 3), 0.5, np.float32)
    covariance = np.array([[4, 1, 0.5], [1, 2, 1], [0.5, 1, 1]]) * 1e-4
    for wanted in (covariance, np.eye(3) * 1e-4, np.ones((3, 3)) * 1e-4):
        drawn = d.add_noise(gray, wanted, 7)
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(np.cov((drawn - 0.5).reshape(-1, 3).T), wanted, atol=1e-5)
        assert abs((drawn - 0.5).mean()) < 3e-4
        np.testing.assert_array_equal(drawn, d.add_noise(gray, wanted, 7))
    assert np.ptp(d.add_noise(gray, np.ones((3, 3)) * 1e-4, 7), axis=-1).max() < 1e-6
    loud = d.add_noise(gray, np.eye(3), 7)
    assert loud.min() == 0 and loud.max() == 1


def test_jpeg_loses_more_at_lower_quality_and_half_of_the_color():
    smooth = ndimage.gaussian_filter(FLOATS, (2, 2, 0))
    errors = [np.abs(d.jpeg(smooth, quality) - smooth).mean() for quality in (95, 80, 30)]
    assert 0 < errors[0] < errors[1] < errors[2] < 0.05
    stripes = np.zeros((16, 16, 3), np.float32)
    stripes[:, ::2], stripes[:, 1::2] = (0.6, 0.2, 0.2), (0.2, 0.385, 0.32)  # about as bright as each other
    assert np.ptp(d.jpeg(stripes, 95)[..., 0], axis=1).max() < 0.1


# ----------------------------------------------------------------------------------------------- the chance


@pytest.fixture(scope="module", params=LAWS)
def drawn(request):
    rng = np.random.default_rng(1)
    law = LAWS[request.param]
    plans = [d.plan(rng, 256, 256, 4, law) for _ in range(NUMBER)]
    return law, [[(step.__name__, numbers) for step, numbers in plan] for plan in plans]


def sizes(plan):
    """The steps that downsample."""
    return [(name, numbers) for name, numbers in plan if name in ("resize", "subsample", "halve")]


def every(plans, name):
    return [numbers for plan in plans for step, numbers in plan if step == name]


def test_the_order_of_steps(drawn):
    law, plans = drawn
    before, first = [], []
    for plan in plans:
        names = [name for name, _ in plan]
        assert names.count("blur") == law.blurs and names.count("add_noise") == 1 and names[-1] == "jpeg"
        steps = sizes(plan)
        assert steps[-1][0] == "resize" and (steps[-1][1]["height"], steps[-1][1]["width"]) == (64, 64)
        halved = len(steps) == 3
        order = names[halved:-1]
        places = [i for i, name in enumerate(order) if name in ("resize", "subsample")]
        before.append(order.index("add_noise") < places[0])
        first.append(order[0] == "blur")
    assert near(np.mean(before), 1 / 3, NUMBER)  # of noise and two downsamplings any may come first
    # JPEG is there 9 times in 10; noise, two downsamplings and the blurs always.
    expected = law.blurs * (0.9 / (law.blurs + 4) + 0.1 / (law.blurs + 3))
    assert near(np.mean(first), expected, NUMBER)
    assert near(np.mean([[name for name, _ in plan].count("jpeg") == 2 for plan in plans]), 0.9, NUMBER)


def test_a_quarter_begins_with_halving(drawn):
    _, plans = drawn
    halved = [plan for plan in plans if len(sizes(plan)) == 3]
    assert near(len(halved) / NUMBER, 0.25, NUMBER)
    assert near(np.mean([plan[0][0] == "halve" for plan in halved]), 0.5, len(halved))
    for plan in halved:
        assert plan[0] == ("halve", {}) or (plan[0][1]["height"], plan[0][1]["width"]) == (128, 128)


def test_the_first_downsampling(drawn):
    law, plans = drawn
    for factor, side, chosen in [
        (4, 256, [sizes(plan)[0] for plan in plans if len(sizes(plan)) == 2]),
        (2, 128, [sizes(plan)[1] for plan in plans if len(sizes(plan)) == 3]),
    ]:
        resized = [numbers["height"] for name, numbers in chosen if name == "resize"]
        assert near(len(resized) / len(chosen), law.rescale, len(chosen))
        scales = side / np.array(resized)
        assert 32 <= min(resized) < 34 and 0.97 * side < max(resized) <= side
        assert abs(scales.mean() - (1 + 2 * factor) / 2) < 0.15 * factor
        sigmas = [numbers["sigma"] for name, numbers in chosen if name == "subsample"]
        assert min(sigmas) >= 0.1 and max(sigmas) <= 0.6 * factor
        assert abs(np.mean(sigmas) - (0.1 + 0.6 * factor) / 2) < 0.08 * factor
        assert all(numbers["factor"] == factor for name, numbers in chosen if name == "subsample")
    kinds = Counter(numbers["interpolation"] for numbers in every(plans, "resize"))
    assert set(kinds) == {"linear", "cubic", "area"}
    assert all(near(n / kinds.total(), 1 / 3, kinds.total()) for n in kinds.values())


def test_blurs(drawn):
    law, plans = drawn
    for factor, some in [
        (4, [plan for plan in plans if len(sizes(plan)) == 2]),
        (2, [plan for plan in plans if len(sizes(plan)) == 3]),
    ]:
        blurs = every(some, "blur")
        round_ones = [b for b in blurs if b["variances"][0] == b["variances"][1]]
        long_ones = [b for b in blurs if b["variances"][0] != b["variances"][1]]
        assert near(len(round_ones) / len(blurs), 0.5, len(blurs))
        most = law.widths * (4 + factor)
        variances = np.array([b["variances"] for b in long_ones])
        assert 0.97 * most < variances.max() <= most and np.abs(variances.mean(0) / most - 0.5).max() < 0.08
        most = law.widths * (2 + 0.2 * factor)
        sigmas = np.sqrt([b["variances"][0] for b in round_ones])
        assert 0.97 * most < sigmas.max() <= most and abs(sigmas.mean() / most - 0.5) < 0.08
        angles = np.array([b["angle"] for b in long_ones])
        assert 0 <= angles.min() and angles.max() <= np.pi and abs(angles.mean() - np.pi / 2) < 0.2
    assert {b["size"] for b in every(plans, "blur") if b["angle"]} == set(law.anisotropic)
    assert {b["size"] for b in every(plans, "blur") if not b["angle"]} == set(law.isotropic)


def test_the_tables_of_the_two():
    assert d.BSRGAN.anisotropic == d.BSRGAN.isotropic == (7, 9, 11, 13, 15, 17, 19, 21, 23, 25)
    assert d.BSRGAN_LIGHT.anisotropic == (5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
    assert d.BSRGAN_LIGHT.isotropic == (5, 6, 7)
    assert (d.BSRGAN.blurs, d.BSRGAN.widths, d.BSRGAN.rescale) == (2, 1, 0.75)
    assert (d.BSRGAN_LIGHT.blurs, d.BSRGAN_LIGHT.widths, d.BSRGAN_LIGHT.rescale) == (1, 0.25, 0.8)
    assert d.BSRGAN[-2:] == ((2, 25), (30, 95)) and d.BSRGAN_LIGHT[-2:] == ((1, 2), (80, 95))


def test_noise_comes_in_three_forms(drawn):
    law, plans = drawn
    covariances = np.array([numbers["covariance"] for numbers in every(plans, "add_noise")]) * 255**2
    gray = np.ptp(covariances, axis=(1, 2)) < 1e-9
    color = (np.abs(covariances - np.eye(3) * covariances[:, :1, :1]) < 1e-9).all((1, 2))
    assert near(gray.mean(), 0.4, NUMBER) and near(color.mean(), 0.4, NUMBER)
    levels = np.sqrt(covariances[gray | color][:, 0, 0])
    assert set(np.rint(levels)) == set(range(law.noise[0], law.noise[1] + 1))
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-9)
    correlated = covariances[~(gray | color)]
    assert (correlated >= 0).all() and np.linalg.eigvalsh(correlated).min() > -1e-9
    # The eigenvalues of U' D U are uniform on [0, 1); the absolute values keep its trace, of mean 3 / 2.
    traces = np.trace(correlated, axis1=1, axis2=2) / law.noise[1] ** 2
    assert abs(traces.mean() - 1.5) < 4 * 0.5 / np.sqrt(len(traces)) and traces.max() <= 3


def test_the_quality_of_jpeg(drawn):
    law, plans = drawn
    qualities = [numbers["quality"] for numbers in every(plans, "jpeg")]
    assert set(qualities) == set(range(law.quality[0], law.quality[1] + 1))
    assert abs(np.mean(qualities) - np.mean(law.quality)) < 1


def test_halving_first_is_for_a_factor_of_four():
    for factor in (1, 2, 3):
        plans = [d.plan(np.random.default_rng(i), 48, 24, factor, d.BSRGAN) for i in range(50)]
        for plan in plans:
            downsamplings = [n for step, n in plan if step in (d.resize, d.subsample, d.halve)]
            assert len(downsamplings) == 2
            assert (downsamplings[-1]["height"], downsamplings[-1]["width"]) == (48 // factor, 24 // factor)


# ----------------------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize("name", d.DEGRADATIONS)
def test_any_size_and_seed(name):
    for (height, width), factor in [((48, 40), 4), ((27, 50), 4), ((7, 5), 4), ((4, 4), 4), ((31, 20), 3)]:
        image = PIXELS[:height, :width] if width <= 40 else np.resize(PIXELS, (height, width, 3))
        kept = image.copy()
        small = d.degrade(image, np.random.default_rng(3), name, factor=factor)
        assert small.shape == (height // factor, width // factor, 3) and small.dtype == np.uint8
        np.testing.assert_array_equal(image, kept)
        np.testing.assert_array_equal(small, d.degrade(image, np.random.default_rng(3), name, factor=factor))
        whole = image[: height - height % factor, : width - width % factor]
        np.testing.assert_array_equal(small, d.degrade(whole, np.random.default_rng(3), name, factor=factor))


@pytest.mark.parametrize("chain", [d.bsrgan, d.bsrgan_light])
def test_seeds_differ(chain):
    assert len({chain(PIXELS, np.random.default_rng(seed)).tobytes() for seed in range(10)}) == 10


def test_the_smallest_survive_any_chance():
    for seed in range(40):
        for chain in (d.bsrgan, d.bsrgan_light):
            assert chain(PIXELS[:5, :9], np.random.default_rng(seed)).shape == (1, 2, 3)


def test_a_flat_photograph_shows_the_noise_alone():
    flat = np.full((64, 64, 3), (90, 120, 150), np.uint8)
    light = [d.bsrgan_light(flat, np.random.default_rng(i)).astype(float) - (90, 120, 150) for i in range(40)]
    heavy = [d.bsrgan(flat, np.random.default_rng(i)).astype(float) - (90, 120, 150) for i in range(40)]
    assert np.abs(light).mean() < 2 and np.abs(light).max() < 12
    assert np.abs(heavy).mean() > 2 * np.abs(light).mean()
    assert np.abs(np.mean(heavy)) < 1


@pytest.mark.parametrize(("chain", "most"), [(d.bsrgan, 0.1), (d.bsrgan_light, 0.2)])
def test_the_picture_stays_in_its_place(chain, most):
    """To a tenth of a small pixel, or two where kernels of even sizes move it by half a pixel up and left."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(96, 96, 3)), (8, 8, 0))
    smooth = np.clip(128 + smooth / smooth.std() * 40, 0, 255).astype(np.uint8)
    blocks, inside = d.downscale(smooth, 4, "cv_area").astype(float), (slice(4, -4), slice(4, -4))
    slopes = np.stack([slope[inside].ravel() for slope in np.gradient(blocks, axis=(0, 1))], axis=1)
    moved = [chain(smooth, np.random.default_rng(i)) - blocks for i in range(40)]
    offsets = [np.linalg.lstsq(slopes, m[inside].ravel(), rcond=None)[0] for m in moved]
    assert np.abs(np.mean(offsets, axis=0)).max() < most


@pytest.mark.parametrize(
    ("image", "name", "factor", "said"),
    [
        (FLOATS, "bsrgan", 4, r"the image is float32 of shape \(48, 40, 3\), expected uint8 \[H, W, 3\]"),
        (PIXELS[..., 0], "bicubic", 4, r"the image is uint8 of shape \(48, 40\), expected uint8"),
        (PIXELS, "bsrgan", 0, "factor is 0, expected an int from 1"),
        (PIXELS, "bsrgan_light", 2.5, "factor is 2.5, expected an int from 1"),
        (PIXELS, "bsrgan", 1.0, "factor is 1.0, expected an int from 1"),
        (PIXELS, "bicubic", True, "factor is True, expected an int from 1"),
        (PIXELS, "bicubic", "x", "factor is 'x', expected an int from 1"),
        (PIXELS, "cv_area", 41, "factor is 41, .* which is 48 x 40"),
        (PIXELS, "bsrgn", 4, "degradation 'bsrgn' not found; there are: bsrgan, bsrgan_light, pil_nearest"),
    ],
)
def test_what_is_refused(image, name, factor, said):
    with pytest.raises(ValueError, match=said):
        d.degrade(image, np.random.default_rng(0), name, factor=factor)


def test_a_chain_is_no_downscaling_filter():
    with pytest.raises(ValueError, match="downscaling 'bsrgan' not found; there are: pil_nearest"):
        d.downscale(PIXELS, 4, "bsrgan")
