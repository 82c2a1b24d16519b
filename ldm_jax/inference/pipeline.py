"""A latent diffusion model ready to sample: conditions in, pictures out; also what training previews with.

One program is compiled per recipe (sampler, methods, size of the pictures, …, see inference/program.py), number of steps and batch
size; prompts, seeds, guidance scale, eta, strength and every number of a method are arguments of it. There are a few batch sizes alone,
see `settings.bucket`: however many pictures calls ask for, a service stops compiling. Image i depends on seed i alone. It knows no data
set and no file (checkpoints/bundle.py does).
"""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldm_jax import grid
from ldm_jax.checkpoints import adapters as adapter_files
from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.conditioning import emphasis
from ldm_jax.inference import analysis, checks, edits, inversions, known_pixels, methods, sizes
from ldm_jax.inference import devices as device_sets
from ldm_jax.inference.analysis import Analysis
from ldm_jax.inference.callbacks import Step, Steps
from ldm_jax.inference.edits import Edited
from ldm_jax.inference.inversions import Inverted
from ldm_jax.inference.program import (
    MODEL,
    PER_PICTURE,
    Recipe,
    make_decoder,
    make_encoder,
    make_program,
)
from ldm_jax.inference.runs import Run, make_run
from ldm_jax.inference.settings import (
    FALLBACK,
    batches,
    check_seeds,
    compute_dtype,
    one_each,
    pictures_of,
    resolve_settings,
    with_faster,
)
from ldm_jax.inference.tiled_first_stage import TiledFirstStage
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.params import check_params
from ldm_jax.personalization.base import new_conditions
from ldm_jax.system import System, make_system
from ldm_jax.types import Array, PyTree
from ldm_jax.xla import compiling
from ldm_jax.xla.executables import Executables

log = logging.getLogger(__name__)


class LatentDiffusion:
    """system: the parts. params: {'first_stage', 'unet', 'conditioner'}. scale: of the latents; a number is a factor
    alone.

    config: the bundle's config; `sampling` holds the recommended defaults.
    programs: jitted functions that need no tracing: make_program's by Recipe, and make_decoder's under 'decode'.
    executables: keeps compiled programs across processes; None: only jax's own cache is used.
    devices: local devices that share the pictures of a batch; None: all of them.
    apply: calls the network, like models.controlnet.apply_network.
    Methods can be called from several threads at once; results do not depend on other threads.
    """

    def __init__(
        self,
        system: System,
        params: PyTree,
        scale: LatentScale | float,
        config: dict | None = None,
        programs: Mapping[Recipe | str, Callable] | None = None,
        executables: Executables | None = None,
        devices: Sequence[jax.Device] | None = None,
        apply: Callable = apply_network,
    ):
        self.system, self.scale, self.config = system, latent_scale.of(scale), config or {}
        self.devices, self.apply = device_sets.local(devices), apply
        self.place(params)
        self._programs: dict[Recipe | str, Callable] = dict(programs or {})
        self._executables = executables
        self.conditioned: tuple[str, ...] = ()  # its adapters that bring a condition, in order
        self.embed: Callable | None = None  # a picture [H, W, 3] uint8 as what an IP-Adapter takes, [D]
        self._tiled: dict[int, TiledFirstStage] = {}
        self._steps = Steps()
        scale = self.config.get("sampling", {}).get("guidance_scale", 1.0)
        if scale != 1 and not system.drops:
            log.info(
                "guidance is off: the model has no null condition that its recommended scale of %s leads away from",
                scale,
            )

    def place(self, params: PyTree) -> None:
        """Replaces the parameters by others of the same structure."""
        self.params = self.devices.place(params)

    @property
    def num_compiled(self) -> int:
        """Number of programs compiled or read from a cache so far, for monitoring a service."""
        return sum(program._cache_size() for program in self._programs.values())

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        *,
        class_labels: Sequence[int] | None = None,
        negative_prompts: Sequence[str] | None = None,
        plain_prompts: bool = False,
        long_prompts: bool = False,
        num_images_per_prompt: int = 1,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        spacing: str | None = None,
        final_alpha: str | None = None,
        clip_denoised: float | None = None,
        sampler_options: Mapping[str, Any] | None = None,
        guidance: Any = None,
        edit: Any = None,
        cache: Mapping[str, Any] | None = None,
        merge: Mapping[str, Any] | None = None,
        image_shape: tuple[int, int] | None = None,
        init_images: Sequence | None = None,
        strength: float = 1.0,
        start: float = 0.0,
        stop: float = 1.0,
        fill_masks: Sequence | None = None,
        latents: Array | None = None,
        prompt_embeddings: Array | None = None,
        tile: int | None = None,
        inverted: Inverted | None = None,
        batch_size: int = 8,
        output: str = "np",
        progress: Callable[[int, int], Any] | None = None,
        callback: Callable[[Step], Any] | None = None,
        **conditions: Sequence | None,
    ) -> Any:
        """Draws one picture per seed.

        prompts | class_labels | conditions: one value per picture, or a single one for all, for each name in system.takes
        (TAKES in the files of conditioning/ describes them). negative_prompts: prompts that guidance leads away from,
        instead of the empty prompt. Words of these are weighed, `a (red:1.3) circle` (conditioning/emphasis.py), unless
        plain_prompts: brackets are letters then. long_prompts: more tokens than the text encoder reads are read in parts, not
        cut; each number of parts is a program (conditioning/chunks.py). num_images_per_prompt: each condition, repeated in a row.
        seeds: integers in [0, 2**32), by default 0, 1, 2, …. A picture depends on its seed and conditions, not on the others.
        num_steps, guidance_scale (1 is off), sampler, eta, spacing, final_alpha, clip_denoised: None means the model's
        recommended value (`resolve`). eta: 0 is deterministic, 1 adds DDPM's noise (ddim, euler_ancestral). spacing: a key of
        SPACINGS or SIGMA_SPACINGS in diffusion/timesteps.py. final_alpha: the end of the last step, 'first' (the original's)
        or 'one' (the clean image). clip_denoised: bound to which ddim, ddpm and heun clip predicted clean latents (diffusers'
        clip_sample). sampler_options: further options of the sampler, by name.
        guidance, edit: methods of guidance/ and editing/ to add: a name, {name: {option: value}} or a list (inference/methods.py).
        cache: {'interval': 3, 'branch': 0}, options of editing/feature_caching: most of the network runs in one step of 3 alone.
        merge: {'ratio': 0.5}, options of editing/token_merging: self-attention of fewer cells. Both save time and change pictures.
        image_shape: (H, W) in pixels, multiples of system.size_multiple. None: the size of the spatial conditions, else of
        init_images, else the size trained on.
        init_images: [H, W, 3] each, uint8 or floats in [-1, 1]. They are noised with the seed's noise to the first timestep
        visited, and the last round(strength * num_steps) steps are run. strength: 0 reconstructs them, 1 ignores them. (Meng et
        al. 2022, SDEdit, arXiv:2108.01073. The original, scripts/img2img.py, noises to one level above the first that it
        visits, and fails at 1.)
        fill_masks: [H, W] each, bool or in [0, 1]; pixels below 0.5 are known. For models that take no mask, latent cells with
        known pixels only are kept at every step (editing/blended.py). For these and for models that take images and masks,
        known pixels of the result are the given bytes (for floats, the nearest).
        latents: x_T [N, h, w, c] float32, instead of noise from the seeds. start, stop: only timesteps t with
        (1 - start) T > t >= (1 - stop) T are run (diffusers' denoising_start and denoising_end); latents are then those of a run
        that stopped where this one starts, such as `sample(stop=0.8, output="latents")` of SDXL's base for its refiner.
        inverted: of `invert`, pictures to draw again with the sampler and steps that they were inverted for; strength: the last
        round(strength * num_steps) of these steps. prompt_embeddings: [N, L, D], instead of prompts.
        tile: side in pixels, a multiple of system.size_multiple. Larger pictures are encoded, denoised and decoded in
        overlapping tiles (inference/tiles.py, inference/tiled_first_stage.py). None: in one piece.
        batch_size: most pictures computed at once on each device. output: 'np' [N, H, W, 3] uint8, 'pil' a list, or 'latents'
        [N, h, w, c] float32, scaled. progress: called with (pictures done, their total). callback: called with a Step at every
        step; changing it does not recompile.

        Returns: see output. Raises: ValueError for an unknown or out-of-range value, and for results that are not finite, naming
        their seeds. Options without effect and words that the model does not know are logged.
        """
        asked = {name: value for name, value in locals().items() if name not in ("self", "conditions")}
        drawn = np.concatenate([drawn for _, drawn in self._draw(asked, conditions)])
        return [grid.to_pil(image) for image in drawn] if output == "pil" else drawn

    def stream(self, *args, **options) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Takes the arguments of `sample` and yields each batch when it is drawn: (indices [n] into seeds, [n, H, W, 3] uint8).

        Only one batch of pictures is in memory, for any number of seeds.
        """
        bound = inspect.signature(self.sample).bind(*args, **options)
        bound.apply_defaults()
        asked = dict(bound.arguments)
        return self._draw(asked, asked.pop("conditions"))

    def invert(
        self,
        image: Sequence | Array,
        prompts: str | Sequence[str] | None = None,
        method: Any = "ddim",
        seeds: Sequence[int] | None = None,
        *,
        batch_size: int = 8,
        **settings,
    ) -> Inverted:
        """What draws given pictures again: `sample(prompts, seeds, inverted=…)` reconstructs them, and edits begin with it.

        image: [H, W, 3], uint8 or floats in [-1, 1], or a list of them. prompts: what they show, one for all or one each. method: a
        file of inversion/, or {name: {option: value}}; the option `prompt` is said in the place of prompts. settings: num_steps,
        guidance_scale, spacing and final_alpha, as of `sample`; the sampler is DDIM.

        Raises: ValueError for an unknown method, option or setting, and for a model without an encoder.
        """
        return inversions.invert(self, image, prompts, method, seeds, batch_size, settings)

    def edit(
        self,
        source: str | Sequence[str],
        prompts: str | Sequence[str],
        method: str = "prompt_to_prompt",
        seeds: Sequence[int] | None = None,
        *,
        image: Sequence | Array | None = None,
        inversion: Any = None,
        options: Mapping[str, Any] | None = None,
        **sampling,
    ) -> Edited:
        """Draws pictures of `source` and, beside each and from the same noise, what an editing method makes of it for `prompts`.

        method: a file of editing/; beside one that looks at no source, `source` is drawn by itself. image: the pictures of `source` themselves, as of `invert`, in the place of drawn ones. inversion:
        how they are inverted, as of `invert`; None is what the method asks for, or 'ddim'. options: of the method. sampling: options
        of `sample`.
        Returns: Edited. Raises: ValueError as `sample` and `invert`.
        """
        return edits.edit(self, source, prompts, method, seeds, image, inversion, options, sampling)

    def analyze(self, images=None, prompts=None, method: str = "daam", seeds=None, **options) -> Analysis:
        """What the network sees in pictures, given or drawn from prompts and seeds, by a method of recognition/: see
        inference/analysis.py. plain_prompts: as of `sample`."""
        prompts = prompts if options.pop("plain_prompts", False) else emphasis.all_parsed(prompts)
        return analysis.analyze(self, images, prompts, method, seeds, **options)

    def resolve(self, **asked) -> dict[str, Any]:
        """The settings of `sample` that are used: see settings.resolve_settings.

        Raises: ValueError as there, and for guidance of a model that has no null condition.
        """
        settings = resolve_settings(self.config.get("sampling", {}), **asked)
        return checks.without_null(self.system, settings, asked.get("guidance_scale"))

    def _draw(self, asked: dict, conditions: Mapping) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places of the seeds, what they give) batch by batch; asked: the arguments of `sample`."""
        checks.check_options(self.system, asked, conditions)
        output, tile, batch_size = asked["output"], asked["tile"], asked["batch_size"]

        # One condition for each picture.
        named = {name: asked[name] for name in ("prompts", "class_labels")} | dict(conditions)
        given, seeds = pictures_of(named, asked)
        if not asked["plain_prompts"]:
            given = {
                k: emphasis.all_parsed(v) if k in ("prompts", "prompts_2") else v for k, v in given.items()
            }
            asked = asked | {"negative_prompts": emphasis.all_parsed(asked["negative_prompts"])}
        number = len(seeds)
        inverted = asked["inverted"]
        if inverted is not None:
            inversions.check_settings(inverted, asked, number)
            asked = asked | inverted.settings | {"image_shape": inverted.image_shape}
        shape = sizes.choose_shape(self.system, given, asked["image_shape"], asked["init_images"])
        settings = self.resolve(**{name: asked[name] for name in FALLBACK})
        checks.check_number("strength", asked["strength"], 0, 1)

        # What it starts from, and what of that is kept.
        def encode(images):
            return self._in_batches(lambda x: self.encode(x, tile), images, batch_size)

        start, known = ({}, None) if inverted is not None else self._start(asked, number, shape, encode)
        if {"images", "masks"} <= given.keys():
            known = known_pixels.read_known(given["images"], given["masks"], shape, "masks")

        run = self._prepare(
            given, seeds, settings, image_shape=shape, tile=tile,
            negative_prompts=asked["negative_prompts"], strength=asked["strength"], guidance=asked["guidance"], edit=with_faster(asked),
            x_T=asked["latents"], prompt_embeddings=asked["prompt_embeddings"], previews=asked["callback"] is not None,
            inverted=inverted, part=(asked["start"], asked["stop"]), records=output == "edited", long_prompts=asked["long_prompts"], **start,
        )  # fmt: skip

        # Denoise, decode and hand out, batch by batch.
        for places, latents, record in self._run(run, batch_size, asked["progress"], asked["callback"]):
            branches = latents if run.branches else latents[:, None]
            if output == "latents":
                checks.check_drawn(seeds[places], settings, self.params, latents)
                yield places, branches[:, -1]
                continue
            shown = branches if output in ("branches", "edited") else branches[:, -1:]
            pictures = [
                self._in_batches(lambda z: self.decode(z, tile), z, batch_size) for z in shown.swapaxes(0, 1)
            ]
            checks.check_drawn(seeds[places], settings, self.params, latents, *pictures)
            drawn = np.stack([grid.to_uint8(images) for images in pictures], axis=1)
            if known is not None:
                kept = known.of(places)
                drawn = np.stack([kept.paste(images) for images in drawn.swapaxes(0, 1)], axis=1)
            given = {"branches": drawn, "edited": (drawn, record)}
            yield places, given.get(output, drawn[:, -1])

    def sample_latents(
        self, given: Mapping[str, Sequence], seeds: Sequence[int], *, batch_size: int = 8, **options
    ) -> np.ndarray:
        """[N, h, w, c] float32, scaled latents. given: the conditions by name. options: all settings of `resolve`, and those of
        runs.make_run."""
        settings = {name: options.pop(name, None) for name in FALLBACK}
        run = self._prepare(given, check_seeds(seeds), settings, **options)
        return np.concatenate([latents for _, latents, _ in self._run(run, batch_size)])

    def _prepare(
        self, given, seeds: np.ndarray, settings: Mapping[str, Any], tile: int | None = None, **options
    ) -> Run:
        if self.system.unet.guidance_dim is not None:
            given = {"guidance_scales": [settings["guidance_scale"]] * len(seeds), **given}
        run = make_run(self.system, given, seeds, settings, tile=tile, **options)
        if run.recipe.tiling is None:
            return run
        encoded = tuple(
            one | {k: self.encode(one[k], tile) for k in self.system.encodes} for one in run.arguments.inputs
        )
        return run._replace(arguments=run.arguments._replace(inputs=encoded))

    def _run(
        self, run: Run, batch_size: int, progress: Callable | None = None, callback: Callable | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """(places, scaled latents [n, h, w, c] of the picture itself, or [n, branches, h, w, c], what edits show) batch by batch."""
        program, done = self._program(run.recipe) if run.num_steps else None, 0
        for index, number in batches(run.number, batch_size, self.devices.number):
            shown: dict[str, np.ndarray] = {}
            if program is None:
                x = run.x_start[index]
            else:
                with self._steps.calling(callback):
                    batch = run.batch(self.params, index)
                    out = jax.tree.map(np.asarray, compiling.called(program, "the sampler", batch))
                x, shown = out if run.recipe.records else (out, shown)
            done += number
            if progress:
                progress(done, run.number)
            yield index[:number], x[:number], {name: value[:number] for name, value in shown.items()}

    def decode(self, latents: Array, tile: int | None = None) -> np.ndarray:
        """Scaled latents [B,h,w,c] -> images [B,H,W,C] float32, about [-1, 1]. tile: as of `sample`."""
        factor, (height, width) = self.system.first_stage.factor, np.shape(latents)[1:3]
        in_tiles = self._in_tiles((height * factor, width * factor), tile)
        if in_tiles is None:
            return self._decode(latents)
        return in_tiles.decode(self.params["first_stage"], self.scale.unscale(np.asarray(latents)))

    def encode(self, images: Array, tile: int | None = None) -> np.ndarray:
        """Images [B,H,W,C] float in [-1, 1] -> scaled latents [B,h,w,c], the posterior's mode. tile: as of `sample`.

        Raises: ValueError for images of whole numbers, such as uint8.
        """
        checks.check_floats("images", images)
        in_tiles = self._in_tiles(np.shape(images)[1:3], tile)
        if in_tiles is None:
            return self._encode(images)
        return self.scale.scale(in_tiles.mode(self.params["first_stage"], np.asarray(images)))

    def _decode(self, latents: Array) -> np.ndarray:
        program = self._compiled("decode", lambda: make_decoder(self.system, self.scale), False, True)
        args = self.params["first_stage"], self.devices.filled(latents)
        return np.asarray(compiling.called(program, "the decoder", *args))[: len(latents)]

    def _encode(self, images: Array) -> np.ndarray:
        program = self._compiled("encode", lambda: make_encoder(self.system, self.scale), False, True)
        args = self.params["first_stage"], self.devices.filled(images)
        return np.asarray(compiling.called(program, "the encoder", *args))[: len(images)]

    def _in_tiles(self, image_shape: tuple[int, int], tile: int | None) -> TiledFirstStage | None:
        """The first stage in tiles, or None where one tile holds the picture."""
        tiling = sizes.tiling(self.system, tile, image_shape)
        if tiling is None:
            return None
        if tiling.tile not in self._tiled:
            self._tiled.setdefault(tiling.tile, TiledFirstStage(self.system.first_stage, tile=tiling.tile))
        return self._tiled[tiling.tile]

    def _start(self, asked: Mapping, number: int, shape, encode) -> tuple[dict, known_pixels.Known | None]:
        """({}, or x_start and keep of `make_run`; what stays of the pictures, if anything)."""
        if asked["fill_masks"] is not None and "masks" in self.system.takes:
            raise ValueError("fill_masks: this model takes masks itself, expected images and masks")
        init_images, fill_masks = (
            None if asked[name] is None else one_each(asked[name], number, name, spread=False)
            for name in ("init_images", "fill_masks")
        )
        images, known = known_pixels.read_start(init_images, asked["strength"], fill_masks, shape)
        if images is None:
            return {}, None
        start = {"x_start": encode(images)}
        if known is not None:
            start["keep"] = known.kept_cells(self.system.first_stage.factor)
        return {k: np.broadcast_to(v, (number, *v.shape[1:])) for k, v in start.items()}, known

    def _in_batches(self, fn: Callable, values: np.ndarray, batch_size: int) -> np.ndarray:
        """fn of values [N, ...], in batches."""
        found = batches(len(values), batch_size, self.devices.number)
        return np.concatenate([fn(values[index])[:n] for index, n in found])

    def _program(self, recipe: Recipe) -> Callable:
        """The compiled sampler; jit itself keeps one version per batch size and number of steps."""
        preview = self._steps.told if recipe.previews else None
        make = functools.partial(make_program, self.system, self.scale, recipe, preview, self.apply)
        return self._compiled(
            recipe, make, PER_PICTURE, differentiates=methods.differentiates(recipe.methods)
        )

    def _compiled(
        self, key: Any, make: Callable[[], Callable], *per_picture, differentiates: bool = False
    ) -> Callable:
        if key not in self._programs:
            jitted = self.devices.jit(make(), *per_picture, differentiates=differentiates)
            keeps = (
                self._executables
                and self.devices.number == 1
                and not getattr(key, "previews", False)
                and getattr(key, "gives_one", True)
                and " at 0x" not in str(key)  # a function of the user's, which has no lasting name
            )
            made = self._executables.kept(str(key), jitted) if keeps else jitted
            self._programs.setdefault(key, made)  # of two threads that make it, both take the first one's
        return self._programs[key]


def from_bundle(
    bundle: bundle_files.Bundle,
    executables: str | Path | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> LatentDiffusion:
    """executables: a folder of one's own in which compiled programs are kept, see xla/executables.py. devices: as of LatentDiffusion.

    Raises: ValueError for a first stage or a classifier alone, or parameters that do not fit the config.
    """
    if "classifier" in bundle.params:
        raise ValueError(
            "this checkpoint is a classifier of noised latents; name a model that samples, and this one in its guidance"
        )
    if "unet" not in bundle.params:
        raise ValueError("this checkpoint is a first stage alone; sampling needs a second stage")
    system = make_system(bundle.config, bundle.tokenizer)
    about = {name: bundle.config.get(name) for name in MODEL}
    about["words"] = system.tokenizer and system.tokenizer.get_vocab_size()
    kept = Executables(executables, about) if executables else None
    expected = kept.shapes("parameters", system.param_shapes) if kept else system.param_shapes()
    check_params(expected, bundle.params, "the checkpoint")
    params = system.in_compute_dtype(bundle.params)
    scale = latent_scale.of_config(bundle.config, system.first_stage.channels)
    return LatentDiffusion(system, params, scale, bundle.config, None, kept, devices)


def load(
    name: str | Path = "shapes",
    executables: str | Path | None = None,
    adapters: Sequence[str | tuple[str, float]] = (),
    dtype: str | None = None,
    **options,
) -> LatentDiffusion:
    """A shipped model by name, a bundle, a training workdir, a file of the original's, or a diffusers folder.

    executables: as of `from_bundle`. adapters: folders, workdirs or files of adapters, each with its weight: 'runs/lora', 'style.safetensors:0.7' or
    ('runs/lora', 0.7). dtype: 'bfloat16', 'float16' or 'float32', in which the networks compute; None is
    settings.compute_dtype's choice. options: fields of checkpoints.base.Options, such as ema=False or original_config="v1-inference.yaml".
    Raises: ValueError if there is no such thing, it is damaged, or it is a first stage alone.
    """
    checkpoint = open_checkpoint(name, Options(**options))
    for note in checkpoint.notes:
        log.info("%s", note)
    bundle, ways = checkpoint.bundle(), []
    if adapters:
        weighed = [adapter_files.parse(a) if isinstance(a, str) else a for a in adapters]
        found = [(adapter_files.read(path, model=bundle), weight) for path, weight in weighed]
        bundle = adapter_files.applied(bundle, found)
        ways = [adapter.section["name"] for adapter, _ in found if new_conditions(adapter.section)]
    chosen = dict(bundle.config, dtype=compute_dtype(bundle.config, jax.default_backend(), dtype))
    model = from_bundle(bundle._replace(config=chosen), executables)
    model.conditioned = tuple(ways)
    return model
