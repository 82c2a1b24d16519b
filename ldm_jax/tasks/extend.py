"""Outpainting: a picture with room around it, and the mask that says that the room is to be filled in.

Decides what stands in the room until it is: the picture's border, drawn out. It knows no model.
"""

from typing import Any

import numpy as np


def margins(value: Any) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of '16,0,16,0' or of four numbers.

    Raises: ValueError for anything else, negative numbers, and no room at all.
    """
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = tuple(int(part) for part in parts)
        whole = all(isinstance(part, str) or part == int(part) for part in parts)
    except (TypeError, ValueError):
        found, whole = (), False
    if not whole or len(found) != 4 or min(found) < 0 or not any(found):
        raise ValueError(
            f"extend is {value!r}, expected left,top,right,bottom in pixels, such as 16,0,16,0, not all 0"
        )
    return found


def extended(image: np.ndarray, mask: np.ndarray | None, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """(image [H', W', 3] uint8 with room around it, mask [H', W'] bool, true in the room and where mask [H, W] is).

    value: of `margins`. Raises: ValueError as `margins`.
    """
    left, top, right, bottom = margins(value)
    around = (top, bottom), (left, right)
    inner = np.zeros(image.shape[:2], bool) if mask is None else mask
    return np.pad(image, (*around, (0, 0)), mode="edge"), np.pad(inner, around, constant_values=True)
