"""Makes tests/corpus/pictures/, and says what each of them shows. Pillow 13.0.0 made those that are committed.

    python -m tests.corpus.make_pictures

Each is a valid file of a kind that readers get wrong: palettes, one bit, 16 bits, CMYK, a picture on its side, several
frames.
"""

import pathlib

import numpy as np
from PIL import Image

FOLDER = pathlib.Path(__file__).parent / "pictures"
COLORS = np.array(
    [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (0, 0, 0), (128, 128, 128)]], np.uint8
)
BLOCKS = np.kron(COLORS, np.ones((8, 8, 1), np.uint8))  # [16, 24, 3], of 8 x 8 pixels, which JPEG keeps
NUMBERS = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8), int)).astype(np.uint8)  # which block it is
CHECKS = np.indices((16, 24)).sum(0) % 2 == 0
RAMP = np.linspace(0, 65535, 16 * 24).round().astype(np.uint16).reshape(16, 24)


def _gray(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.uint8)[..., None], 3, -1)


def _clear(color: tuple[int, int, int]) -> np.ndarray:
    """BLOCKS with white in the place of a color."""
    return np.where((BLOCKS == color).all(-1, keepdims=True), 255, BLOCKS).astype(np.uint8)


# What a photo program shows: [16, 24, 3] uint8, None where the file does not say what is white.
SHOWN = {
    "palette.png": BLOCKS,
    "palette_transparent.png": _clear((0, 0, 255)),  # on white
    "one_bit.png": _gray(255 * CHECKS),
    "grey16.png": _gray(np.rint(RAMP / 257.0)),
    "grey16.tif": _gray(np.rint(RAMP / 257.0)),
    "opacity.png": _clear((255, 0, 0)),
    "cmyk.jpg": BLOCKS,
    "sideways.jpg": BLOCKS,
    "animated.gif": BLOCKS,  # the first frame
    "grey32.tif": None,
    "float.tif": None,
}


def _cmyk() -> np.ndarray:
    """[16, 24, 4]: what is not red, green and blue, without black."""
    return np.concatenate([255 - BLOCKS, np.zeros_like(BLOCKS[..., :1])], -1)


def make(folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)

    def save(name: str, picture: Image.Image, **options) -> None:
        picture.save(folder / name, **options)

    palette = Image.fromarray(NUMBERS)
    palette.putpalette(COLORS.reshape(-1).tolist())
    save("palette.png", palette)
    save("palette_transparent.png", palette, transparency=2)
    save("one_bit.png", Image.fromarray(CHECKS))
    save("grey16.png", Image.fromarray(RAMP))
    save("grey16.tif", Image.fromarray(RAMP))
    opaque = 255 * (NUMBERS > 0)[..., None]
    save("opacity.png", Image.fromarray(np.concatenate([BLOCKS, opaque], -1).astype(np.uint8)))
    exact = dict(quality=100, subsampling=0)
    save("cmyk.jpg", Image.frombytes("CMYK", (24, 16), _cmyk().tobytes()), **exact)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    save("sideways.jpg", Image.fromarray(np.rot90(BLOCKS).copy()), exif=exif, **exact)
    frames = [Image.fromarray(BLOCKS), Image.fromarray(255 - BLOCKS)]
    save("animated.gif", frames[0], save_all=True, append_images=frames[1:], duration=100)
    save("grey32.tif", Image.fromarray(NUMBERS.astype(np.int32) * 50))
    save("float.tif", Image.fromarray(NUMBERS.astype(np.float32) / 5))


if __name__ == "__main__":
    make(FOLDER)
