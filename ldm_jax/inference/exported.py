"""The sampler of a model in one file: traced and lowered once, for several platforms, and drawn from without the
networks' code.

    python -m ldm_jax.inference.exported --checkpoint shapes --batch_size 4 --out sampler.ldm
    python -m ldm_jax.inference.exported --draw sampler.ldm --prompt "a small red circle" --seeds 0-3 --out samples

The first command writes the file, the second draws from it. Prompts and other conditions, seeds, guidance scale and eta
are arguments of what is in it; the model's structure, size of pictures and batch, sampler and timesteps are not. The
parameters stay in the checkpoint, which both commands are given. Decides what is in the file and what it goes with; how
a call becomes the arguments of the programs in it is inference/pipeline.py's, and that is why both draw the same.

A file is a program, and what is in it is compiled and run: it is trusted input, as python is.

The file: a zip of header.json (see `write`), and for each platform of PLATFORM/sampler and PLATFORM/decoder, serialized
by jax.export, whose promises on what later and earlier versions of jax read hold for it
(docs.jax.dev/en/latest/export/export.html). One program for
all platforms there is not: attention has kernels that jax lowers for one of them alone (models/attention_tpu.py).
"""

import argparse
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ldm_jax import __version__, atomic, cli, grid
from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints.base import options_from
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.inference.pipeline import LatentDiffusion, from_bundle
from ldm_jax.inference.program import (
    CLASSIFIER_FREE,
    MODEL,
    Arguments,
    Recipe,
    arguments,
    make_decoder,
    make_program,
)
from ldm_jax.inference.sampler_options import sampler_options, split_sampler_options
from ldm_jax.inference.settings import bucket, one_each
from ldm_jax.models import latent_scale
from ldm_jax.params import check_params, described, of_description
from ldm_jax.system import make_system
from ldm_jax.types import PyTree

FORMAT = "ldm_jax sampler 4"
PLATFORMS = ("cpu", "cuda", "tpu")
export.register_namedtuple_serialization(Arguments, serialized_name="ldm_jax.Arguments")


def write(
    model: LatentDiffusion,
    path: str | Path,
    *,
    batch_size: int = 4,
    image_shape: tuple[int, int] | None = None,
    platforms: Sequence[str] = PLATFORMS,
    **settings: Any,
) -> dict[str, Any]:
    """Writes the sampler and the decoder of `model`, in batches of batch_size, to the file `path`.

    model: of pipeline.load. image_shape: (H, W) in pixels, the model's own by default. platforms: of jax.export: 'cpu',
    'cuda', 'rocm', 'tpu'. settings: num_steps, guidance_scale, sampler, eta, spacing, final_alpha, clip_denoised as of
    LatentDiffusion.sample; whether the guidance scale is 1 decides whether the file's sampler is guided, other scales
    are an argument of it.
    Returns: the header: format, versions, platforms, batch_size, image_shape, guided, settings, model (the sections
    MODEL of its
    config), parameters and inputs (name: [shape, dtype]).
    Raises: ValueError for an unknown setting or platform, or an impossible size, and a model that has no config.
    """
    bucket(1, batch_size)
    if "model" not in model.config:
        raise ValueError("this model has no config, expected one that was loaded from a checkpoint")
    system, settings = model.system, model.resolve(**settings)
    shape = system.check_shape(system.image_shape if image_shape is None else image_shape, "image_shape")
    recipe, sampler_args = arguments(system, model.params, settings, batch_size, shape)
    params, (inputs,) = sampler_args.params, sampler_args.inputs
    latents = jax.ShapeDtypeStruct((batch_size, *recipe.latent_shape), jnp.float32)
    exported = _export("sampler", make_program(system, model.scale, recipe), platforms, sampler_args)
    exported |= _export(
        "decoder", make_decoder(system, model.scale), platforms, params["first_stage"], latents
    )
    header = dict(
        format=FORMAT, ldm_jax=__version__, jax=jax.__version__,
        calling_convention=next(iter(exported.values())).calling_convention_version,
        platforms=list(platforms), batch_size=batch_size, image_shape=list(shape), guided=recipe.is_guided,
        settings=settings,
        model={k: model.config.get(k) for k in MODEL}, parameters=described(params), inputs=described(inputs),
    )  # fmt: skip
    with atomic.writing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.json", json.dumps(header, indent=2))
        for name, program in exported.items():
            file.writestr(name, bytes(program.serialize()))
    return header


def load(path: str | Path, bundle: bundle_files.Bundle) -> "ExportedSampler":
    """The sampler of a file that `write` made, with the parameters and the tokenizer of a bundle of the same structure.

    Raises: ValueError for a file that is none of `write`, that this jax does not read or that is for other platforms,
    and for a bundle of another model.
    """
    header, here, serialized = _read(path)
    versions = range(
        export.minimum_supported_calling_convention_version,
        export.maximum_supported_calling_convention_version + 1,
    )
    if header["calling_convention"] not in versions:
        raise ValueError(
            f"{path} was written by jax {header['jax']} with calling convention {header['calling_convention']}, "
            f"jax {jax.__version__} reads {versions[0]} to {versions[-1]}: write it anew"
        )
    if len(serialized) < 2:
        raise ValueError(f"{path} is for {', '.join(header['platforms'])}, and this process runs on {here}")
    _check_model(header, bundle, path)
    settings = header["settings"]
    system = make_system(bundle.config, bundle.tokenizer)
    latent_shape = system.latent_shape_of(tuple(header["image_shape"]))
    static, _ = split_sampler_options(settings["sampler"], sampler_options(settings))
    recipe = Recipe(settings["sampler"], latent_shape, static, (CLASSIFIER_FREE,) if header["guided"] else ())
    programs = {
        recipe: _taking(header["inputs"], _opened(serialized["sampler"], header, path), path),
        "decode": _opened(serialized["decoder"], header, path),
    }
    params = system.in_compute_dtype(bundle.params)
    scale = latent_scale.of_config(bundle.config, system.first_stage.channels)
    one = jax.local_devices()[:1]  # what the program was exported for
    model = LatentDiffusion(system, params, scale, bundle.config, programs, devices=one)
    return ExportedSampler(header, model)


class ExportedSampler:
    """What `load` gives. header: as `write` returns it. model: a LatentDiffusion whose programs are the file's."""

    def __init__(self, header: Mapping[str, Any], model: LatentDiffusion):
        self.header, self.model = header, model

    def sample(
        self,
        prompts: Sequence[str] | None = None,
        seeds: Sequence[int] = (0,),
        *,
        guidance_scale: float | None = None,
        eta: float | None = None,
        plain_prompts: bool = False,
        progress: Callable[[int, int], Any] | None = None,
        **conditions: Sequence | None,
    ) -> np.ndarray:
        """Draws one picture per seed, as LatentDiffusion.sample does with the file's settings in batches of its
        batch_size, and
        with the same arguments, to rounding: the program is compiled anew. guidance_scale, eta: None takes the
        file's. plain_prompts: as there.

        Returns: [N, H, W, 3] uint8. Raises: ValueError as there, and for a guidance scale of 1 where the file's sampler
        is guided or another one where it is not.
        """
        header = self.header
        settings = dict(header["settings"])
        if not self.model.system.drops:  # files of earlier versions hold what was recommended, and not used
            settings["guidance_scale"] = 1.0
        settings |= {} if guidance_scale is None else dict(guidance_scale=guidance_scale)
        settings |= {} if eta is None else dict(eta=eta)
        if self.model.system.drops and header["guided"] != (float(settings["guidance_scale"]) != 1.0):
            expected = "another one: it is guided" if header["guided"] else "1: it is not guided"
            raise ValueError(
                f"guidance_scale is {settings['guidance_scale']}, the exported sampler expects {expected}"
            )
        number, size = len(seeds), header["batch_size"]
        fill = np.minimum(np.arange(-(-number // size) * size), number - 1)
        given = {
            name: [one_each(values, number, name)[i] for i in fill]
            for name, values in dict(conditions, prompts=prompts).items()
            if values is not None
        }
        shown = progress and (lambda done, _: progress(min(done, number), number))
        drawn = self.model.sample(
            seeds=[seeds[i] for i in fill], batch_size=size, image_shape=tuple(header["image_shape"]),
            progress=shown, plain_prompts=plain_prompts, **given, **settings,
        )  # fmt: skip
        return drawn[:number]


def _export(name: str, fn: Callable, platforms: Sequence[str], *args: PyTree) -> dict[str, export.Exported]:
    """{'PLATFORM/name': …}. args: shapes. Raises: ValueError for a platform that jax does not lower for, or none."""
    for platform in platforms or [None]:
        if platform not in (*PLATFORMS, "rocm"):
            raise ValueError(f"platform {platform!r} not found; there are: {', '.join(PLATFORMS)}, rocm")
    jitted = jax.jit(fn)
    return {f"{p}/{name}": export.export(jitted, platforms=[p])(*args) for p in platforms}


def _read(path: str | Path) -> tuple[dict, str, dict[str, bytes]]:
    """(the header, this process's platform, the programs for it)."""
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file")
    here = export.default_export_platform()
    try:
        with zipfile.ZipFile(path) as file:
            header = json.loads(file.read("header.json"))
            names = [f"{here}/{name}" for name in ("sampler", "decoder")]
            programs = {name.split("/")[1]: file.read(name) for name in names if name in file.namelist()}
    except (zipfile.BadZipFile, zlib.error, KeyError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no exported sampler, or damaged: {error}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is no exported sampler that this version reads, expected format {FORMAT!r}")
    return header, here, programs


def _opened(serialized: bytes, header: Mapping[str, Any], path: str | Path) -> Callable:
    """The program, which says of an error at its call which jax wrote it, where that was another one: what an older jax
    does not know of a newer one's program, it finds out only when it compiles it."""
    said = f"{path} was written by jax {header['jax']}, and jax {jax.__version__} does not"
    try:
        program = jax.jit(export.deserialize(bytearray(serialized)).call)
    except Exception as error:  # of flatbuffers and of MLIR, of no common kind
        raise ValueError(f"{said} read its program: {error}") from None

    def run(*args):
        try:
            return program(*args)
        except Exception as error:  # of MLIR and of the runtime
            if header["jax"] == jax.__version__:
                raise
            raise ValueError(
                f"{said} run its program, expected the same version or a later one: {error}"
            ) from error

    return run


def _taking(expected: Mapping[str, list], program: Callable, path: str | Path) -> Callable:
    """program, which says what is wrong with inputs of another shape: such as embeddings, of which there may be any
    number."""

    def run(arguments: Arguments):
        for name, array in arguments.inputs[-1].items():
            if list(array.shape) != expected[name][0]:
                raise ValueError(
                    f"{path}: {name} has shape {array.shape}, expected {tuple(expected[name][0])}"
                )
        return program(arguments)

    return run


def _check_model(header: Mapping[str, Any], bundle: bundle_files.Bundle, path: str | Path) -> None:
    """Raises: ValueError if the bundle's parameters, or what else the programs were made from, are not the file's."""
    expected = of_description(header["parameters"])
    check_params(expected, bundle.params, "the checkpoint", str(path))
    plain = json.loads(json.dumps(bundle.config))
    other = [name for name in MODEL if plain.get(name) != header["model"][name]]
    if other:
        raise ValueError(
            f"{path} is of another model than the checkpoint: {', '.join(other)} of its config differ"
        )


# ------------------------------------------------------------------------------------------------------------ the
# command


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--out",
        type=cli.on_disk,
        required=True,
        help="the file to write; with --draw the folder for the pictures",
    )
    add("--checkpoint", default="shapes", help="shipped model, file or folder (default %(default)s)")
    cli.add_checkpoint_arguments(add)
    add = parser.add_argument_group("writing a file").add_argument
    add("--batch_size", type=int, default=4, help="pictures drawn at once (default %(default)s)")
    add("--size", type=int, nargs=2, help="height and width in pixels; default the model's own")
    add("--platforms", default=",".join(PLATFORMS), help="what it runs on (default %(default)s; also rocm)")
    add("--steps", type=int, help="sampling steps")
    add("--sampler", help="a file of ldm_jax/samplers")
    add("--spacing", help="which timesteps are visited")
    add("--final_alpha", help="where the last step leads: first or one")
    add("--clip_denoised", type=float, help="clip predicted clean latents to this size (ddim, ddpm, heun)")
    add = parser.add_argument_group("drawing from one").add_argument
    add("--draw", help="the file to draw from")
    add("--prompt", help="what to draw (text models)")
    add("--negative_prompt", help="what guidance leads away from")
    add("--class_label", type=int, help="the class to draw (class models)")
    add("--seeds", default="0", help="one picture each: 0-7, or 1,5,9-12 (default %(default)s)")
    add = parser.add_argument_group("both").add_argument
    add(
        "--guidance_scale",
        type=float,
        help="1 is off; any other can be drawn with if the file was not written with 1",
    )
    add("--eta", type=float, help="0 is deterministic, 1 adds DDPM's noise (ddim, euler_ancestral)")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    start = time.time()
    bundle = open_checkpoint(args.checkpoint, options_from(args)).bundle()
    if args.draw:
        drawn = _draw(args, load(args.draw, bundle))
        print(f"{drawn} pictures and grid.png in {args.out}, {time.time() - start:.1f} s")
        return
    header = write(
        from_bundle(bundle), args.out, batch_size=args.batch_size, image_shape=args.size and tuple(args.size),
        platforms=args.platforms.split(","), num_steps=args.steps, guidance_scale=args.guidance_scale,
        sampler=args.sampler, eta=args.eta, spacing=args.spacing, final_alpha=args.final_alpha,
        clip_denoised=args.clip_denoised,
    )  # fmt: skip
    size = Path(args.out).stat().st_size / 1e6
    print(f"{args.out}, {size:.1f} MB, for {', '.join(header['platforms'])}, {time.time() - start:.1f} s")


def _draw(args: argparse.Namespace, sampler: ExportedSampler) -> int:
    """Writes <seed>.png for each seed, and grid.png. Returns how many were drawn."""
    seeds = cli.parse_seeds(args.seeds)
    given = {"prompt": args.prompt, "negative_prompt": args.negative_prompt, "class_label": args.class_label}
    given = {name: value for name, value in given.items() if value is not None}
    images = sampler.sample(
        seeds=seeds,
        guidance_scale=args.guidance_scale,
        eta=args.eta,
        **{f"{k}s": [v] for k, v in given.items()},
    )
    out = Path(args.out)
    for seed, image in zip(seeds, images, strict=True):
        grid.write_png(out / f"{seed}.png", image, dict(given, seed=seed))
    grid.write_png(out / "grid.png", grid.grid(images), dict(given, seeds=args.seeds))
    return len(seeds)


if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(main)
