"""A checkpoint written out: as a bundle, as the original's single file, or as a diffusers folder.

What goes to which file is the layouts' own, bundle.py's, compvis.py's and diffusers.py's. Arrays are read, turned and
written one at a time; nothing appears under its final name before it is whole. A .ckpt has a .yaml of the same name
beside it.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldm_jax import paths
from ldm_jax.checkpoints import bundle, compvis, diffusers
from ldm_jax.checkpoints.base import Checkpoint
from ldm_jax.checkpoints.recognize import CONFIG_KEY
from ldm_jax.convert import files
from ldm_jax.convert.tensor import Tensor, stored_dtype

LAYOUTS = {"bundle": bundle, "compvis": compvis, "diffusers": diffusers}
TARGETS = tuple(LAYOUTS)


def write(
    checkpoint: Checkpoint,
    destination: str | Path,
    to: str,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> None:
    """Writes `checkpoint` at `destination` in the layout `to`.

    dtype: 'float32', 'float16' or 'bfloat16', of floating point arrays; None keeps each as it is.
    progress: called with (bytes written, of how many).
    Raises: ValueError for a destination that exists, without overwrite, or what the layout cannot hold.
    """
    if to not in TARGETS:
        raise ValueError(f"--to {to!r} not found; there are: {', '.join(TARGETS)}")
    destination = paths.of(destination)
    if to == "compvis" and destination.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"--to compvis writes one file: {destination} should end in .safetensors or .ckpt")
    parts = LAYOUTS[to].parts(checkpoint)
    total = sum(_bytes(tensors, dtype) for tensors in parts.values())
    before = 0

    def advance(name: str, written: int, of: int) -> None:
        nonlocal before
        if progress:
            progress(before + written, total)
        before += of if written == of else 0

    with contextlib.ExitStack() as whole:
        partial = whole.enter_context(files.replacing(destination, overwrite=overwrite))
        if to == "compvis":
            (tensors,) = parts.values()
            if destination.suffix == ".ckpt":
                beside = whole.enter_context(
                    files.replacing(destination.with_suffix(".yaml"), overwrite=overwrite)
                )
                files.write_ckpt(partial, tensors, dtype, progress=advance)
                beside.write_text(compvis.original_text(checkpoint.config))
            else:
                metadata = {"format": "pt", CONFIG_KEY: json.dumps(checkpoint.config)}
                files.write_safetensors(partial, tensors, dtype, metadata, progress=advance)
            return
        partial.mkdir()
        for name, tensors in parts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_safetensors(partial / name, tensors, dtype, progress=advance)
        LAYOUTS[to].write_texts(partial, checkpoint)


def _bytes(tensors: Mapping[str, Tensor], dtype: str | None) -> int:
    return sum(math.prod(t.shape) * stored_dtype(t.dtype, dtype).itemsize for t in tensors.values())
