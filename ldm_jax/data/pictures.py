"""Picture files of a user: photographs, masks, label maps and depth maps as arrays, and their fitting to a size.

Decides what the pixels of a file mean in each of the four roles, that whatever cannot be read is one sentence that
names the file, and which files of a folder are pictures. Every source decodes with `decode`; colors become RGB in
transforms.to_rgb alone. It knows no model and no task.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ldm_jax import text_files
from ldm_jax.data import transforms

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
OVERVIEW = (
    "overview"  # the text chunk of a PNG that shows other pictures: a grid, or one with boxes drawn over it
)
OVERVIEWS = ("grid.png", "_boxes.png", "_preview.png")  # how the names of such files end
FITS = ("none", "resize", "crop")
ARRAYS = (".npy",)
# Of a picture, as many as it has by its own header, before any of them is decoded: 8192 x 8192, which takes 0.5 GB.
MAX_PIXELS, PIXELS_VARIABLE = 2**26, "LDM_JAX_MAX_PIXELS"
# How Pillow spreads the values of gray PNGs of 2 and 4 bits over 0 to 255, by the name of its unpacker.
_SPREAD = {"L;2": 85, "L;4": 17}
LOSSY = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")  # formats, by Pillow's names, that may change values
_WHOLE = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")


def decode(file: str | Path | BinaryIO) -> np.ndarray:
    """[H, W, 3] uint8 of an encoded picture, as transforms.to_rgb. Raises: what Pillow does for a damaged one, of any
    type."""
    with opened(file) as picture:
        return transforms.to_rgb(picture)


def check_pixels(height: int, width: int, what: str) -> None:
    """Raises: ValueError for more than MAX_PIXELS pixels, or than $LDM_JAX_MAX_PIXELS says."""
    if height * width > _most_pixels():
        raise ValueError(f"{what} is {height} x {width} (height x width), {_too_many()}")


def _most_pixels() -> int:
    said = os.environ.get(PIXELS_VARIABLE, "")
    if said and not said.isdecimal():
        raise ValueError(f"{PIXELS_VARIABLE} is {said!r}, expected a whole number of pixels")
    return int(said or MAX_PIXELS)


def _too_many() -> str:
    return f"expected at most {_most_pixels()} pixels; the environment variable {PIXELS_VARIABLE} sets another limit"


def opened(file: str | Path | BinaryIO) -> Image.Image:
    """The picture, none of whose pixels is decoded yet. Raises: as `check_pixels`, and what Pillow does."""
    if os.environ.get(PIXELS_VARIABLE):
        Image.MAX_IMAGE_PIXELS = (
            _most_pixels()
        )  # Pillow's own limit, of 179 million, which the user has thought of
    try:
        picture = Image.open(file)
    except Image.DecompressionBombError:
        raise ValueError(f"it has more pixels than Pillow's own limit, {_too_many()}") from None
    try:
        check_pixels(picture.height, picture.width, "it")
    except ValueError:
        picture.close()
        raise
    return picture


def shape_of(file: str | Path | BinaryIO) -> tuple[int, int]:
    """(height, width) of an encoded picture as `decode` gives it, by its header alone. Raises: as `opened`."""
    with opened(file) as picture:
        width, height = picture.size
        on_its_side = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return (width, height) if on_its_side else (height, width)


def read_picture(path: str | Path) -> np.ndarray:
    """[H, W, 3] uint8, as a photo program shows it: turned as its EXIF data says, transparency on white, 16 bits
    scaled, palettes, grays and CMYK as RGB (transforms.to_rgb); of an animation, the first frame.

    Raises: ValueError in one sentence for a file that is absent, no image, or damaged.
    """
    return _open(path, "image", transforms.to_rgb)


def read_mask(path: str | Path) -> np.ndarray:
    """[H, W] bool, True where a picture is to be filled in: where the mask is white, at least half as bright as white.

    What is transparent in a mask is not painted, hence kept. A .npy holds booleans or numbers in [0, 1].
    Raises: ValueError as read_picture, or for other numbers.
    """

    def convert(picture: Image.Image) -> np.ndarray:
        if picture.has_transparency_data:
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            picture = Image.alpha_composite(black, picture).convert("RGB")
        return np.asarray(Image.fromarray(transforms.to_rgb(picture)).convert("L")) >= 128

    return as_mask(load_array(path, "mask")) if _is_array(path) else _open(path, "mask", convert)


def as_mask(mask: np.ndarray) -> np.ndarray:
    """[H, W] booleans, or numbers in [0, 1] of which 0.5 and more counts, as bool. Raises: ValueError for others."""
    mask = np.asarray(mask)
    fits = mask.ndim == 2 and (mask.dtype == bool or np.issubdtype(mask.dtype, np.number))
    if not fits or not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(
            f"the mask is {mask.dtype} of shape {mask.shape}, expected (height, width) and values from 0 to 1, "
            "1 where the image is to be filled in"
        )
    return mask >= 0.5


def read_map(path: str | Path) -> np.ndarray:
    """[H, W] int32: the class of each pixel, which is the pixel's value, in a palette picture its index.

    A PNG of 1 to 16 bits or another lossless format, gray or with a palette, or a .npy of integers.
    Raises: ValueError as read_picture, for formats that change values (LOSSY), for colors, which are no classes, and
    for numbers that int32 does not hold.
    """

    def convert(picture: Image.Image) -> np.ndarray:
        if picture.format in LOSSY:
            raise ValueError(f"its format is {picture.format}, which changes pixels, expected a PNG or .npy")
        return _values(picture, "class")

    values = load_array(path, "map") if _is_array(path) else _open(path, "map", convert)
    if values.ndim != 2 or not (values.dtype == bool or np.issubdtype(values.dtype, np.integer)):
        raise ValueError(
            f"map {path}: got {values.dtype} of shape {values.shape}, expected integers (height, width)"
        )
    limits = np.iinfo(np.int32)
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise ValueError(f"map {path}: got {values.min()} to {values.max()}, expected numbers of classes")
    return values.astype(np.int32)


def read_depth(path: str | Path) -> np.ndarray:
    """[H, W] float32, in the file's own unit: a gray picture of 8 or 16 bits or of floating point, or a .npy.

    Raises: ValueError as read_picture, or for colors, or a palette, whose indices are no depths.
    """

    def convert(picture: Image.Image) -> np.ndarray:
        if picture.mode == "P":
            raise ValueError("it has a palette, whose indices are no depths, expected gray")
        return _values(picture, "depth").astype(np.float32)

    return load_array(path, "depth map") if _is_array(path) else _open(path, "depth map", convert)


def fit(picture: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
    """A picture [H, W, 3] uint8, or mask, map or depth [H, W], as [height, width, …].

    how: 'resize' stretches it, 'crop' takes the largest piece of that shape in the middle first, 'none' leaves it.
    Pictures are resized by Lanczos' filter, the others by the nearest pixel. Raises: ValueError for another `how`.
    """
    if how not in FITS:
        raise ValueError(f"fit {how!r} not found; there are: {', '.join(FITS)}")
    if how == "none":
        return picture
    rows, columns = picture.shape[:2]
    if how == "crop":
        tall, wide = min(rows, columns * height / width), min(columns, rows * width / height)
        tall, wide = max(1, round(tall)), max(1, round(wide))
        top, left = (rows - tall) // 2, (columns - wide) // 2
        picture, rows, columns = picture[top : top + tall, left : left + wide], tall, wide
    if picture.ndim == 3:
        return transforms.resize(np.ascontiguousarray(picture), height, width, "lanczos")
    nearest = [
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in ((height, rows), (width, columns))
    ]
    return picture[np.ix_(*nearest)]


def files_in(folder: str | Path, suffixes: tuple[str, ...] = (*EXTENSIONS, *ARRAYS)) -> list[Path]:
    """The files of a folder with one of these suffixes, sorted by name; hidden ones, overviews and sub-folders are left
    out.

    Raises: ValueError for a folder without one.
    """
    found = [f for f in Path(folder).iterdir() if f.suffix.lower() in suffixes and f.is_file()]
    found = sorted(
        (f for f in found if not f.name.startswith(".") and not is_overview(f)), key=lambda f: f.name
    )
    if not found:
        raise ValueError(f"folder {str(folder)!r} holds no files {', '.join(suffixes)}")
    return found


def is_overview(file: Path) -> bool:
    """Whether a file is what sampling writes beside its pictures, which shows them once more: a grid, or one with
    boxes.

    It goes by the name, and by a text chunk, OVERVIEW or, of files that have none yet, the `seeds` that only a grid
    has.
    """
    if not file.name.endswith(OVERVIEWS):
        return False
    try:
        with Image.open(file) as picture:
            return not {OVERVIEW, "seeds"}.isdisjoint(picture.info)
    except Exception:  # noqa: BLE001 - damaged: left in, so that reading it says so
        return False


def _open(path: str | Path, what: str, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    _check_there(path, what)
    try:
        with opened(path) as picture:
            return convert(picture)
    except Image.UnidentifiedImageError:
        raise ValueError(f"{what} {path} is no image that Pillow knows") from None
    except Exception as error:  # noqa: BLE001 - a damaged file makes decoders raise nearly anything
        raise ValueError(f"{what} {path} cannot be read: {error}") from error


def load_array(path: str | Path, what: str) -> np.ndarray:
    """The array of a .npy file. what: its role, for messages. Raises: ValueError if it is absent or no array of real
    numbers, and for a file that is shorter than it says, of which nothing is read."""
    _check_there(path, what)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        if mapped.dtype.kind not in "biuf" or mapped.dtype.hasobject:
            raise ValueError(f"it holds {text_files.cut(mapped.dtype)}")
        return np.array(mapped, mapped.dtype.newbyteorder("="))
    except Exception as error:  # noqa: BLE001 - the header of a damaged file makes numpy raise nearly anything
        raise ValueError(
            f"{what} {path} cannot be read as a .npy of numbers: {text_files.cut(error)}"
        ) from None


def _check_there(path: str | Path, what: str) -> None:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return
        kind = "is a folder, expected a file" if Path(path).is_dir() else "is no file"
    except FileNotFoundError:
        kind = "is not there"
    except (OSError, ValueError) as error:  # a name that is too long, or with a NUL in it
        kind = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ValueError(f"{what} {text_files.cut_path(path)} {kind}")


def _is_array(path: str | Path) -> bool:
    return Path(path).suffix.lower() in ARRAYS


def _values(picture: Image.Image, what: str) -> np.ndarray:
    """[H, W]: one number a pixel. Of a gray picture that was saved with colors or opacity, the one that it had."""
    spread = _SPREAD.get(picture.tile[0][3], 1) if picture.tile and picture.mode == "L" else 1
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in _WHOLE or picture.mode == "F":
        return np.asarray(picture) // spread if spread > 1 else np.asarray(picture)
    if picture.mode not in ("LA", "RGB", "RGBA"):
        raise ValueError(f"its pixels are {picture.mode}, expected one {what} a pixel")
    channels = np.asarray(picture)
    if picture.mode in ("LA", "RGBA") and not (channels[..., -1] == 255).all():
        raise ValueError(f"it is transparent in places, expected one {what} a pixel")
    colors = channels[..., : 1 if picture.mode == "LA" else 3]
    if (colors != colors[..., :1]).any():
        raise ValueError(f"it has colors, expected one {what} a pixel: gray or a palette")
    return colors[..., 0]
