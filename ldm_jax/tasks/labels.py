"""Class labels and layouts as people write them: by number or by a name of the model's config, mixed, in a JSON file.

Decides how names become numbers. What a label or a box may be, the kind of conditioning checks itself.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import text_files
from ldm_jax.conditioning import layout as layout_conditioning
from ldm_jax.text_files import shown

log = logging.getLogger(__name__)


def class_label(value: Any, names: Sequence[str] | None = None) -> Any:
    """An int, or a mixture {int: weight} of several classes.

    value: a number, a name (`number`), 'red circle:0.5,blue square:0.5', or a mapping {number or name: weight}; weights
    of one class are
    summed. names: of all classes, in the order of their numbers.
    Raises: ValueError for an unknown name or a weight that is no number.
    """
    mixture: dict[int, float] = {}
    if isinstance(value, Mapping):
        for name, weight in value.items():
            try:
                share = float(weight)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"class_label: {shown(name)} has the weight {shown(weight)}, expected a number"
                ) from None
            label = number(name, names)
            mixture[label] = mixture.get(label, 0.0) + share
        return mixture
    known = [name.lower() for name in names or ()]
    if not isinstance(value, str) or value.strip().lower() in known or not set(value) & {",", ":"}:
        return number(value, names)
    for part in value.split(","):
        name, colon, weight = part.rpartition(":")
        try:
            label, share = number(name if colon else weight, names), float(weight) if colon else 1.0
        except ValueError as error:
            raise ValueError(
                f"class_label {shown(value)}: {error}; a mixture is written class:weight,class:weight"
            ) from None
        mixture[label] = mixture.get(label, 0.0) + share
    return mixture


def number(value: Any, names: Sequence[str] | None = None) -> Any:
    """The number of a class that is given by its name or by its number, as text or as an integer; anything else as it
    is.

    Where all names are numbers themselves, as those of folders 1, 2 and 10, whose classes are 0, 2 and 1 in the order
    of their spelling, 10 is the class of that name, whether a command line or JSON says it.
    Raises: ValueError for an unknown name.
    """
    names = list(names or ())
    known = [name.lower() for name in names]
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and names and all(name.isdigit() for name in known):
        value = next((name for name in known if int(name) == value), str(value))
    if not isinstance(value, str):
        return value
    text = " ".join(value.split()).lower()
    if text in known:
        return known.index(text)
    if text.isdigit() and not (names and all(name.isdigit() for name in known)):
        return int(text)
    if not names:
        raise ValueError(
            f"class {shown(value)} is no number, and this model's config names no classes (class_names)"
        )
    near = difflib.get_close_matches(text[:100], known, 3, 0.0)
    raise ValueError(
        f"class {shown(value)} not found among the {len(names)} of this model, such as "
        f"{', '.join(repr(names[known.index(name)]) for name in near)}"
    )


def layout(value: Any, names: Sequence[str] | None = None) -> Any:
    """A layout (conditioning/layout.py) whose labels are numbers.

    value: the path of a JSON file, the dict that is in one, or tokens, which stay. Raises: ValueError for a file that
    is absent or no JSON object, or an unknown name.
    """
    if isinstance(value, str | Path):
        value = text_files.read_object(value, "layout")
    if not isinstance(value, Mapping) or not isinstance(value.get("labels"), list | tuple):
        return value
    return dict(value, labels=[number(label, names) for label in value["labels"]])


def regions(value: Any) -> Any:
    """Regions (conditioning/spatext.py). value: the list of them, or the path of a JSON file {"regions": the list}.
    Raises: ValueError for a file that is absent or something else."""
    if isinstance(value, str | Path):
        value = text_files.read_object(value, "regions", {"regions": list})
    return value["regions"] if isinstance(value, Mapping) and "regions" in value else value


def _conditioner(system: Any) -> Any:
    return next((part.conditioner for part in system.parts if "layouts" in part.kind.TAKES), None)


def told(system: Any, value: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """The layout that a model sees for `value`, as a dict: without objects beyond its capacity, and tokens decoded.

    Raises: ValueError like `layout`, and for tokens that encode no layout or an empty crop.
    """
    value = within_room(system, layout(value, names), names, where=None)
    if isinstance(value, Mapping):
        return dict(value)
    conditioner = _conditioner(system)
    if not isinstance(conditioner, layout_conditioning.Conditioner):  # it reads no tokens
        layout_conditioning.read(value, conditioner.num_classes)
    sizes = {name: getattr(conditioner, name) for name in ("vocab_size", "max_length", "num_classes")}
    value = layout_conditioning.objects(value, **sizes)
    if min(value["crop"][2:]) <= 0:
        raise ValueError(f"layout: crop is {value['crop']}, expected w and h above 0")
    return value


def within_room(system: Any, value: Any, names: Sequence[str] | None, where: str | None) -> Any:
    """The layout with as many objects as the model has room for, the first ones; the log names those left out of
    `where`, unless that is None."""
    conditioner, boxes = _conditioner(system), value.get("boxes") if isinstance(value, Mapping) else None
    if conditioner is None or not isinstance(boxes, list | tuple):
        return value
    count = len(boxes)
    room = conditioner.room
    each = {
        key: given for key, given in value.items() if isinstance(given, list | tuple) and len(given) == count
    }
    if count <= room or "labels" not in each:
        return value

    def called(i: int) -> str:
        label = value["labels"][i]
        named = names and isinstance(label, int) and 0 <= label < len(names)
        return f"{i} ({names[label] if named else label})"

    if where is not None:
        dropped = ", ".join(called(i) for i in range(room, count))
        log.warning("%s: %d objects, this model has room for %d; left out: %s", where, count, room, dropped)
    return dict(value) | {key: list(given)[:room] for key, given in each.items() if key != "crop"}
