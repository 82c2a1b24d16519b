"""Runs tasks: turns the fields of jobs into arguments of LatentDiffusion.sample and draws the jobs in batches.

Decides which tasks a model supports, which fields each needs, the size of the pictures, and that a failing job does not
stop the others. tasks/jobs.py collects the jobs, data/pictures.py reads their files, tasks/labels.py reads classes and
layouts. Sources of the tasks: Rombach et al. 2022 (arXiv:2112.10752) section 4; image-to-image:
SDEdit (Meng et al. 2022, arXiv:2108.01073) as in CompVis/stable-diffusion scripts/img2img.py, with its default
strength.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ldm_jax import text_files
from ldm_jax.conditioning import emphasis
from ldm_jax.data import pictures, transforms
from ldm_jax.device_errors import is_of_devices
from ldm_jax.tasks import controls, extend, labels
from ldm_jax.tasks import jobs as job_sources
from ldm_jax.tasks.jobs import Job

STRENGTH = 0.75
# The condition for each field of a job; that of an image depends on the task.
CONDITIONS = {
    "prompt": "prompts",
    "prompt_2": "prompts_2",
    "class_label": "class_labels",
    "layout": "layouts",
    "regions": "regions",
    "map": "segmentations",
    "depth": "depths",
    "embeddings": "embeddings",
    "image_embedding": "image_embeddings",
    "noise_level": "noise_levels",
    "instances": "instances",
}
_OF_IMAGES = (
    "images",
    "masks",
    "low_res_images",
    "changed_images",
)  # conditions made from a job's image and mask
_WAITING = 8  # decoded batches that may wait for more jobs of the same shape


class Task(NamedTuple):
    """needs, may: required and optional fields of a job. takes: the condition that only models of this task have.
    image: the use of the job's image, a condition or the initial picture."""

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    takes: str | None = None
    image: str | None = None


TASKS = {
    "unconditional": Task(),
    "text": Task(may=("prompt",), takes="prompts"),
    "class": Task(("class_label",), takes="class_labels"),
    "layout": Task(("layout",), takes="layouts"),
    "semantic": Task(("map",), takes="segmentations"),
    "superres": Task(("image",), takes="low_res_images", image="low_res_images"),
    "inpaint": Task(("image", "mask"), ("strength", "extend"), image="images"),
    "img2img": Task(("image",), ("strength",), image="init_images"),
    "instruct": Task(("image",), takes="changed_images", image="changed_images"),
    "edit": Task(("edit",), ("image", "strength"), takes="prompts", image="edited"),
    "colorize": Task(("image",), takes="images", image="images"),
    "depth": Task(("depth",), ("image", "strength"), takes="depths", image="init_images"),
    "retrieval": Task(("embeddings",), takes="embeddings"),
}


def can(system: Any, name: str) -> bool:
    """Whether a model supports the task. Every model without image conditions supports img2img, and inpaint by
    blending."""
    needed = {n for n in system.takes if n not in system.optional and n != "seeds"}
    if name == "unconditional":
        return not needed
    provided = {"images", "masks"} if name == "inpaint" and "masks" in needed else {TASKS[name].image}
    if name == "inpaint" and "masks" not in needed:
        provided = set()
    return TASKS[name].takes in (None, *system.takes) and (needed & set(_OF_IMAGES)) <= provided


def find_task(system: Any, given: Iterable[str] = ()) -> str:
    """The task of a model; if it supports several, the fields `given` by the job decide.

    Raises: ValueError if the model supports none of TASKS.
    """
    given = set(given)
    own = ("inpaint",) if "masks" in system.takes else ()
    own += ("superres", "instruct", "colorize", "semantic", "layout", "depth", "retrieval")
    asked = [name for name in ("inpaint", "img2img") if set(TASKS[name].needs) <= given]
    asked = ["inpaint"] if given & {"mask", "extend"} else ["edit"] if "inversion" in given else asked
    first = [n for n in own if can(system, n) and (n != "inpaint" or "masks" in system.takes)]
    for name in (*first, *asked, "text", "class", "unconditional"):
        if can(system, name):
            return name
    raise ValueError(f"this model takes {_shown(system)}, which is none of the tasks {', '.join(TASKS)}")


def check_names(task: str | None = None, fit: str = "none") -> None:
    """Raises: ValueError for a task or a fit that is not there."""
    if task not in (None, *TASKS):
        raise ValueError(f"task {task!r} not found; there are: {', '.join(TASKS)}")
    if fit not in pictures.FITS:
        raise ValueError(f"fit {fit!r} not found; there are: {', '.join(pictures.FITS)}")


def check_task(system: Any, name: str) -> None:
    """Raises: ValueError for an unknown task, or for one that the model does not support, listing those it does."""
    check_names(name)
    if not can(system, name):
        able = [n for n in TASKS if can(system, n)]
        raise ValueError(
            f"task {name!r}: this model takes {_shown(system)}; it can do: {', '.join(able) or 'none'}"
        )


class Ready(NamedTuple):
    """A job with its files read. conditions: one value for each name that LatentDiffusion.sample takes a list of.
    methods: its guidance and edit, as of LatentDiffusion.sample."""

    conditions: dict[str, Any]
    negative_prompt: str | None = None
    image_shape: tuple[int, int] | None = None
    strength: float | None = None
    methods: Mapping[str, Any] = MappingProxyType({})

    @property
    def group(self) -> tuple:
        """Jobs of one group can be drawn together."""
        length = np.shape(self.conditions.get("embeddings"))
        names = tuple(sorted(self.conditions))
        said = json.dumps(dict(self.methods), sort_keys=True, default=str)
        return self.image_shape, self.strength, self.negative_prompt is None, names, length, said

    @property
    def program(self) -> tuple:
        """Batches of one size and one program compile nothing anew: the strength is an argument, save for 1."""
        shape, _, _, names, length, said = self.group
        return shape, self.strength in (None, 1), names, length, said


def run(
    model: Any,
    jobs: Iterable[Job | Mapping[str, Any]],
    task: str | None = None,
    *,
    batch_size: int = 4,
    fit: str = "none",
    tile: int | None = None,
    on_step: Callable[[Sequence[Job], Any], Any] | None = None,
    **settings: Any,
) -> Iterator[tuple[Job, np.ndarray | ValueError]]:
    """Draws jobs, and yields each with its picture [H, W, 3] uint8, or with the error that prevented it.

    model: a LatentDiffusion. jobs: from tasks/jobs.py, or mappings of its FIELDS to paths or values (pictures uint8
    [H, W, 3] or PIL images; masks, maps and depths [H, W]; embeddings [L, D]; layouts as dicts; class mixtures
    {label: weight}).
    task: one of TASKS; None chooses by the model and the fields of each job.
    fit: one of pictures.FITS, how images, masks and maps are brought to the requested size: the job's `size`, or the
    model's own. 'none' draws pictures of the image's size. tile, settings: see LatentDiffusion.sample.
    on_step: called at every step with the jobs of its rows and a Step (LatentDiffusion.sample's callback).
    Jobs of equal shape and strength are drawn together, batch_size at a time, in the order in which their batches fill
    up. Files are read lazily, job by job; the jobs read ahead and waiting for others of their shape make up fewer than
    _WAITING batches.
    Raises: ValueError at once for an unknown task or fit, for a task that the model does not support, and for a batch
    size below 1; while drawing, the errors of LatentDiffusion.sample about the settings.
    """
    check_names(task, fit)
    if task is not None:
        check_task(model.system, task)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    return _run(model, jobs, task, batch_size, fit, tile, on_step, settings)


def _run(
    model, jobs, task, batch_size: int, fit: str, tile: int | None, on_step, settings: Mapping
) -> Iterator:
    """As `run`, its arguments checked."""
    waiting: dict[tuple, list[tuple[Job, Ready]]] = {}
    full: set[tuple] = set()

    def draw(group: tuple) -> Iterator:
        batch = waiting.pop(group)
        program = batch[0][1].program
        if len(batch) == batch_size:
            full.add(program)
        size = batch_size if program in full else len(batch)
        options = {} if tile is None else dict(tile=tile)
        yield from _draw(model, batch, size, on_step, dict(settings, **options, batch_size=batch_size))

    for number, given in enumerate(jobs):
        job = given
        try:
            if not isinstance(given, Job):
                job = Job(str(number), 0, {}, f"job {number}")
                job = job_sources.make_job(given, where=job.where, name=job.name)
            ready = prepare(model, job, task, fit)
            group = ready.group
        except Exception as error:  # noqa: BLE001 - whatever a job's files make their readers raise
            yield job, job_sources.alone(error)
            continue
        waiting.setdefault(group, []).append((job, ready))
        if len(waiting[group]) == batch_size:
            yield from draw(group)
        elif sum(map(len, waiting.values())) >= _WAITING * batch_size:
            yield from draw(max(waiting, key=lambda group: len(waiting[group])))
    for group in list(waiting):
        yield from draw(group)


def _draw(
    model: Any, batch: Sequence[tuple[Job, Ready]], size: int, on_step: Callable | None, settings: Mapping
) -> Iterator:
    """The pictures of a batch; of one with bad jobs, the errors of these, and the pictures of the rest.

    size: how many are drawn, the last one again and again if there are fewer: where larger batches went before, no
    program is compiled for a smaller one.
    """
    first = batch[0][1]
    padded = [*batch, *[batch[-1]] * (size - len(batch))]
    arguments = {
        name: [ready.conditions[name] for _, ready in padded] for name in first.conditions
    } | settings
    optional = dict(image_shape=first.image_shape, strength=first.strength, **first.methods)
    if first.negative_prompt is not None:
        optional["negative_prompts"] = [ready.negative_prompt for _, ready in padded]
    if on_step is not None:
        optional["callback"] = lambda step: on_step([padded[i][0] for i in step.places], step)
    arguments |= {name: value for name, value in optional.items() if value is not None}
    try:
        images = _pictures(model, [job.seed for job, _ in padded], arguments)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if is_of_devices(error):  # pictures for which the memory is too small: others may fit
            yield from ((job, job_sources.alone(error)) for job, _ in batch)
            return
        wrong = [_error_alone(model.system, ready, settings.get("plain_prompts")) for _, ready in batch]
        if not any(wrong) and first.methods:  # that these jobs ask for themselves
            wrong = [error] * len(batch)
        if not any(wrong):  # it is no job's fault, but that of the settings
            raise
        yield from ((job, error) for (job, _), error in zip(batch, wrong, strict=True) if error)
        rest = [one for one, error in zip(batch, wrong, strict=True) if not error]
        if rest:
            yield from _draw(model, rest, size, on_step, settings)
        return
    for (job, _), image in zip(batch, images, strict=False):
        yield job, image


def _pictures(model: Any, seeds: Sequence[int], arguments: dict) -> np.ndarray:
    """[N, H, W, 3] uint8: what is drawn, or, of pictures that are given to be edited, what they become."""
    if "edited" not in arguments:
        arguments.pop("inversion", None)
        return model.sample(seeds=seeds, **arguments)
    images, edit = arguments.pop("edited"), arguments.pop("edit")
    asked = {edit: {}} if isinstance(edit, str) else edit
    if len(asked) != 1:
        raise ValueError(f"edit: got {', '.join(asked)}, expected one method for a given image")
    ((method, options),) = asked.items()
    options, prompts = dict(options or {}), arguments.pop("prompts")
    arguments.pop("image_shape", None)
    source = options.pop("source", "")
    return model.edit(source, prompts, method, seeds, image=images, options=options, **arguments).images


def _error_alone(system: Any, ready: Ready, plain_prompts: bool | None) -> ValueError | None:
    """An error in the conditions of one job, or in its negative prompt."""
    given = {name: [value] for name, value in ready.conditions.items() if name in system.takes}
    try:
        for prompt in [given.get("prompts"), given.get("prompts_2"), ready.negative_prompt]:
            if not plain_prompts:
                emphasis.all_parsed(prompt)
        system.inputs(given, ready.image_shape)
        if ready.negative_prompt is not None:
            system.null_inputs(1, dict(given, prompts=[ready.negative_prompt]), ready.image_shape)
    except Exception as error:  # noqa: BLE001 - as where a job is read
        return job_sources.alone(error)
    return None


def prepare(model: Any, job: Job, task: str | None = None, fit: str = "none") -> Ready:
    """The job with its files read and checked, for `task` (None: find_task). fit: as `run`.

    Raises: ValueError in one sentence for whatever is wrong with it.
    """
    system, given = model.system, job.given
    name = find_task(system, given) if task is None else task
    check_task(system, name)
    chosen, blending = TASKS[name], name == "inpaint" and "masks" not in system.takes
    _check_fields(system, name, given, blending)
    size = None if given.get("size") is None else _size(given["size"])
    if size is not None:
        pictures.check_pixels(*size, "size")
    arrays = _read(given)
    if "extend" in given and "image" in arrays:
        arrays["image"], arrays["mask"] = extend.extended(
            arrays["image"], arrays.get("mask"), given["extend"]
        )
    shape, arrays = _fitted(system, name, arrays, size, fit)
    if "mask" in arrays:
        _check_mask(arrays["mask"], fit)
    conditions = {}
    if "prompts" in system.takes:
        conditions["prompts"] = given.get("prompt", "")
    if "prompt_2" in given:
        conditions["prompts_2"] = given["prompt_2"]
    names = getattr(model, "config", {}).get("class_names")
    if "class_label" in given:
        conditions["class_labels"] = labels.class_label(given["class_label"], names)
    if "layout" in given:
        conditions["layouts"] = labels.within_room(
            system, labels.layout(given["layout"], names), names, job.where
        )
    if "regions" in given:
        conditions["regions"] = labels.regions(given["regions"])
    for field in ("noise_level", "instances"):
        if field in given:
            conditions[CONDITIONS[field]] = given[field]
    conditions |= {
        CONDITIONS[field]: arrays[field]
        for field in ("map", "depth", "embeddings", "image_embedding")
        if field in arrays
    }
    if "image" in arrays:
        conditions["init_images" if blending else chosen.image] = arrays["image"]
    if "mask" in arrays:
        conditions["fill_masks" if blending else "masks"] = arrays["mask"]
    kinds = [way for way in getattr(model, "conditioned", ()) if way in controls.KINDS]
    if "image_embeddings" in conditions:  # an IP-Adapter's picture that is told apart
        kinds = [way for way in kinds if way != "ip_adapter"]
    if "control" in given or kinds:
        drawn, embed = system.image_shape if shape is None else shape, getattr(model, "embed", None)
        conditions |= controls.conditions(kinds, given.get("control", ()), drawn, embed)
    strength = given.get("strength", STRENGTH if "init_images" in conditions and not blending else None)
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}, expected a number from 0 to 1")
    if "inversion" in given and "edited" not in conditions:
        raise ValueError(f"inversion {given['inversion']!r}: there is no image to edit that it could be of")
    methods = {field: given[field] for field in job_sources.METHODS if field in given}
    return Ready(conditions, given.get("negative_prompt"), shape, strength, methods)


def _check_fields(system: Any, name: str, given: Mapping[str, Any], blending: bool) -> None:
    """Raises: ValueError for a field that is missing, or one that this task of this model has no use for."""
    may = [field for field in TASKS[name].may if field != "strength" or name != "inpaint" or blending]
    extra = [field for field, condition in CONDITIONS.items() if condition in system.takes]
    extra += ["negative_prompt"] if "prompts" in system.takes else []
    useful = list(dict.fromkeys([*TASKS[name].needs, *may, *extra, "size"]))
    for field in given:
        if field not in (*useful, *job_sources.METHODS, "control"):
            raise ValueError(f"task {name!r} of this model takes {', '.join(useful)}, got {field}")
    needed = [
        field
        for field, condition in CONDITIONS.items()
        if field != "prompt" and condition in system.takes and condition not in system.optional
    ]
    made = {"mask"} if "extend" in given else set()
    made |= {"image_embedding"} if "control" in given else set()
    missing = [
        field for field in dict.fromkeys([*TASKS[name].needs, *needed]) if field not in {*given, *made}
    ]
    if missing:
        got = ", ".join(given) or "nothing"
        raise ValueError(f"task {name!r} of this model needs {' and '.join(missing)}, got {got}")
    if "strength" in given and "image" not in given:
        raise ValueError("strength: there is no image that it could be of")


def _read(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the fields that are files."""
    arrays = {}
    if "image" in given:
        arrays["image"] = _picture(given["image"])
    if "mask" in given:
        mask = arrays["mask"] = _array(given["mask"], pictures.read_mask, pictures.as_mask)
        shape = arrays["image"].shape[:2] if "image" in arrays else mask.shape
        if mask.shape != shape:
            raise ValueError(f"the mask is {_by(mask.shape)} and its image {_by(shape)}, expected one size")
    if "map" in given:
        arrays["map"] = _array(given["map"], pictures.read_map)
    if "depth" in given:
        arrays["depth"] = _array(given["depth"], pictures.read_depth)
    if "embeddings" in given:
        arrays["embeddings"] = _array(given["embeddings"], lambda p: pictures.load_array(p, "embeddings"))
    if "image_embedding" in given:
        one = _array(given["image_embedding"], lambda p: pictures.load_array(p, "image_embedding"))
        arrays["image_embedding"] = one[0] if one.ndim == 2 and len(one) == 1 else one
    for field, axes in dict(map=2, depth=2, embeddings=2, image_embedding=1).items():
        if field in arrays and arrays[field].ndim != axes:
            raise ValueError(
                f"{field} has shape {arrays[field].shape}, expected {'two axes' if axes == 2 else 'one axis'}"
            )
    return arrays


def _check_mask(mask: np.ndarray, fit: str) -> None:
    """mask: fitted, which may have taken its hole away. Raises: ValueError for one that marks all of the image, or
    none."""
    if mask.any() and not mask.all():
        return
    which, reason = ("all", "nothing is known") if mask.all() else ("none", "nothing is to be filled in")
    after = "" if fit == "none" else f" after fit {fit!r}"
    raise ValueError(
        f"the mask marks {which} of the image{after}, so {reason}; 1 or white marks what is filled in"
    )


def _picture(value: Any) -> np.ndarray:
    if isinstance(value, str | Path):
        return pictures.read_picture(value)
    image = transforms.to_rgb(value) if isinstance(value, Image.Image) else np.asarray(value)
    gray = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or gray.ndim != 3 or gray.shape[-1] not in (1, 3):
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}, expected uint8 (height, width, 3), or gray (height, width)"
        )
    return np.repeat(gray, 3, axis=-1) if gray.shape[-1] == 1 else image


def _array(value: Any, read: Any, check: Any = np.asarray) -> np.ndarray:
    return read(value) if isinstance(value, str | Path) else check(value)


def _fitted(
    system: Any, name: str, arrays: dict, size: tuple[int, int] | None, fit: str
) -> tuple[tuple[int, int] | None, dict]:
    """((H, W) of the picture to draw, None for the model's own; the arrays, with the image and those aligned with it
    resized to fit)."""
    times = system.first_stage.factor if name == "superres" else 1
    leading = next((field for field in ("image", "map") if field in arrays), None)
    if leading is None:
        return (None if size is None else tuple(system.check_shape(size, "size"))), arrays
    wanted = system.image_shape if size is None else size
    shape = tuple(times * side for side in arrays[leading].shape[:2])
    if fit == "none":
        hint = f"; fit 'crop' or 'resize' makes it {_by(side // times for side in wanted)}"
        if size is not None and shape != tuple(size):
            raise ValueError(
                f"the {leading} is {_by(arrays[leading].shape[:2])}, for pictures of {_by(shape)}, size is "
                f"{_by(size)}{hint}"
            )
        what = f"the {leading}" if times == 1 else f"the picture, {times} times the {leading}"
        try:
            return tuple(system.check_shape(shape, what)), arrays
        except ValueError as error:
            raise ValueError(f"{error}{hint}") from None
    shape = tuple(system.check_shape(wanted, "size"))
    fields = [field for field in ("image", "mask", "map", "depth") if field in arrays]
    for field in fields:
        if not arrays[field].size:
            raise ValueError(f"{field} has shape {arrays[field].shape}, expected at least one pixel")
    if "depth" in arrays:  # of any size, of what the image shows
        arrays = arrays | {"depth": pictures.fit(arrays["depth"], *arrays[leading].shape[:2], "resize")}
    fitted = {field: pictures.fit(arrays[field], *(side // times for side in shape), fit) for field in fields}
    return shape, arrays | fitted


def _size(value: Any) -> tuple[int, int]:
    """(height, width) of a pair, of one number, or of '64x128' as in 'height x width'. Raises: ValueError for
    others."""
    try:
        # Not of all as an array: a long text among them would make every entry as long.
        parts = value.lower().split("x") if isinstance(value, str) else value
        parts = parts[:3] if isinstance(parts, list | tuple) else np.atleast_1d(parts).tolist()
        sides = [int(part) for part in parts]
        whole = all(isinstance(part, str) or side == part for side, part in zip(sides, parts, strict=True))
    except (TypeError, ValueError, OverflowError):  # infinity is the last
        sides, whole = [], False
    if not whole or len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(
            f"size is {text_files.shown(value)}, expected height x width in whole pixels, such as 64x128"
        )
    return sides[0], sides[-1]


def _by(shape: Iterable[int]) -> str:
    return " x ".join(str(side) for side in shape)


def _shown(system: Any) -> str:
    return ", ".join(name for name in system.takes if name != "seeds") or "no conditions"
