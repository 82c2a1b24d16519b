"""The three ways in which the field brings images to a measuring network's size, and to its range.

FID of the same images differs by points between them (Parmar et al. 2022, arXiv:2104.11222), so that a statistics
file names the one that it was made with. Pixels are 0..255 floats here, and are never rounded again.
    tf1      TensorFlow 1's bilinear inside the graph: FID as first published, torch-fidelity, guided-diffusion, LDM
    clean    Pillow's bicubic, which widens when it shrinks, each channel in float32: clean-fid
    pytorch  torch's interpolate, bilinear, align_corners=False, not widened: pytorch-fid
The first and third are pure functions of numpy or jax arrays, the second is Pillow's and runs on the host.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image


def _lerp(x, places: np.ndarray, axis: int):
    """x at fractional `places` of an axis, clamped to its ends, in float32."""
    size = x.shape[axis]
    low = np.clip(np.floor(places).astype(np.int32), 0, size - 1)
    high = np.minimum(low + 1, size - 1)
    weight = (places - low).astype(np.float32)
    weight = weight.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    below, above = x.take(low, axis), x.take(high, axis)
    return below + (above - below) * weight


def _bilinear(x, size: int, center: float):
    """x [..., H, W, C] of any numbers -> [..., size, size, C] float32. Pixel i of the result lies at
    (i + center) * H / size - center of the source, where nothing lies left of its first pixel."""
    x = x.astype(np.float32)
    for axis in (-2, -3):
        # places are float32, because the graphs of both libraries compute them so
        scale = np.float32(x.shape[axis] / size)
        places = (np.arange(size, dtype=np.float32) + np.float32(center)) * scale - np.float32(center)
        x = _lerp(x, np.maximum(places, np.float32(0)), axis)
    return x


def tf1_bilinear(x, size: int):
    """tf.image.resize_bilinear of TensorFlow 1, align_corners=False: pixel i lies at i * H / size, not centered.

    x [..., H, W, C] uint8 or float, numpy or jax -> [..., size, size, C] float32.
    """
    return _bilinear(x, size, 0.0)


def pytorch_bilinear(x, size: int):
    """torch.nn.functional.interpolate(mode='bilinear', align_corners=False, antialias=False).

    x [..., H, W, C] uint8 or float, numpy or jax -> [..., size, size, C] float32.
    """
    return _bilinear(x, size, 0.5)


def clean_bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """Pillow's bicubic of each channel in mode F, clipped to 0..255: image [H, W, C] uint8 -> [size, size, C]
    float32."""
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1).clip(0.0, 255.0)


class Convention(NamedTuple):
    """on_device: (pixels [B, H, W, 3], size) -> [B, size, size, 3] float32, numpy or jax; on_host: (image
    [H, W, 3] uint8, size) -> [size, size, 3] float32; one of them is None. The network sees
    (pixels - shift) / shift."""

    on_device: Callable | None
    on_host: Callable[[np.ndarray, int], np.ndarray] | None
    shift: float


# pytorch-fid gives its network 2 x / 255 - 1, the graph itself subtracts and divides by 128.
CONVENTIONS = {
    "tf1": Convention(tf1_bilinear, None, 128.0),
    "clean": Convention(None, clean_bicubic, 128.0),
    "pytorch": Convention(pytorch_bilinear, None, 127.5),
}


def convention(name: str) -> Convention:
    """Raises: ValueError for an unknown convention; it lists the known ones."""
    if name not in CONVENTIONS:
        raise ValueError(f"resize {name!r} not found; there are: {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
