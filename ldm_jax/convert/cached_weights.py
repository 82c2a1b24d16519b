"""Where the weights of a measuring network lie on this machine. Nothing is ever fetched: a number that people quote
must not depend on what a server gave that day.

Decides the folders that are looked into; it does not open files.
"""

import os
from collections.abc import Sequence
from pathlib import Path


def folders() -> list[Path]:
    """Where weights are looked for, in order: $LDM_JAX_WEIGHTS, or $LDM_JAX_CACHE, or ~/.cache/ldm_jax, then torch's
    own cache. For a user whose home is not known, as in a container that is run with another --user than its image has,
    only what the environment names."""
    ours = os.environ.get("LDM_JAX_WEIGHTS") or os.environ.get("LDM_JAX_CACHE")
    named = [ours, os.environ.get("TORCH_HOME")]
    try:
        ours, torch_home = (
            Path(chosen or Path.home() / ".cache" / name)
            for chosen, name in zip(named, ("ldm_jax", "torch"), strict=True)
        )
    except RuntimeError:
        ours, torch_home = (Path(chosen) if chosen else None for chosen in named)
    return [folder for folder in (ours, torch_home and torch_home / "hub" / "checkpoints") if folder]


def find_cached(what: str, names: Sequence[str], given: str | Path | None = None, url: str = "") -> Path:
    """The file that a user named, or the first of `names` in the first of `folders()` that has one.

    what: for the message, such as 'InceptionV3 of FID'. url: where a user can get it.
    Raises: ValueError if the file that was named is not there, or none is found.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise ValueError(
                f"{what}: weights {str(path)!r} are not there, expected a file, such as {names[0]}"
            )
        return path
    looked = folders()
    for folder in looked:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    source = f" (it is published at {url})" if url else ""
    raise ValueError(
        f"{what}: found no weights; name the file, or put {names[0]}{source} into "
        f"{' or '.join(str(folder) for folder in looked) or 'a folder that LDM_JAX_WEIGHTS names'}"
    )
