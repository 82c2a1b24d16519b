"""Pictures for adapters that follow one, as the command line and a line of a list say them.

Decides the spelling, and which of the model's conditions a picture becomes by the adapter that it is for. It reads no
adapter.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.data import pictures
from ldm_jax.text_files import shown

# Ways of personalization that take a picture: the names of the pictures, how much each counts, and when.
KINDS = {
    "controlnet": ("hints", "hint_scales", "hint_starts", "hint_stops"),
    "t2i_adapter": ("adapter_hints", "adapter_hint_scales", "adapter_hint_starts", "adapter_hint_stops"),
    "ip_adapter": ("image_embeddings", "image_scales"),
}
SPELLING = "ADAPTER:IMAGE[:WEIGHT[:START:STOP]]"
FIELDS = ("image", "weight", "start", "stop")


class Control(NamedTuple):
    """A picture for one adapter.

    image: its file, or for an IP-Adapter a .npy of its embedding; or the array. weight: how much it counts. start,
    stop: shares of the steps, from which and to which it does.
    """

    image: Any
    weight: float = 1.0
    start: float = 0.0
    stop: float = 1.0


def parse(text: str) -> tuple[str, Control]:
    """'ADAPTER:IMAGE[:WEIGHT[:START:STOP]]' -> (adapter, Control). Raises: ValueError for another spelling."""
    parts, numbers = text.split(":"), []
    while len(numbers) < 3 and len(parts) > 2 and _number(parts[-1]) is not None:
        numbers.insert(0, _number(parts.pop()))
    if len(parts) != 2 or not all(parts) or len(numbers) == 2:
        raise ValueError(
            f"--control {shown(text)}: expected {SPELLING}, such as runs/outlines:circle.png:0.8:0:0.6"
        )
    return parts[0], _checked(Control(parts[1], *numbers), f"--control {shown(text)}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _checked(control: Control, what: str) -> Control:
    for name, value in zip(FIELDS[1:], control[1:], strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise ValueError(f"{what}: {name} is {shown(value)}, expected a finite number")
    if not 0 <= control.start < control.stop <= 1:
        raise ValueError(
            f"{what}: it counts from {control.start:g} to {control.stop:g}, expected 0 <= start < stop <= 1"
        )
    return control


def of_field(value: Any, folder: Path | None = None) -> tuple[Control, ...]:
    """The field `control` of a job: a list, in the order of the adapters, of files, arrays, or {'image', 'weight',
    'start', 'stop'}. folder: paths are relative to it. Raises: ValueError for another form.
    """
    if not isinstance(value, list | tuple) or not value or isinstance(value, Control):
        raise ValueError(f"control is {shown(value)}, expected a list of pictures, one for each adapter")
    found = []
    for one in value:
        if isinstance(one, Mapping):
            strange = [name for name in one if name not in FIELDS]
            if strange or "image" not in one:
                raise ValueError(
                    f"control is {shown(one)}, expected {{{', '.join(FIELDS)}}}, of which image is needed"
                )
            one = Control(**one)
        control = one if isinstance(one, Control) else Control(one)
        if isinstance(control.image, str | Path):
            if not str(control.image) or "\0" in str(control.image):
                raise ValueError(f"control is {shown(one)}, expected a file")
            control = control._replace(image=str((folder or Path()) / control.image))
        elif not isinstance(control.image, np.ndarray):
            raise ValueError(f"control: image is {shown(control.image)}, expected a file")
        found.append(_checked(control, "control"))
    return tuple(found)


def conditions(
    kinds: Sequence[str], given: Sequence[Control], shape: tuple[int, int], embed: Callable | None
) -> dict[str, Any]:
    """{name: value of one picture to draw}. kinds: of the model's adapters that take a picture, in order. shape: (H, W)
    of the picture that is drawn, to which the given ones are resized. embed: picture [H, W, 3] uint8 -> [D].

    Raises: ValueError for another number of pictures than of adapters, and for what is no picture.
    """
    if len(given) != len(kinds):
        names = f" ({', '.join(kinds)})" if kinds else ""
        raise ValueError(
            f"control: got {len(given)} pictures, expected {len(kinds)}, one for each adapter that takes one{names}"
        )
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(kinds):
        own = [control for name, control in zip(kinds, given, strict=True) if name == kind]
        names = KINDS[kind]
        if kind == "ip_adapter":
            (control,) = own
            if (control.start, control.stop) != (0, 1):
                raise ValueError("control: an IP-Adapter counts in all steps, got a start and a stop")
            found |= {names[0]: _embedding(control.image, embed), names[1]: control.weight}
            continue
        columns = zip(*(control[1:] for control in own), strict=True)
        found |= {name: list(column) for name, column in zip(names[1:], columns, strict=True)}
        found[names[0]] = np.stack([_picture(control.image, shape) for control in own])
    return found


def _picture(image: Any, shape: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] float32 in [0, 1]."""
    image = pictures.read_picture(image) if isinstance(image, str) else np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(
            f"control: the picture is {image.dtype} of shape {image.shape}, expected uint8 (height, width, 3)"
        )
    return pictures.fit(image, *shape, "resize").astype(np.float32) / 255


def _embedding(image: Any, embed: Callable | None) -> np.ndarray:
    """[D] float32 of an embedding, or of a picture."""
    if isinstance(image, str) and not image.endswith(".npy"):
        if embed is None:
            raise ValueError(
                f"control {image}: an IP-Adapter takes the embedding of a picture, expected a .npy, or its CLIP in "
                "--image_encoder"
            )
        return np.asarray(embed(pictures.read_picture(image)), np.float32)
    array = pictures.load_array(image, "control") if isinstance(image, str) else np.asarray(image)
    if array.size != max(array.shape, default=0):
        raise ValueError(f"control: the embedding has shape {array.shape}, expected numbers in a row")
    return np.asarray(array, np.float32).ravel()
