"""Photographs made small, and worse, for training super-resolution: plain downscaling, and the random chain of BSRGAN.

Decides what a degraded photograph looks like. `plan` draws all that is random, as a list of steps with their numbers;
`apply` carries it out. Knows nothing of files, crops or networks. Sources: Rombach et al. 2022 (arXiv:2112.10752),
section 4.4; Zhang et al. 2021 (arXiv:2103.14006); CompVis/latent-diffusion@a506df5 ldm/data/imagenet.py (the names),
ldm/modules/image_degradation/bsrgan.py and bsrgan_light.py (the chances and ranges, which are kept).

Where this differs from the original: an image is cropped to a multiple of the factor row by row and column by column
(the original exchanges height and width there); the kernel of `subsample` is shifted without SciPy's interp2d, which is
no more; variances have a floor, so that a width drawn as 0 is no blur and not an error; nothing shrinks to less than
one pixel; one
numpy Generator seeds it all. A camera's ISP is left out: the original has a place for one, and none to put there.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import fft

INTERPOLATIONS = ("linear", "cubic", "area")  # that a random resize chooses among
HALF_FIRST = 0.25  # the chance that a factor of 4 begins with halving
JPEG_CHANCE = 0.9  # beside the JPEG that ends every chain
LEAST_VARIANCE = 1e-6  # pixels squared: weighs a neighbor 0 times

PIL_FILTERS = {
    "pil_nearest": Image.Resampling.NEAREST,
    "pil_bilinear": Image.Resampling.BILINEAR,
    "pil_bicubic": Image.Resampling.BICUBIC,
    "pil_box": Image.Resampling.BOX,
    "pil_hamming": Image.Resampling.HAMMING,
    "pil_lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
}
CV_FILTERS = {
    "cv_nearest": "nearest",
    "cv_bilinear": "linear",
    "cv_bicubic": "cubic",
    "cv_area": "area",
    "cv_lanczos": "lanczos",
}
DOWNSCALERS = (*PIL_FILTERS, *CV_FILTERS)
DEGRADATIONS = ("bsrgan", "bsrgan_light", *DOWNSCALERS)

Step = tuple[Callable[..., np.ndarray], dict[str, Any]]


# ------------------------------------------------------------------------------- resizing, as OpenCV does


def keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys 1981 at |distance|, 0 from 2 on. a: OpenCV has -0.75, PIL and MATLAB
    -0.5."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _taps(length: int, new: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """(index [K, new] of samples before, weight [K, new]) of each sample after. Pixels lie at their centers; beyond the
    border the last one goes on. Only 'area' looks at more samples when shrinking, and only where it shrinks."""
    scale = length / new
    places = np.arange(new)
    if interpolation == "nearest":  # the pixel that holds the upper left corner
        return np.minimum((places * scale).astype(int), length - 1)[None], np.ones((1, new))
    if interpolation == "area":
        start = places * scale
        index = np.floor(start).astype(int) + np.arange(int(np.ceil(scale)) + 1)[:, None]
        weight = np.maximum(np.minimum(start + scale, index + 1) - np.maximum(start, index), 0) / scale
        return np.minimum(index, length - 1), weight
    if interpolation == "area_enlarging":  # OpenCV's blocks with a narrow linear seam
        first = np.floor(places * scale)
        rest = (places + 1) - (first + 1) / scale
        rest = np.where(rest <= 0, 0.0, rest - np.floor(rest))
        index, weight = np.stack([first, first + 1]), np.stack([1 - rest, rest])
    else:
        x = (places + 0.5) * scale - 0.5
        reach = {"linear": 1, "cubic": 2, "lanczos": 4}[interpolation]
        index = np.floor(x) + np.arange(1 - reach, reach + 1)[:, None]
        d = index - x
        if interpolation == "linear":
            weight = 1 - np.abs(d)
        elif interpolation == "cubic":
            weight = keys_cubic(d, -0.75)
        else:
            weight = np.sinc(d) * np.sinc(d / 4)
            weight /= weight.sum(axis=0)
    return np.clip(index, 0, length - 1).astype(int), weight


def _resample(image: np.ndarray, axis: int, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Along an axis of [H, W, 3] float32: sum over k of weight[k] * image[index[k]]."""
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = weight.astype(np.float32)
    return sum(image.take(i, axis) * w.reshape(shape) for i, w in zip(index, weight, strict=True))


def _resized(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """[H, W, 3] float32 -> [height, width, 3], not clipped."""
    if interpolation == "area" and (height > image.shape[0] or width > image.shape[1]):
        interpolation = "area_enlarging"
    image = _resample(image, 0, *_taps(image.shape[0], height, interpolation))
    return _resample(image, 1, *_taps(image.shape[1], width, interpolation))


# ---------------------------------------------------------------------------------------------- the steps


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """[H, W, 3] float32 -> [height, width, 3] in [0, 1], as OpenCV's resize computes it for 'linear' (INTER_LINEAR),
    'cubic' (INTER_CUBIC) and 'area' (INTER_AREA); the first two are not anti-aliased."""
    return np.clip(_resized(image, height, width, interpolation), 0, 1)


def halve(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] float32, H and W even -> [H / 2, W / 2, 3] in [0, 1]: anti-aliased bicubic as MATLAB's imresize, of 8
    samples a direction, the picture mirrored at its border (edge pixels twice)."""
    offsets = np.arange(-3, 5)
    weight = keys_cubic((offsets - 0.5) / 2, -0.5) / 2
    for axis in (0, 1):
        length = image.shape[axis]
        mirrored = np.pad(np.arange(length), 4, mode="symmetric")
        index = mirrored[np.arange(0, length, 2) + offsets[:, None] + 4]
        image = _resample(image, axis, index, weight[:, None])
    return np.clip(image, 0, 1)


def gaussian_kernel(size: int, variances: tuple[float, float], angle: float) -> np.ndarray:
    """[size, size] float64 of sum 1: a Gaussian about the middle of the square. variances: in pixels squared, of the
    first principal axis, which lies at `angle` (radians, from x = columns towards y = rows), and of the one across
    it."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    first, second = np.maximum(variances, LEAST_VARIANCE)
    exponent = -(along**2 / first + across**2 / second) / 2
    kernel = np.exp(exponent - exponent.max())
    return kernel / kernel.sum()


def blur(image: np.ndarray, size: int, variances: tuple[float, float], angle: float) -> np.ndarray:
    """[H, W, 3] float32 convolved with `gaussian_kernel`, mirrored at its border (edge pixels once).

    An even size has no middle pixel, and moves the picture by half a pixel up and left, as in bsrgan_light.py.
    """
    height, width = image.shape[:2]
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(image, ((before, after), (before, after), (0, 0)), mode="reflect")
    shape = [fft.next_fast_len(side, real=True) for side in padded.shape[:2]]
    kernel = gaussian_kernel(size, variances, angle).astype(np.float32)
    spectrum = fft.rfft2(padded, shape, axes=(0, 1)) * fft.rfft2(kernel, shape)[..., None]
    blurred = fft.irfft2(spectrum, shape, axes=(0, 1))
    return blurred[size - 1 : size - 1 + height, size - 1 : size - 1 + width]


def subsample(image: np.ndarray, factor: int, sigma: float) -> np.ndarray:
    """[H, W, 3] float32 -> every factor-th pixel, in [0, 1], of the image blurred by a Gaussian of 25 x 25 pixels.

    sigma: in pixels. The kernel lies (factor - 1) / 2 pixels further on, shifted by linear interpolation, so that a
    pixel is taken from the middle of those that it replaces. Mirrored at the border (edge pixels once).
    """
    reach = 12
    offsets = np.arange(-reach, reach + 1)
    gaussian = np.exp(-(offsets**2) / (2 * max(sigma**2, LEAST_VARIANCE)))
    weight = np.interp(offsets - (factor - 1) / 2, offsets, gaussian)
    weight /= weight.sum()
    for axis in (0, 1):
        mirrored = np.pad(np.arange(image.shape[axis]), reach, mode="reflect")
        index = mirrored[np.arange(0, image.shape[axis], factor) + offsets[:, None] + reach]
        image = _resample(image, axis, index, weight[:, None])
    return np.clip(image, 0, 1)


def add_noise(image: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """[H, W, 3] float32 in [0, 1] + Gaussian noise, independent between pixels, clipped. covariance: [3, 3], between
    channels."""
    values, vectors = np.linalg.eigh(covariance)
    root = ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T).astype(np.float32)
    drawn = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    return np.clip(image + drawn @ root, 0, 1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """[H, W, 3] float32, written as a JPEG file (color at half the resolution, as OpenCV writes it) and read again."""
    file = io.BytesIO()
    Image.fromarray(_to_uint8(image)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return _to_float(np.asarray(Image.open(file)))


# ---------------------------------------------------------------------------------------------- the chance


class Law(NamedTuple):
    """The chances and ranges of a chain, both ends included.

    blurs: how many. widths: multiplies the variances of anisotropic and the standard deviations of isotropic blurs.
    anisotropic, isotropic: the sides of their kernels. rescale: the chance that the first downsampling is a resize and
    not
    `subsample`. noise: levels, of 255. quality: of JPEG.
    """

    blurs: int
    widths: float
    anisotropic: tuple[int, ...]
    isotropic: tuple[int, ...]
    rescale: float
    noise: tuple[int, int]
    quality: tuple[int, int]


BSRGAN = Law(2, 1.0, tuple(range(7, 26, 2)), tuple(range(7, 26, 2)), 0.75, (2, 25), (30, 95))
BSRGAN_LIGHT = Law(1, 0.25, tuple(range(5, 15)), (5, 6, 7), 0.8, (1, 2), (80, 95))


def _some_blur(rng: np.random.Generator, factor: int, law: Law) -> Step:
    if rng.random() < 0.5:
        first, second = law.widths * (4 + factor) * rng.random(2)
        size, angle = int(rng.choice(law.anisotropic)), np.pi * rng.random()
        return blur, dict(size=size, variances=(first, second), angle=angle)
    variance = (law.widths * (2 + 0.2 * factor) * rng.random()) ** 2
    return blur, dict(size=int(rng.choice(law.isotropic)), variances=(variance, variance), angle=0.0)


def _some_resize(rng: np.random.Generator, height: int, width: int) -> Step:
    return resize, dict(height=height, width=width, interpolation=str(rng.choice(INTERPOLATIONS)))


def _first_downsampling(rng: np.random.Generator, height: int, width: int, factor: int, law: Law) -> Step:
    """Of an image [height, width] to anything between its own size and half of what it shall have, or to just that."""
    if rng.random() < law.rescale:
        scale = rng.uniform(1, 2 * factor)
        return _some_resize(rng, max(1, int(height / scale)), max(1, int(width / scale)))
    return subsample, dict(factor=factor, sigma=rng.uniform(0.1, 0.6 * factor))


def _some_noise(rng: np.random.Generator, law: Law) -> Step:
    """Of its own for each channel (40 %), the same for all (40 %), or correlated (20 %).

    The last is always of the highest level, as in the original: that squared times |U' D U|, U random and orthogonal, D
    uniform on [0, 1). (The absolute values of a 3 x 3 covariance are one again.)
    """
    level, form = rng.integers(*law.noise, endpoint=True) / 255, rng.random()
    if form < 0.4:
        covariance = level**2 * np.ones((3, 3))
    elif form > 0.6:
        covariance = level**2 * np.eye(3)
    else:
        # Of a random matrix with entries in [0, 1) scipy.linalg.orth, which the original calls, gives U of its SVD.
        basis = np.linalg.svd(rng.random((3, 3)))[0]
        covariance = (law.noise[1] / 255) ** 2 * np.abs(basis.T @ np.diag(rng.random(3)) @ basis)
    return add_noise, dict(covariance=covariance, seed=int(rng.integers(2**63)))


def _some_jpeg(rng: np.random.Generator, law: Law) -> Step:
    return jpeg, dict(quality=int(rng.integers(*law.quality, endpoint=True)))


def plan(rng: np.random.Generator, height: int, width: int, factor: int, law: Law) -> list[Step]:
    """The steps that make an image [height, width], both multiples of the factor, into [height / factor, width /
    factor].

    In random order: the blurs, two downsamplings of which the second gives the size, noise, and a JPEG at times; then a
    JPEG.
    """
    steps: list[Step] = []
    if factor == 4 and rng.random() < HALF_FIRST:
        height, width, factor = height // 2, width // 2, 2
        steps.append(_some_resize(rng, height, width) if rng.random() < 0.5 else (halve, {}))
    downsamplings = [
        _first_downsampling(rng, height, width, factor, law),
        _some_resize(rng, height // factor, width // factor),
    ]
    for name in rng.permutation(["blur"] * law.blurs + ["downsampling"] * 2 + ["noise", "jpeg"]):
        if name == "blur":
            steps.append(_some_blur(rng, factor, law))
        elif name == "downsampling":
            steps.append(downsamplings.pop(0))
        elif name == "noise":
            steps.append(_some_noise(rng, law))
        elif rng.random() < JPEG_CHANCE:
            steps.append(_some_jpeg(rng, law))
    return [*steps, _some_jpeg(rng, law)]


def apply(image: np.ndarray, steps: list[Step]) -> np.ndarray:
    """[H, W, 3] float32 in [0, 1] after each step in turn."""
    for step, numbers in steps:
        image = step(image, **numbers)
    return image


# -------------------------------------------------------------------------------------------- what is asked


def _to_float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _cropped(image: np.ndarray, factor: int) -> np.ndarray:
    """The image without what the factor leaves over at the bottom and on the right."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"the image is {image.dtype} of shape {image.shape}, expected uint8 [H, W, 3]")
    height, width = image.shape[:2]
    whole = isinstance(factor, int | np.integer) and not isinstance(factor, bool)
    if not whole or not 1 <= factor <= min(height, width):
        raise ValueError(
            f"factor is {factor!r}, expected an int from 1 to the shorter side of the image, which is "
            f"{height} x {width}"
        )
    return image[: height - height % factor, : width - width % factor]


def _chain(image: np.ndarray, rng: np.random.Generator, factor: int, law: Law) -> np.ndarray:
    image = _cropped(image, factor)
    return _to_uint8(apply(_to_float(image), plan(rng, *image.shape[:2], factor, law)))


def bsrgan(image: np.ndarray, rng: np.random.Generator, *, factor: int = 4) -> np.ndarray:
    """[H, W, 3] uint8 -> [H // factor, W // factor, 3] uint8: two blurs, noise of up to 25 / 255, JPEGs down to quality
    30.

    The rows and columns beyond a multiple of the factor are cut off. Halving first is for a factor of 4 alone.
    Raises: ValueError for another dtype or shape, or a factor that is no int from 1 to the shorter side.
    """
    return _chain(image, rng, factor, BSRGAN)


def bsrgan_light(image: np.ndarray, rng: np.random.Generator, *, factor: int = 4) -> np.ndarray:
    """As `bsrgan`, with one blur a quarter as wide, noise of up to 2 / 255 and JPEGs of at least 80: what the published
    model for super-resolution was trained with (models/ldm/bsr_sr/config.yaml)."""
    return _chain(image, rng, factor, BSRGAN_LIGHT)


def downscale(image: np.ndarray, factor: int, name: str) -> np.ndarray:
    """[H, W, 3] uint8 -> [H // factor, W // factor, 3] uint8, by one of DOWNSCALERS; what is over is cut off.

    pil_*: PIL's filters, which widen as an image shrinks (anti-aliased), except 'nearest'; 'bicubic' is 'pil_bicubic'.
    cv_*: as OpenCV computes them (within 1 of its 8-bit arithmetic), not anti-aliased, except 'cv_area', the mean of
    each block.
    Raises: ValueError for an unknown name, and as `bsrgan`.
    """
    if name not in DOWNSCALERS:
        raise ValueError(f"downscaling {name!r} not found; there are: {', '.join(DOWNSCALERS)}")
    image = _cropped(image, factor)
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if name in PIL_FILTERS:
        return np.array(Image.fromarray(image).resize((width, height), PIL_FILTERS[name]))
    resized = _resized(image.astype(np.float32), height, width, CV_FILTERS[name])
    return np.rint(np.clip(resized, 0, 255)).astype(np.uint8)


def degrade(image: np.ndarray, rng: np.random.Generator, name: str, *, factor: int = 4) -> np.ndarray:
    """[H, W, 3] uint8 -> [H // factor, W // factor, 3] uint8, by one of DEGRADATIONS; only the first two draw from
    `rng`.

    Raises: ValueError for an unknown name, and as `bsrgan`.
    """
    if name not in DEGRADATIONS:
        raise ValueError(f"degradation {name!r} not found; there are: {', '.join(DEGRADATIONS)}")
    chains = {"bsrgan": bsrgan, "bsrgan_light": bsrgan_light}
    return chains[name](image, rng, factor=factor) if name in chains else downscale(image, factor, name)
