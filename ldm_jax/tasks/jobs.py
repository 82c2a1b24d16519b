"""Jobs, one per requested picture, from flags, folders of files or a JSON-lines file.

Decides which files belong together, how pictures are named, and which fields a line may have. It opens no picture and
uses no model; tasks/run.py runs the jobs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax import text_files
from ldm_jax.data import pictures
from ldm_jax.data.pictures import EXTENSIONS
from ldm_jax.tasks import controls
from ldm_jax.text_files import shown
from ldm_jax.types import MAX_SEED

# The fields of a job. Those of FILES are paths or, from Python, the arrays themselves (a layout can also be a dict).
FILES = {
    "image": EXTENSIONS,
    "map": (*EXTENSIONS, ".npy"),
    "layout": (".json",),
    "regions": (".json",),
    "depth": (*EXTENSIONS, ".npy"),
    "embeddings": (".npy",),
    "image_embedding": (".npy",),
    "mask": (*EXTENSIONS, ".npy"),
}
TEXTS = ("prompt", "prompt_2", "negative_prompt")
NUMBERS = ("strength",)
WHOLE_NUMBERS = ("seed", "noise_level")
METHODS = ("guidance", "edit", "inversion")  # a name, or {name: {option: value}}
GIVEN = (
    *TEXTS,
    "class_label",
    *FILES,
    "strength",
    "noise_level",
    "size",
    "extend",
    "control",
    "instances",
    *METHODS,
)
FIELDS = ("name", "seed", *GIVEN)
# Bytes of a job's name: a file may have 255 in its own, and seeds, numbers and endings come to this one.
LONGEST_NAME = 200
MOST_OF_SEEDS = 100_000  # jobs that one line, or one call without files, makes of its seeds


class Job(NamedTuple):
    """One picture to draw. name: what it is to be called. where: what messages call it. given: fields of GIVEN."""

    name: str
    seed: int
    given: Mapping[str, Any]
    where: str


class Failure(NamedTuple):
    """A job that could not be made. where: what it is called. error: why, in one sentence."""

    where: str
    error: str


def make_job(
    fields: Mapping[str, Any], *, where: str, name: str, seed: int = 0, folder: Path | None = None
) -> Job:
    """A job of what a line or a python user gives.

    name, seed: where fields give none. folder: paths are relative to it.

    A job without a name is named after its first file. Raises: ValueError for an unknown field, or a value
    of another kind.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"a job is {shown(fields)}, expected an object of {', '.join(FIELDS)}")
    for field, value in fields.items():
        if field not in FIELDS:
            raise ValueError(f"a job has no {shown(field)}; it may have: {', '.join(FIELDS)}")
        _check_kind(field, value)
    fields = {field: value for field, value in fields.items() if value is not None}
    if "control" in fields:
        fields["control"] = controls.of_field(fields["control"], folder)
    given = {
        field: str((folder or Path()) / value) if field in FILES and isinstance(value, str | Path) else value
        for field, value in fields.items()
        if field in GIVEN
    }
    files = [Path(given[field]).stem for field in FILES if isinstance(given.get(field), str)]
    name = fields.get("name", _short(files[0]) if files else name)
    return Job(name, fields.get("seed", seed), given, where)


def _short(stem: str) -> str:
    """The stem of a file as the name of a job, of at most LONGEST_NAME bytes."""
    return stem.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")


def _check_kind(field: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return
    if field in TEXTS and not isinstance(value, str):
        raise ValueError(f"{field} is {shown(value)}, expected a string")
    if field in (*TEXTS, "name") and isinstance(value, str):
        text_files.check_unicode(value, field)
    if field == "name":
        _check_name(value)
    if field in NUMBERS and not number:
        raise ValueError(f"{field} is {shown(value)}, expected a number")
    if field in WHOLE_NUMBERS and not (number and isinstance(value, int) and 0 <= value <= MAX_SEED):
        raise ValueError(f"{field} is {shown(value)}, expected a whole number from 0 to {MAX_SEED}")
    if field in METHODS and not isinstance(value, str | Mapping):
        raise ValueError(
            f"{field} is {shown(value)}, expected the name of a method, or {{name: {{option: value}}}}"
        )
    if field in FILES and (
        isinstance(value, bool | int | float) or (isinstance(value, str) and (not value or "\0" in value))
    ):
        raise ValueError(f"{field} is {shown(value)}, expected a file")


def _check_name(value: Any) -> None:
    if not (isinstance(value, str) and value and Path(value).name == value and value.isprintable()):
        raise ValueError(f"name is {shown(value)}, expected the name of a file without a folder or an ending")
    if len(value.encode()) > LONGEST_NAME:
        raise ValueError(
            f"name is {shown(value)}, of {len(value.encode())} bytes, expected at most {LONGEST_NAME}"
        )


def of_lines(
    path: str | Path, defaults: Mapping[str, Any] = {}, seeds: Sequence[int] = (0,)
) -> tuple[list[Job], list[Failure]]:
    """The jobs of a JSON-lines file, and the lines that are none, each named by its number. Empty lines are passed
    over.

    defaults: what a line that does not say otherwise gives. seeds: of a line without one; each makes a picture.
    Raises: ValueError if there is no such file, it is not UTF-8 text, or it has no line.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"jobs file {path} is not there")
    defaults = {name: _absolute(value) if name in FILES else value for name, value in defaults.items()}
    if "control" in defaults:
        given = [control._replace(image=str(_absolute(control.image))) for control in defaults["control"]]
        defaults = defaults | {"control": given}
    jobs, failures = [], []
    for number, line in text_files.lines(path, "jobs file"):
        where = f"{path.name} line {number}"
        try:
            fields = text_files.parse_json(line)
            both = defaults | fields if isinstance(fields, dict) else fields
            job = make_job(both, where=where, name=str(number), folder=path.parent)
            jobs += _seeded(job, [job.seed] if fields.get("seed") is not None else seeds, len(jobs))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a line, the others are drawn
            failures.append(Failure(where, str(alone(error))))
    if not jobs and not failures:
        raise ValueError(f"jobs file {path} is empty, expected a JSON object on each line")
    return named_apart(jobs), failures


class Partners:
    """The files of one field that belong to the leading files. where: one file, which belongs to all, or a folder.

    beside: they lie among the leading files, and only x_mask.png is one.
    """

    def __init__(self, where: Path, field: str, beside: bool):
        self.where, self.field, self.beside = where, field, beside
        self._by_stem = {}
        if where.is_dir():
            files = [f for f in sorted(where.iterdir()) if f.suffix.lower() in FILES[field]]
            self._by_stem = {file.stem: file for file in reversed(files)}

    def of(self, file: Path) -> Path:
        """Raises: ValueError if there is none."""
        if not self.where.is_dir():
            return self.where
        found = self._in_folder(file)
        if found is None:
            expected = " or ".join(f"{stem}.*" for stem in self._stems(file))
            raise ValueError(f"no {self.field} for it in {self.where}, expected {expected}")
        return found

    def check_apart(self, files: Sequence[Path], leader: str) -> None:
        """Raises: ValueError if one of the leading files, of the field `leader`, would belong to itself."""
        for file in files:
            found = self._in_folder(file)
            if found is not None and found.resolve() == file.resolve():
                raise ValueError(
                    f"{self.field} {self.where}: {file.name} would be both the {leader} and the {self.field} "
                    f"of a picture, "
                    "expected another folder"
                )

    def _in_folder(self, file: Path) -> Path | None:
        return next((self._by_stem[stem] for stem in self._stems(file) if stem in self._by_stem), None)

    def _stems(self, file: Path) -> list[str]:
        named = f"{file.stem}_{self.field}"
        return [named] if self.beside else [file.stem, named]


def of_flags(
    given: Mapping[str, Any], seeds: Sequence[int], with_masks: bool = False
) -> tuple[list[Job], list[Failure]]:
    """The jobs of the command line: every file of a folder is one, single files and all else belong to each of them.

    given: fields of GIVEN; those of FILES may be folders. Of the files of a job the first in the order of FILES leads,
    a folder before a single file, a mask never; of the other folders it takes the file with the leading one's stem,
    x.png or
    x_mask.png. with_masks: the task wants masks. Then x_mask.png beside x.png is no image of its own; without `mask`,
    or where that is the images' own folder, it is the mask of x.png, as in CompVis/latent-diffusion@a506df5
    scripts/inpaint.py.
    Returns: jobs, and failures for files without a partner.
    Raises: ValueError for a folder that holds none, or one given for two fields of which a file would be both.
    """
    files = {name: Path(value).expanduser() for name, value in given.items() if name in FILES}
    rest = {name: value for name, value in given.items() if name not in FILES}
    if not files:
        _check_number(0, seeds)
        job = make_job(rest, where="", name="")
        return [job._replace(where=f"seed {seed}", name=str(seed), seed=seed) for seed in seeds], []
    leaders = [n for n in FILES if n in files and n != "mask"] or ["mask"]
    leader = min(leaders, key=lambda name: not files[name].is_dir())
    beside = False
    if with_masks and "image" in files:
        home = files["image"] if files["image"].is_dir() else files["image"].parent
        beside = files.setdefault("mask", home).resolve() == home.resolve()
    found = _files(files[leader], leader)
    if with_masks and leader == "image" and files["image"].is_dir():
        stems = {file.stem for file in found}
        found = [f for f in found if not (f.stem.endswith("_mask") and f.stem[: -len("_mask")] in stems)]
    others = {n: Partners(path, n, n == "mask" and beside) for n, path in files.items() if n != leader}
    for partners in others.values():
        partners.check_apart(found, leader)
    jobs, failures = [], []
    for file in found:
        try:
            together = {leader: file} | {n: partners.of(file) for n, partners in others.items()}
            job = make_job(together | rest, where=str(file), name=file.stem)
            jobs += _seeded(job._replace(name=_short(file.stem)), seeds, len(jobs))
        except ValueError as error:
            failures.append(Failure(str(file), str(error)))
    return named_apart(jobs), failures


def _files(path: Path, field: str) -> list[Path]:
    return pictures.files_in(path, FILES[field]) if path.is_dir() else [path]


def alone(error: Exception) -> ValueError:
    """The one sentence of a job that fails alone, whatever its reader raised."""
    if isinstance(error, ValueError):
        return error
    return ValueError(f"{type(error).__name__}: {text_files.cut(getattr(error, 'strerror', None) or error)}")


def _seeded(job: Job, seeds: Sequence[int], before: int) -> list[Job]:
    """The job once for each seed, which its name then ends with if there are several. before: jobs made already."""
    if len(seeds) == 1:
        return [job._replace(seed=seeds[0])]
    _check_number(before, seeds)
    return [job._replace(name=f"{job.name}_{seed}", seed=seed) for seed in seeds]


def _check_number(before: int, seeds: Sequence[int]) -> None:
    if before + len(seeds) > MOST_OF_SEEDS:
        raise ValueError(
            f"{before + len(seeds)} jobs, of {len(seeds)} seeds, expected at most {MOST_OF_SEEDS} in one call"
        )


def named_apart(jobs: Iterable[Job], taken: Iterable[str] = ("grid",)) -> list[Job]:
    """The jobs, of which no two have one name: the second that would is called name_2. taken: names that none gets."""
    taken, out = {name.lower() for name in taken}, []
    for job in jobs:
        name, number = job.name, 1
        while name.lower() in taken:
            number += 1
            name = f"{job.name}_{number}"
        taken.add(name.lower())
        out.append(job._replace(name=name))
    return out


def _absolute(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) else value
