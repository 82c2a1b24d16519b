"""The source `scene`: one picture of several things, and for each a mask and a word.

Decides how the things are put into words: example i is of one subset of them, and its caption names these alone.

    root/img.jpg, root/mask0.png, root/mask1.png, …      bright where thing i is

Source: Avrahami et al. 2023, Break-A-Scene (arXiv:2305.16311), section 3.2, union sampling; the files are those of
google/break-a-scene@135cd4a, which draws the number of things first and then which: here each subset is as likely.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.data import pictures

SPLITS = ("train", "test")
PICTURE, MASK = "img", "mask{}"


class SceneSource:
    """Random access to the 2^N - 1 subsets of N things in one picture, image [side, side, 3] uint8.

    masks: [N, side, side] float32 in [0, 1]. words: N. template: with '{}' where the words of a subset go.
    """

    def __init__(self, image: np.ndarray, masks: np.ndarray, words: Sequence[str], template: str, about: str):
        self._image, self._masks, self._words, self._template = image, masks, tuple(words), template
        self._about = about

    def __len__(self) -> int:
        return 2 ** len(self._words) - 1

    def __repr__(self) -> str:
        return f"scene({self._about!r}, {len(self._words)} things)"

    def __getitem__(self, index: int) -> dict:
        """The picture and a caption of subset `index`, in order. Raises: IndexError outside [0, len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {self!r}, expected 0 <= index < {len(self)}")
        return {"image": self._image, "caption": self._said(self._subset(index))[0]}

    def described(self, index: int, rng: np.random.Generator) -> tuple[str, list]:
        """A caption of subset `index` in any order, and (start, end, mask) of each word of it, and (0, 0, mask) of each
        thing that it does not name.
        """
        named = self._subset(index)
        caption, phrases = self._said(rng.permutation(named))
        return caption, phrases + [(0, 0, mask) for i, mask in enumerate(self._masks) if i not in named]

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """That of `described`."""
        return self.described(index, rng)[0]

    def _subset(self, index: int) -> list[int]:
        return [i for i in range(len(self._words)) if (index + 1) >> i & 1]

    def _said(self, things: Sequence[int]) -> tuple[str, list]:
        before, _, after = self._template.partition("{}")
        caption, phrases = before, []
        for number, i in enumerate(things):
            caption += " and " * (number > 0)
            phrases.append((len(caption), len(caption) + len(self._words[i]), self._masks[i]))
            caption += self._words[i]
        return caption + after, phrases

    def fingerprint(self) -> str:
        """Hex digest of the pixels, the masks and the words."""
        digest = hashlib.sha256(json.dumps([*self._words, self._template]).encode())
        digest.update(self._image.tobytes() + self._masks.tobytes())
        return digest.hexdigest()


def check_split(split: str) -> None:
    """Raises: ValueError for a split that no source has."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of a scene not found; there are: {', '.join(SPLITS)}")


def source(
    split: str, *, root: str | Path, words: Sequence[str], template: str = "a photo of {}", side: int = 512
) -> SceneSource:
    """The things of the picture in a folder. split: 'train'; the picture is the same in each.

    words: of the masks, in their order. side: in pixels; the picture's middle square is brought to it, and the masks.
    Raises: FileNotFoundError for a picture or a mask that is missing; ValueError for words that are not as many as the
    masks or not different, a template without one place for them, and for a mask that is empty, or of another size than
    the picture.
    """
    check_split(split)
    folder = Path(root).expanduser()
    if template.count("{}") != 1 or not words or len(set(words)) != len(words):
        raise ValueError(
            f"scene: got the words {list(words)} and the template {template!r}, expected different words and one {{}}"
        )
    picture = pictures.decode(_file(folder, PICTURE))
    masks = []
    for i, word in enumerate(words):
        with Image.open(_file(folder, MASK.format(i))) as opened:
            mask = np.asarray(opened.convert("L"))
        if mask.shape != picture.shape[:2]:
            raise ValueError(
                f"scene: {MASK.format(i)} of {folder} is {mask.shape}, expected {picture.shape[:2]}"
            )
        masks.append(np.asarray(_square(Image.fromarray(mask), side), np.float32) / 255)
        if not masks[-1].any():
            raise ValueError(
                f"scene: {MASK.format(i)} of {folder} covers nothing, expected the place of {word!r}"
            )
    further = next(folder.glob(MASK.format(len(words)) + ".*"), None)
    if further:
        raise ValueError(f"scene: {further} has no word; there are {len(words)}: {', '.join(words)}")
    image = np.asarray(_square(Image.fromarray(picture), side))
    return SceneSource(image, np.stack(masks), words, template, str(folder))


def _file(folder: Path, name: str) -> Path:
    found = sorted(file for file in folder.glob(f"{name}.*") if file.suffix.lower() in pictures.EXTENSIONS)
    if not found:
        raise FileNotFoundError(f"scene: no picture {name}.* in {folder}")
    return found[0]


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture, side x side pixels."""
    width, height = picture.size
    least = min(width, height)
    left, top = (width - least) // 2, (height - least) // 2
    return picture.resize((side, side), Image.Resampling.BOX, (left, top, left + least, top + least))
