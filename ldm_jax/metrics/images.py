"""Where the images come from that are measured: a folder, a list of files, an array, an .npz of samples.

Decides what counts as an image that can be measured without a choice that moves the numbers: eight bits, opaque, all
of one size or cut to one. Gray, palette and CMYK pictures become RGB, as every tool of the field does it; what is
transparent or has 16 bits is refused by name, unless one asks for what a photo program shows. It knows no network.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ldm_jax.data import listing, pictures, transforms
from ldm_jax.data.pictures import EXTENSIONS

COLORS = {
    "strict": "RGB of 8 bits, opaque, EXIF orientation applied",
    "photo": "RGB of 8 bits, transparency on white, 16 bits scaled, EXIF orientation applied",
}
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "La", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
_ORIENTATION = 0x0112  # EXIF


class Images(Protocol):
    """What is measured: len(), images [H, W, 3] uint8 of one size by index, their names, and what they are."""

    crop: str
    color: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...

    def name(self, index: int) -> str: ...

    def fingerprint(self) -> str: ...


class ArrayImages:
    """Images [N, H, W, 3] uint8 that are in memory, or mapped. names: of each; None numbers them.

    Raises: ValueError for other arrays, or none.
    """

    crop = "none"
    color = COLORS["strict"]

    def __init__(self, array: np.ndarray, names: Sequence[str] | None = None):
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"images are {array.dtype} {array.shape}, expected uint8 [N, H, W, 3]")
        if not len(array):
            raise ValueError("the array holds no images, expected at least one")
        self._array, self._names = array, names

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self._array[index])

    def name(self, index: int) -> str:
        return self._names[index] if self._names is not None else f"image {index}"

    def fingerprint(self) -> str:
        """Hex digest of shape and pixels."""
        digest = hashlib.sha256(str(self._array.shape).encode())
        for image in self._array:
            digest.update(np.ascontiguousarray(image))
        return digest.hexdigest()


class FileImages:
    """Image files. crop: None leaves them as they are, then all must be of one size; a number takes the largest square
    in the middle and resizes it to that many pixels with Pillow's bicubic, as the original cuts LSUN
    (CompVis/latent-diffusion@a506df5 ldm/data/lsun.py). color: one of COLORS.

    Raises: ValueError for no files, for files of several sizes, and for those that cannot be opened, the first three
    named. An image that proves damaged when its pixels are read raises then, and is named.
    """

    def __init__(self, files: Sequence[str | Path], crop: int | None = None, color: str = "strict"):
        if color not in COLORS:
            raise ValueError(f"color {color!r} not found; there are: {', '.join(COLORS)}")
        if crop is not None and crop < 1:
            raise ValueError(f"crop is {crop}, expected a size of at least 1 pixel, or none")
        if not files:
            raise ValueError("the list of files is empty, expected at least one image")
        self.files = [Path(file) for file in files]
        self.crop = "none" if crop is None else f"center square, Pillow bicubic to {crop}"
        self.color, self._size, self._convert_all = COLORS[color], crop, color == "photo"
        self._check_headers()

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def _check_headers(self) -> None:
        sizes, unreadable = {}, []
        for file in self.files:
            try:
                sizes.setdefault(_upright_size(file), file)
            except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
                unreadable.append(f"{file} ({error})")
        if unreadable:
            raise ValueError(
                f"{len(unreadable)} of {len(self.files)} images cannot be opened: {'; '.join(unreadable[:3])}"
            )
        if self._size is None and len(sizes) > 1:
            first = [f"{w} x {h} ({file})" for (w, h), file in list(sizes.items())[:2]]
            raise ValueError(
                f"images of {len(sizes)} sizes, such as {' and '.join(first)}, expected one; a crop makes them equal"
            )

    def __getitem__(self, index: int) -> np.ndarray:
        """Raises: ValueError that names the file, if it cannot be read or would need a choice."""
        file = self.files[index]
        try:
            with pictures.opened(file) as picture:
                reason = None if self._convert_all else _needs_a_choice(picture)
                image = None if reason else transforms.to_rgb(picture)
        except Exception as error:  # noqa: BLE001
            raise ValueError(f"image {file} cannot be read: {error}") from error
        if reason:
            raise ValueError(f"image {file} {reason}, expected opaque 8 bits, or color 'photo' to convert it")
        if self._size is None:
            return image
        return transforms.resize(transforms.center_crop_square(image), self._size, self._size, "bicubic")

    def fingerprint(self) -> str:
        """Hex digest of the files' names and sizes in bytes, in order (pixels are not read)."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()


def _upright_size(file: Path) -> tuple[int, int]:
    """Width and height as the picture is shown."""
    with pictures.opened(file) as picture:
        width, height = picture.size
        # asked for the EXIF data of a PNG that has none in its header, Pillow would read all the pixels
        stated = "exif" in picture.info or picture.format == "TIFF"
        lies = stated and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if lies else (width, height)


def _needs_a_choice(picture: Image.Image) -> str | None:
    """Why a picture is not plainly 8-bit RGB, or None."""
    if picture.mode not in _EIGHT_BITS:
        return f"has more than 8 bits a channel (mode {picture.mode})"
    if picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255:
        return "is transparent in places"
    return None


def open_images(
    where: str | Path | Sequence[str | Path], crop: int | None = None, color: str = "strict"
) -> FileImages | ArrayImages:
    """The images of a folder (as listing.files_below: at any depth, without hidden ones, and the grid of sample.py),
    of a list of files, or of an .npz with the array arr_0 [N, H, W, 3] uint8, the form that guided-diffusion's
    evaluator takes samples in.

    Raises: ValueError for a folder without images, a place that is not there, and what FileImages refuses.
    """
    if not isinstance(where, str | Path):
        return FileImages(where, crop, color)
    where = Path(where).expanduser()
    if where.suffix == ".npz" and where.is_file():
        return _sample_batch(where, crop)
    if not where.is_dir():
        kind = "is a file" if where.exists() else "is not there"
        raise ValueError(f"images {str(where)!r}: {kind}, expected a folder of images or an .npz with arr_0")
    files = listing.files_below(where)
    if not files:
        raise ValueError(f"folder {str(where)!r} holds no images ({', '.join(EXTENSIONS)})")
    return FileImages(files, crop, color)


def _sample_batch(path: Path, crop: int | None) -> ArrayImages:
    if crop is not None:
        raise ValueError(
            f"images {str(path)!r}: crop {crop} of an .npz, expected none: its images have one size"
        )
    with np.load(path, allow_pickle=False) as arrays:
        if "arr_0" not in arrays:
            raise ValueError(f"{path} has {', '.join(arrays) or 'nothing'}, expected the images in arr_0")
        return ArrayImages(arrays["arr_0"])
