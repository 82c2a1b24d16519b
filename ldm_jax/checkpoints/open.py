"""Any checkpoint of this model family as a model of ours: its config, and its parameters as arrays that are not read
yet.

Decides what a file or folder is. How each layout is read is bundle.py's, compvis.py's and diffusers.py's; none of them
opens another checkpoint: the first stage that a user names is opened here, before, and handed to them.
"""

from collections.abc import Mapping
from pathlib import Path

from ldm_jax import paths
from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints import compvis, diffusers
from ldm_jax.checkpoints.base import Checkpoint, FirstStage, Options, without_prefix
from ldm_jax.checkpoints.recognize import FIRST_STAGE, UNET, has_diffusers_names
from ldm_jax.config import conditioning_kinds, conditioning_section
from ldm_jax.convert import diffusers_config, files
from ldm_jax.convert.tensor import Tensor
from ldm_jax.text_files import cut


def open_checkpoint(path: str | Path, options: Options = Options()) -> Checkpoint:  # noqa: B008
    """A shipped model by name, a bundle, a training workdir, a file of the original's, or a diffusers folder or file.

    Raises: ValueError in one sentence for what is none of them, or does not fit together.
    """
    located, first_stage = locate(path), _named_first_stage(options)
    try:
        if bundle_files.is_workdir(located):  # whose checkpoints orbax reads where they lie
            opened = _open(located, options, first_stage)
        else:
            with paths.reading(located) as here:
                opened = _open(here, options, first_stage)
    except ValueError as error:
        if str(located) in str(error) or f"{located.parent}/" in str(error):  # it, or a file beside it
            raise
        raise ValueError(f"{located}: {error}") from error
    except OSError:
        raise
    except (
        Exception
    ) as error:  # names, shapes and options that fit no network can make its parts raise anything
        raise ValueError(f"{located} does not fit together: {type(error).__name__}: {cut(error)}") from error
    opened = _with_null_class(opened, path) if options.null_class else opened
    return opened if options.clip_skip is None else _with_clip_skip(opened, path, options.clip_skip)


def _named_first_stage(options: Options) -> FirstStage | None:
    """The first stage of the checkpoint that the user names for it."""
    if not options.first_stage:
        return None
    other = open_checkpoint(options.first_stage, Options(ignore_objects=options.ignore_objects))
    return other.config["first_stage"], other.params["first_stage"]


def _with_null_class(opened: Checkpoint, path: str | Path) -> Checkpoint:
    """The same with the last class as that which stands for none. Raises: ValueError for a model that takes no
    classes."""
    kinds = conditioning_kinds(opened.config.get("conditioning"))
    if "class_label" not in kinds:
        raise ValueError(
            f"--null_class: {path} takes {', '.join(kinds) or 'no conditions'}, expected class_label"
        )
    classes = kinds["class_label"]
    if classes.get("null_class", True):
        return opened
    kinds["class_label"] = dict(classes, num_classes=classes["num_classes"] - 1, null_class=True)
    return opened._replace(config=dict(opened.config, conditioning=conditioning_section(kinds)))


def _with_clip_skip(opened: Checkpoint, path: str | Path, number: int) -> Checkpoint:
    """The same, reading another layer of its text encoders. Raises: ValueError for a model without one of CLIP's, and
    for a layer that they do not have."""
    kinds = conditioning_kinds(opened.config.get("conditioning"))
    name = next((name for name in ("clip", "sdxl") if name in kinds), None)
    if name is None:
        raise ValueError(
            f"--clip_skip: {path} takes {', '.join(kinds) or 'no conditions'}, expected a text encoder of CLIP's"
        )
    towers = [kinds[name]] if name == "clip" else [kinds[name].get("clip_l"), kinds[name]["clip_g"]]
    most = min(tower["num_layers"] for tower in towers if tower)
    if not 1 <= number <= most:
        raise ValueError(
            f"--clip_skip is {number}, expected 1, the last layer, to {most}, the first of {path}"
        )
    kinds[name] = dict(kinds[name], layer=number)
    return opened._replace(config=dict(opened.config, conditioning=conditioning_section(kinds)))


def _open(path: Path, options: Options, first_stage: FirstStage | None) -> Checkpoint:
    """As open_checkpoint, of a path that is there."""
    if path.is_dir():
        if bundle_files.is_bundle(path):
            return bundle_files.open_bundle(path, options, first_stage)
        if bundle_files.is_workdir(path):
            return bundle_files.open_workdir(path, options, first_stage)
        if (path / "model_index.json").is_file():
            return diffusers.open_pipeline(path, options, first_stage)
        if (path / "vae").is_dir() and not (path / "unet").is_dir():
            path = path / "vae"
        diffusers_config.refuse_part(path)
        if (path / "config.json").is_file():
            return diffusers.open_first_stage(path, options)
        path = files.find_weights(path, options.variant)
    tensors = files.open_tensors(path, options.variant, options.ignore_objects)
    return open_file(tensors, path, options, first_stage)


def locate(name: str | Path) -> Path:
    """The file or folder that `name` means: a shipped model, or a path. Raises: ValueError that lists the shipped
    models."""
    shipped = bundle_files.shipped_names()
    if str(name) in shipped:
        return bundle_files.SHIPPED / str(name)
    path = paths.of(name).expanduser()
    paths.check(path)
    if not path.exists():
        raise ValueError(
            f"checkpoint {str(name)!r} not found: it is no file, no folder, and no shipped model; those are: "
            f"{', '.join(shipped)}"
        )
    return path


def open_file(
    tensors: Mapping[str, Tensor], path: Path, options: Options, first_stage: FirstStage | None = None
) -> Checkpoint:
    """A single file of either layout, by its names. first_stage: see _named_first_stage.

    Raises: ValueError for a file of something else.
    """
    if any(name.startswith(UNET) for name in tensors):
        return compvis.open_model(tensors, path, options, first_stage)
    if (
        "input_blocks.0.0.weight" in tensors
    ):  # openai/guided-diffusion's, which the original's UNet comes from
        if not (options.config or options.original_config):
            raise ValueError(
                f"{path} is a UNet alone, as guided-diffusion writes it: its noise schedule and what it predicts are "
                "not in it, expected --config, such as that of a run of configs/adm_64.py"
            )
        return compvis.open_model({UNET + name: t for name, t in tensors.items()}, path, options, first_stage)
    if "encoder.conv_in.weight" in tensors and "decoder.conv_in.weight" in tensors:
        if has_diffusers_names(tensors):
            if (path.parent / "config.json").is_file() and not (path.parent / "model_index.json").is_file():
                return diffusers.open_first_stage(path.parent, options, tensors)
        return _open_autoencoder(tensors, path, options)
    if any(name.startswith(FIRST_STAGE) for name in tensors):
        inner = without_prefix(tensors, FIRST_STAGE)
        return _open_autoencoder(inner, path, options)
    found = ", ".join(sorted(tensors)[:3])
    raise ValueError(
        f"{path} is a checkpoint of something else: expected names such as {UNET}input_blocks.0.0.weight or "
        f"encoder.conv_in.weight, "
        f"got {len(tensors)} such as {found}"
    )


def _open_autoencoder(tensors: Mapping[str, Tensor], path: Path, options: Options) -> Checkpoint:
    """A file of an autoencoder alone, under the original's names or diffusers'."""
    if has_diffusers_names(tensors):
        return diffusers.open_first_stage_file(compvis.without_apart(tensors), path, options)
    return compvis.open_first_stage(tensors, path, options)
