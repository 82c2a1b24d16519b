"""Files of weights, whatever their format: opened by what they contain, written beside their place and
renamed into it.

Decides which file of a folder holds its weights, how shards become one state dict, and what is said of the
things that are most often mistaken for a checkpoint. It knows no model: names and shapes pass through as they
are. Formats are torch_file.py's, safetensors_file.py's and flax_file.py's.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import atomic, paths, text_files
from ldm_jax.convert import flax_file, safetensors_file, torch_file
from ldm_jax.convert.tensor import Tensor

__all__ = ["Tensor", "find_weights", "open_tensors", "replacing", "write_ckpt", "write_safetensors"]

SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack")
# What diffusers and transformers write: model.fp16.safetensors, or the index of its shards, in two spellings,
# model.safetensors.index.fp16.json and model.fp16.safetensors.index.json; 'fp16' is the variant.
_WRITTEN = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model|diffusion_flax_model|flax_model)(?:\.([^.]+))?"
    r"(\.safetensors|\.bin|\.msgpack)"
    r"(\.index(?:\.([^.]+))?\.json)?"
)
# pickles of protocol 2 and later by their first byte; those of 0 and 1 begin with a global, a dict or a tuple
_PICKLED = re.compile(rb"\x80[\x02-\x05]|c[\w.]+\n[\w.]+\n|\((dp\d+)?\n|[}(\]]q\0")
_SHARD = re.compile(r"-\d+-of-\d+\.")
Progress = Callable[[str, int, int], None]

# what a file begins with -> what it is and what to do
_MISTAKEN = {
    b"version https://git-lfs": "is a Git LFS pointer and not the file itself: fetch it with `git lfs pull`",
    b"<!doctype": "is a web page, not a checkpoint: a download that needed a login or another address",
    b"<html": "is a web page, not a checkpoint: a download that needed a login or another address",
    b"<?xml": "is an XML answer of a server, not a checkpoint: a download that failed",
    b'{"error': "is an error message of a server, not a checkpoint: a download that failed",
    b"gguf": "is a GGUF file, which is not read: expected .safetensors or a file of torch.save",
    b"\x89hdf": "is an HDF5 file, which is not read: expected .safetensors or a file of torch.save",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
}


def open_tensors(
    path: str | Path, variant: str | None = None, ignore_objects: bool = False
) -> dict[str, Tensor]:
    """The tensors of a file or folder by name, in the file's order, unread (`Tensor.read`).

    path: a file of torch.save, of safetensors or of Flax, told apart by content; the index of a sharded one
    (*.index.json); or a folder with one of these (`find_weights`). Of a pickle, its 'state_dict' is taken if
    it has one, nested names are joined by '.', and all that is no tensor is dropped. Names are those of the bare
    module (`unwrapped`). ignore_objects: see torch_file.read_zip.
    Raises: ValueError in one sentence for what is not there, not a checkpoint, cut short, damaged, or
    refused.
    """
    path = Path(path)
    if path.is_dir():
        path = find_weights(path, variant)
    if not path.is_file():
        raise ValueError(f"{path} is not there, or no file")
    if path.name.endswith(".json"):
        return _open_shards(path, ignore_objects)
    tensors = _open_file(path, ignore_objects)
    bare = {unwrapped(name): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise ValueError(
            f"{path} has tensors under the names of a module both bare and wrapped by torch.compile"
        )
    return bare


def unwrapped(name: str) -> str:
    """`name` without what torch.compile puts before the names of a module that it wraps, and of its parts."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _open_file(path: Path, ignore_objects: bool) -> dict[str, Tensor]:
    """The tensors of one file, told apart by its content. Raises: ValueError as `open_tensors`."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        raise ValueError(f"{path} {'holds nothing but zeros' if head else 'is empty'}, expected a checkpoint")
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, wrong in _MISTAKEN.items():
        if begins.startswith(start):
            raise ValueError(f"{path} {wrong}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it first")
    if head.startswith(b"PK"):
        return torch_file.read_zip(path, ignore_objects)
    if head[8:9] == b"{" or (path.suffix == ".safetensors" and len(head) < 9):
        return safetensors_file.read(path)
    if _PICKLED.match(head):
        return torch_file.read_legacy(path, ignore_objects)
    if flax_file.BEGINS.match(head):
        return flax_file.read(path)
    raise ValueError(
        f"{path} is no checkpoint: it begins with {head[:16]!r}, expected what torch.save or safetensors writes"
    )


def find_weights(folder: str | Path, variant: str | None = None) -> Path:
    """The file of a folder that holds its weights: one file, or the index of several.

    The names that diffusers and transformers write come first: those without a variant ('fp16' in
    model.fp16.safetensors) unless one is asked for or only one is there, and safetensors before bin; else the
    only file of weights in the folder.
    Raises: ValueError, naming what is there, if there is none or the choice is not clear.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there, or no folder")
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    weights = [n for n in names if n.endswith(SUFFIXES) or re.search(r"\.index(\.[^.]+)?\.json$", n)]
    whole = [name for name in weights if not _SHARD.search(name)]
    written: dict[str | None, list[tuple]] = {}
    for name in whole:
        if match := _WRITTEN.fullmatch(name):
            _, before, suffix, index, behind = match.groups()
            written.setdefault(before or behind, []).append((SUFFIXES.index(suffix), index is not None, name))
    if variant not in written and variant is not None:
        raise ValueError(f"{folder} has no weights of variant {variant!r}; it has {_listed(weights)}")
    if variant is None and None not in written and len(written) == 1:
        (variant,) = written
    if variant in written:
        return folder / min(written[variant])[-1]
    if len(whole) == 1:
        return folder / whole[0]
    if whole:
        raise ValueError(f"{folder} has several files of weights, expected one or its name: {_listed(whole)}")
    if weights:
        raise ValueError(
            f"{folder} has shards of weights, but not their index, a file *.index.json: {_listed(weights)}"
        )
    if (folder / "model_index.json").is_file():
        parts = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise ValueError(f"{folder} is a diffusers pipeline, expected one of its parts: {_listed(parts)}")
    raise ValueError(
        f"{folder} has no weights in it, expected a file *{', *'.join(SUFFIXES)}; it has {_listed(names)}"
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return (
        ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        if names
        else "nothing"
    )


def _open_shards(index: Path, ignore_objects: bool) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, in the order of the shards. Raises: ValueError as
    `open_tensors`."""
    try:
        placed = text_files.read_object(index, "index").get("weight_map")
    except ValueError as error:
        raise ValueError(f"{index} is no index of shards: {error}") from None
    if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
        raise ValueError(f"{index} is no index of shards: expected JSON with a weight_map of names to files")
    shards = sorted(set(placed.values()))
    outside = [shard for shard in shards if Path(shard).name != shard or not shard.endswith(SUFFIXES)]
    if outside:
        raise ValueError(f"{index} names {text_files.shown(outside[0])}, expected files of its own folder")
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise ValueError(f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {_listed(missing)}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        found = open_tensors(index.parent / shard, ignore_objects=ignore_objects)
        twice = tensors.keys() & found.keys()
        if twice:
            raise ValueError(
                f"{index.parent / shard} has tensors that another shard has: {_listed(sorted(twice))}"
            )
        tensors |= found
    absent = [name for name in placed if unwrapped(name) not in tensors]
    if absent:
        raise ValueError(f"{index} names tensors that its shards do not have: {_listed(absent)}")
    return tensors


@contextlib.contextmanager
def replacing(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A path beside `path`, where nothing is, to write a file or a folder at; renamed into `path` when the
    block ends.

    If the block raises, what it wrote is removed and what was at `path` is as it was. Folders on the way are
    made. What is renamed has reached the disk before, as atomic.py says.
    Raises: ValueError if something is there and overwrite is False, or if it is a folder that is not empty
    and holds no model, which is never overwritten; and if the block wrote nothing.
    """
    path = paths.of(path)
    if paths.in_bucket(path):
        if path.exists():
            _check_replaceable(path, overwrite)
        with paths.uploading(path) as here:
            yield here
            if not here.exists():
                raise ValueError(f"nothing was written for {path}")
        return
    path = path.parent.resolve() / path.name if path.name else path.resolve()
    if os.path.lexists(path):
        _check_replaceable(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (atomic.beside(path.with_name(f".{path.name}"), what) for what in ("partial", "old"))
    try:
        yield partial
        if not os.path.lexists(partial):
            raise ValueError(f"nothing was written for {path}")
        if path.is_dir() or (partial.is_dir() and os.path.lexists(path)):  # a folder cannot be renamed onto
            atomic.sync(partial)
            path.rename(old)
            try:
                atomic.put(partial, path)
            except BaseException:
                old.rename(path)
                raise
            _remove(old)
        else:
            atomic.put(partial, path)
    finally:
        _remove(partial)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    """Raises: ValueError, as `replacing`, for what is there already."""
    if not overwrite:
        raise ValueError(f"{path} exists: name another destination, or say --overwrite")
    if path.is_dir() and not _is_model(path):
        raise ValueError(
            f"{path} is a folder that holds anything beside one model written here, so it is not overwritten"
        )


# What a bundle, an adapter and a diffusers folder hold, and nothing else does: only such a folder is ever overwritten.
_MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "diffusion_pytorch_model.safetensors"}
_MODEL_FILES |= {"adapter.json", "adapter.safetensors"}
_PIPELINE_PARTS = {
    "model_index.json",
    "unet",
    "vae",
    "vqvae",
    "bert",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
}
_PIPELINE_PARTS |= {"tokenizer_2", "scheduler", "low_res_scheduler"}


def _is_model(folder: Path) -> bool:
    names = paths.names(folder)
    return names <= _MODEL_FILES or ("model_index.json" in names and names <= _PIPELINE_PARTS)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor | np.ndarray],
    dtype: Any = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a .safetensors file, replacing `path` when it is whole (safetensors_file.write; `replacing`
    refuses)."""
    with replacing(path, overwrite=True) as partial:
        safetensors_file.write(partial, tensors, dtype, metadata, progress)


def write_ckpt(
    path: str | Path,
    tensors: Mapping[str, Tensor | np.ndarray],
    dtype: Any = None,
    wrapped: bool = True,
    progress: Progress | None = None,
) -> None:
    """Writes {'state_dict': tensors}, or tensors alone if not wrapped (.bin), as torch.save does, replacing
    `path` when it is whole (torch_file.write_zip)."""
    with replacing(path, overwrite=True) as partial:
        torch_file.write_zip(partial, tensors, dtype, wrapped, progress)
