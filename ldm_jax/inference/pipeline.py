"""A latent diffusion model ready to sample: conditions in, pictures out; also what training previews with.

One program is compiled per (sampler, number of steps, guided or not, batch size, size of the pictures, whether it starts from a
picture, whether it keeps part of one); prompts, seeds, guidance scale, eta and strength are arguments of it. There are a few batch
sizes alone, see `bucket`: however many pictures calls ask for, a service stops compiling. Image i depends on seed i alone. It
knows no data set and no file (checkpoints/bundle.py does).
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import grid
from ldm_jax.checkpoints import bundle as bundles
from ldm_jax.checkpoints import open as checkpoints
from ldm_jax.diffusion import timesteps
from ldm_jax.find import find
from ldm_jax.inference import known_pixels, settings, sizes
from ldm_jax.inference.program import Recipe, make_decoder, make_program
from ldm_jax.inference.tiled_first_stage import TiledFirstStage
from ldm_jax.params import check_params
from ldm_jax.system import System, make_system
from ldm_jax.types import MAX_SEED, Array, PyTree
from ldm_jax.xla.executables import Executables

# Settings of a model whose makers recommend none.
FALLBACK = dict(
    num_steps=50,
    guidance_scale=1.0,
    sampler="ddim",
    eta=None,
    spacing="uniform",
    final_alpha=None,
    clip_denoised=None,
)
# What of a config its programs are made from; tokenizers are no part of them.
MODEL = (
    "image_size", "dtype", "first_stage", "model", "conditioning", "schedule", "prediction_type", "scale_factor",
)  # fmt: skip
log = logging.getLogger(__name__)


def settle(recommended: Mapping[str, Any], **asked) -> dict[str, Any]:
    """The settings that a model is sampled with, see LatentDiffusion.settle. recommended: its config's `sampling`.

    Raises: ValueError for a number that is not finite, or none that can be.
    """
    own = recommended.get("sampler", FALLBACK["sampler"])
    kept = asked.get("sampler") in (None, own)
    belonging = ("eta", "spacing", "final_alpha", "clip_denoised")
    made = {k: recommended[k] for k in FALLBACK if k in recommended and (kept or k not in belonging)}
    settled = FALLBACK | made | {k: v for k, v in asked.items() if v is not None}
    settings.check(settled)
    return settled


class LatentDiffusion:
    """system: the parts. params: {'first_stage', 'unet', 'conditioner'}. scale_factor: latents = encoded * scale_factor.

    config: what the bundle says of itself; `sampling` holds the defaults that its makers recommend.
    programs: jitted functions that need not be traced any more: a Recipe's make_program, and 'decode', make_decoder.
    executables: where compiled programs are kept from one process to the next; None: nowhere but in jax's own cache.
    """

    def __init__(
        self,
        system: System,
        params: PyTree,
        scale_factor: float,
        config: dict | None = None,
        programs: Mapping[Recipe | str, Callable] | None = None,
        executables: Executables | None = None,
    ):
        self.system, self.scale_factor, self.config = system, float(scale_factor), config or {}
        self.params = jax.device_put(params)  # all at once: one by one takes 20 times as long
        self._programs: dict[Recipe | str, Callable] = dict(programs or {})
        self._executables = executables
        self._tiled: dict[int, TiledFirstStage] = {}
        scale = self.config.get("sampling", {}).get("guidance_scale", 1.0)
        if scale != 1 and not system.drops:
            log.info(
                "guidance is off: the model has no null condition that its recommended scale of %s leads away from",
                scale,
            )

    def sample(
        self,
        prompts: Sequence[str] | None = None,
        seeds: Sequence[int] = (0,),
        *,
        class_labels: Sequence[int] | None = None,
        negative_prompts: Sequence[str] | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        spacing: str | None = None,
        final_alpha: str | None = None,
        clip_denoised: float | None = None,
        image_shape: tuple[int, int] | None = None,
        init_images: Sequence | None = None,
        strength: float = 1.0,
        fill_masks: Sequence | None = None,
        tile: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int, int], Any] | None = None,
        **conditions: Sequence | None,
    ) -> np.ndarray:
        """Draws one picture per seed.

        prompts | class_labels | conditions: one per seed, or a single one for all, of each name that the model takes
        (system.takes; what they are says TAKES of the files of conditioning/).
        negative_prompts: what guidance leads away from, in the place of the empty prompt; as prompts.
        seeds: integers in [0, 2**32). The same seed gives the same picture whatever stands beside it, to
        rounding: batches of another size are computed by another program.
        num_steps, guidance_scale (1 is off), sampler, eta, spacing, final_alpha, clip_denoised: None takes what the model's makers recommend
        (`settle`). eta: 0 is deterministic, 1 adds DDPM's
        noise (ddim, whose own is 0, and euler_ancestral, whose own is 1). spacing: a key of diffusion.timesteps.SPACINGS.
        final_alpha: where the last step of every sampler but ddpm leads, 'first' (the original's, and that of ddim and plms)
        or 'one' (the clean image, that of the others). clip_denoised: a size to which ddim, ddpm and heun clip predicted clean
        latents (diffusers' clip_sample). progress: called with (pictures done, of how many).

        image_shape: (H, W) in pixels, multiples of system.cell. None: as large as the spatial conditions ask for, or else
        init_images, or else what the model was trained at.
        init_images: one per seed or one for all, [H, W, 3], uint8 or floats in [-1, 1]. Sampling starts from them, noised with
        the seed's noise to the first timestep that is visited, and runs the last round(strength * num_steps) steps.
        strength: 0 gives the reconstruction of init_images, 1 what is drawn without them. (Meng et al. 2022, SDEdit,
        arXiv:2108.01073. The original, scripts/img2img.py, noises to one level above the first that it visits, and fails at 1.)
        fill_masks: as init_images, [H, W], bool or in [0, 1]. Where it is below 0.5 the picture is known: latent cells of known
        pixels alone are kept at every step (editing/blended.py), for models that take no mask; what lies in the hole counts
        for strength < 1 alone. There, and in models that take images and masks, known pixels of the result are the given
        bytes (floats: the nearest ones).
        tile: side in pixels, a multiple of system.cell, of the overlapping tiles in which pictures larger than that are encoded,
        denoised and decoded; None: in one piece. The network runs in the memory of one tile and does not see past it (inference/tiles.py); the
        first stage answers as it would untiled, in the memory of a few and of its coarsest level (inference/tiled_first_stage.py).
        batch_size: at most so many pictures are drawn, encoded and decoded at once; fewer than that in batches of `bucket`.

        Returns: [N, H, W, 3] uint8. Raises: ValueError for a value that is out of range or not known, and for pictures that are not
        finite, whose seeds it names. What has no effect, and words that the model does not know, are lines in the log.
        """
        seeds = _check_seeds(seeds)
        given = dict(conditions, prompts=prompts, class_labels=class_labels)
        given = self._one_each({k: values for k, values in given.items() if values is not None}, len(seeds))
        shape = sizes.choose_shape(self.system, given, image_shape, init_images)
        sizes.tiling(self.system, tile, shape)  # says now what is wrong with it

        def encode(images):
            return _in_batches(lambda x: self.encode(x, tile), images, batch_size)

        settled = self.settle(
            num_steps=num_steps, guidance_scale=guidance_scale, sampler=sampler, eta=eta, spacing=spacing, final_alpha=final_alpha,
            clip_denoised=clip_denoised,
        )  # fmt: skip
        settings.check_number("strength", strength, 0, 1)
        start, known = self._start(init_images, strength, fill_masks, len(seeds), shape, encode)
        if {"images", "masks"} <= given.keys():
            known = known_pixels.read_known(given["images"], given["masks"], shape, "masks")
        latents = self.sample_latents(
            given,
            seeds,
            negative_prompts=negative_prompts,
            batch_size=batch_size,
            progress=progress,
            image_shape=shape,
            strength=strength,
            tile=tile,
            **start,
            **settled,
        )
        drawn = []
        for index, n in _batches(len(seeds), batch_size):
            images, kept = self.decode(latents[index], tile)[:n], index[:n]
            settings.check_drawn(seeds[kept], settled, self.params, latents[kept], images)
            drawn.append(grid.to_uint8(images))
        return np.concatenate(drawn) if known is None else known.paste(np.concatenate(drawn))

    def settle(self, **asked) -> dict[str, Any]:
        """The settings of `sample` that are used: those asked for, and for None the makers' recommendation.

        The recommended spacing, eta, final_alpha and clip_denoised belong to the recommended sampler: they are not taken for another one.
        Returns: num_steps, guidance_scale, sampler, eta, spacing, final_alpha, clip_denoised; the last two and eta may be None, the
        sampler's own.
        Raises: ValueError for a number that is not finite, or none that can be, and for guidance of a model that has no null condition.
        """
        settled = settle(self.config.get("sampling", {}), **asked)
        return settings.without_null(self.system, settled, asked.get("guidance_scale"))

    def sample_latents(
        self,
        given: Mapping[str, Sequence],
        seeds: Sequence[int],
        *,
        negative_prompts=None,
        num_steps,
        guidance_scale,
        sampler,
        eta,
        spacing,
        final_alpha,
        clip_denoised,
        batch_size,
        progress=None,
        image_shape=None,
        x_start=None,
        keep=None,
        strength=1.0,
        tile=None,
    ) -> np.ndarray:
        """[N, h, w, c] float32, scaled latents. given: the conditions by name; other arguments as `sample`, and

        x_start: [N, h, w, c] float32 scaled latents, the init_images'. keep: [N, h, w, 1] float32, 1 where x_start is kept.
        """
        seeds = _check_seeds(seeds)
        if self.system.unet.n_embed not in (None, self.system.first_stage.channels):
            raise ValueError(
                f"this network gives logits of {self.system.unet.n_embed} codes (n_embed), expected {self.system.first_stage.channels} "
                "channels of noise: the original has no sampler for it either"
            )
        shape = self.system.image_shape if image_shape is None else image_shape
        inputs, null = self._inputs(given, negative_prompts, seeds, shape)
        guided = bool(null) and float(guidance_scale) != 1.0
        takes = inspect.signature(find("samplers", sampler).sampler).parameters
        for option, value in {
            "eta": eta or None,
            "final_alpha": final_alpha,
            "clip_denoised": clip_denoised,
        }.items():
            if value is not None and option not in takes:
                raise ValueError(f"sampler {sampler!r} takes no {option} (got {value}); ddim does")
        if clip_denoised is not None and not clip_denoised > 0:
            raise ValueError(f"clip_denoised: got {clip_denoised}, expected a number above 0")
        if eta is None:
            eta = takes["eta"].default if "eta" in takes else 0.0
        visited = timesteps.make_timesteps(spacing, self.system.schedule.num_timesteps, num_steps)
        num_run = len(visited) if x_start is None else round(strength * len(visited))
        settings.say_what_has_no_effect(guided, negative_prompts, strength, len(visited), num_run)
        if not num_run:
            return np.asarray(x_start)
        from_image = x_start is not None and strength < 1
        latent_shape = self.system.latent_shape_of(shape)
        tiling = sizes.tiling(self.system, tile, shape)
        recipe = Recipe(
            sampler, guided, final_alpha, latent_shape, from_image, keep is not None, tiling, clip_denoised
        )
        if tiling is not None:
            inputs |= {k: self.encode(inputs[k], tile) for k in self.system.encodes}
        program = self._program(recipe)
        known = {"x_start": x_start} if from_image or recipe.keeps else {}
        known |= {"keep": keep} if recipe.keeps else {}
        out, done = [], 0
        for index, number in _batches(len(seeds), batch_size):
            x = program(
                self.params,
                {k: jnp.asarray(v[index]) for k, v in inputs.items()},
                {k: jnp.asarray(v[index]) for k, v in null.items()} if guided else {},
                jnp.asarray(seeds[index]),
                jnp.float32(guidance_scale),
                jnp.float32(eta),
                jnp.asarray(visited),
                jnp.int32(len(visited) - num_run),
                {k: jnp.asarray(v[index]) for k, v in known.items()},
            )
            out.append(np.asarray(x)[:number])
            done += number
            if progress:
                progress(done, len(seeds))
        return np.concatenate(out)

    def decode(self, latents: Array, tile: int | None = None) -> np.ndarray:
        """Scaled latents [B,h,w,c] -> images [B,H,W,C] float32, about [-1, 1]. tile: as of `sample`."""
        factor, (height, width) = self.system.first_stage.factor, np.shape(latents)[1:3]
        in_tiles = self._in_tiles((height * factor, width * factor), tile)
        if in_tiles is None:
            return self._decode(latents)
        return in_tiles.decode(self.params["first_stage"], np.asarray(latents) / self.scale_factor)

    def encode(self, images: Array, tile: int | None = None) -> np.ndarray:
        """Images [B,H,W,C] float in [-1, 1] -> scaled latents [B,h,w,c], the posterior's mode. tile: as of `sample`."""
        in_tiles = self._in_tiles(np.shape(images)[1:3], tile)
        if in_tiles is None:
            return self._encode(images)
        return in_tiles.mode(self.params["first_stage"], np.asarray(images)) * np.float32(self.scale_factor)

    def _decode(self, latents: Array) -> np.ndarray:
        program = self._compiled("decode", lambda: make_decoder(self.system, self.scale_factor))
        return np.asarray(program(self.params["first_stage"], jnp.asarray(latents)))

    def _encode(self, images: Array) -> np.ndarray:
        def make():
            return lambda params, x: self.system.first_stage.mode(params, x) * self.scale_factor

        return np.asarray(self._compiled("encode", make)(self.params["first_stage"], jnp.asarray(images)))

    def _in_tiles(self, image_shape: tuple[int, int], tile: int | None) -> TiledFirstStage | None:
        """The first stage in tiles, or None where one tile holds the picture."""
        tiling = sizes.tiling(self.system, tile, image_shape)
        if tiling is None:
            return None
        if tiling.tile not in self._tiled:
            self._tiled[tiling.tile] = TiledFirstStage(self.system.first_stage, tile=tiling.tile)
        return self._tiled[tiling.tile]

    def _start(
        self, init_images, strength, fill_masks, number, shape, encode
    ) -> tuple[dict, known_pixels.Known | None]:
        """({}, or x_start and keep of `sample_latents`; what stays of the pictures, if anything)."""
        if fill_masks is not None and "masks" in self.system.takes:
            raise ValueError("fill_masks: this model takes masks itself, expected images and masks")
        init_images, fill_masks = (
            values if values is None else one_each(values, number, name, spread=False)
            for name, values in {"init_images": init_images, "fill_masks": fill_masks}.items()
        )
        images, known = known_pixels.read_start(init_images, strength, fill_masks, shape)
        if images is None:
            return {}, None
        start = {"x_start": encode(images)}
        if known is not None:
            start["keep"] = known.kept_cells(self.system.first_stage.factor)
        return {k: np.broadcast_to(v, (number, *v.shape[1:])) for k, v in start.items()}, known

    def _one_each(self, given: Mapping[str, Sequence], number: int) -> dict[str, Sequence]:
        self.system.check_names(given)
        return {name: one_each(values, number, name) for name, values in given.items()}

    def _inputs(self, given, negative_prompts, seeds: np.ndarray, shape) -> tuple[dict, dict]:
        """(inputs, those that guidance puts in the place of the dropped ones), each with one entry per seed."""
        number, system = len(seeds), self.system
        given = self._one_each(given, number)
        if "seeds" in system.takes:
            given.setdefault("seeds", seeds)
        inputs = system.inputs(given, shape)
        said, negative = list(given.get("prompts", ())), None
        if negative_prompts is not None:
            if "prompts" not in system.takes:
                raise ValueError(
                    f"this model takes {', '.join(system.takes) or 'no conditions'}, got negative_prompts"
                )
            negative = dict(given, prompts=one_each(negative_prompts, number, "negative_prompts"))
            said += negative["prompts"]
        if said:
            settings.say_unknown_words(said, system.tokenizer)
        null = system.null_inputs(number, negative, shape) if system.drops else {}
        return inputs, {key: null[key] for key in system.drops}

    def _program(self, recipe: Recipe) -> Callable:
        """The compiled sampler; jit itself keeps one version per batch size and number of steps."""
        return self._compiled(recipe, lambda: make_program(self.system, self.scale_factor, recipe))

    def _compiled(self, key: Recipe | str, make: Callable[[], Callable]) -> Callable:
        if key not in self._programs:
            jitted = jax.jit(make())
            self._programs[key] = self._executables.kept(str(key), jitted) if self._executables else jitted
        return self._programs[key]


def _check_seeds(seeds: Sequence[int]) -> np.ndarray:
    seeds = np.atleast_1d(np.asarray(seeds))
    if not seeds.size:
        raise ValueError("seeds: got none, expected at least one")
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.min() < 0 or seeds.max() > MAX_SEED:
        raise ValueError(f"seeds: got {seeds.tolist()}, expected integers in [0, {MAX_SEED}]")
    return seeds.astype(np.uint32)


def one_each(values: Any, number: int, name: str, spread: bool = True) -> Sequence:
    """values, one per seed: a single one stands for all, and is repeated if spread. Raises: ValueError for another number."""
    values = [values] if isinstance(values, str | int | Mapping) else values
    if len(values) == 1:
        return [values[0]] * number if spread else values
    if len(values) != number:
        raise ValueError(
            f"{name}: got {len(values)} for {number} seeds, expected one for each, or a single one"
        )
    return values


def bucket(number: int, batch_size: int) -> int:
    """How many pictures are computed at once for `number` of them: 1, 2, 4, 8, … or batch_size, the least that holds as many as
    there may be at once. What a batch has too many are copies of its last picture. Raises: ValueError for a batch_size below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    return min(batch_size, 1 << (number - 1).bit_length())


def _batches(number: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """(indices of a batch into `number` values, how many of them count); all batches are of one size."""
    size = bucket(number, batch_size)
    for start in range(0, number, size):
        yield np.minimum(np.arange(start, start + size), number - 1), min(size, number - start)


def _in_batches(fn: Callable, values: np.ndarray, batch_size: int) -> np.ndarray:
    """fn of values [N, ...], in batches."""
    return np.concatenate([fn(values[index])[:n] for index, n in _batches(len(values), batch_size)])


def from_bundle(bundle: bundles.Bundle, executables: str | Path | None = None) -> LatentDiffusion:
    """executables: a folder of one's own in which compiled programs are kept, see xla/executables.py.

    Raises: ValueError for a first stage alone, or parameters that do not fit the config.
    """
    if "unet" not in bundle.params:
        raise ValueError("this checkpoint is a first stage alone; sampling needs a second stage")
    system = make_system(bundle.config, bundle.tokenizer)
    about = {name: bundle.config.get(name) for name in MODEL}
    about["words"] = system.tokenizer and system.tokenizer.get_vocab_size()
    kept = Executables(executables, about) if executables else None
    expected = kept.shapes("parameters", system.param_shapes) if kept else system.param_shapes()
    check_params(expected, bundle.params, "the checkpoint")
    params = system.in_compute_dtype(bundle.params)
    return LatentDiffusion(system, params, bundle.config["scale_factor"], bundle.config, executables=kept)


def check_sampling(options: Mapping[str, Any], num_timesteps: int) -> None:
    """A config's `sampling` section. Raises: ValueError for what would otherwise stop a training run at its first preview."""
    known = (*FALLBACK, "batch_size")
    for name in options:
        if name not in known:
            raise ValueError(f"sampling has no option {name!r}; it has: {', '.join(known)}")
    find("samplers", options.get("sampler", FALLBACK["sampler"]))
    steps = options.get("num_steps", FALLBACK["num_steps"])
    timesteps.make_timesteps(options.get("spacing", FALLBACK["spacing"]), num_timesteps, steps)


def load(name: str | Path = "shapes", executables: str | Path | None = None, **options) -> LatentDiffusion:
    """A shipped model by name, a bundle, a training workdir, a file of the original's, or a diffusers folder.

    executables: as of `from_bundle`. options: fields of checkpoints.Options, such as ema=False or original_config="v1-inference.yaml".
    Raises: ValueError if there is no such thing, it is damaged, or it is a first stage alone.
    """
    checkpoint = checkpoints.open_checkpoint(name, checkpoints.Options(**options))
    for note in checkpoint.notes:
        log.info("%s", note)
    return from_bundle(checkpoint.bundle(), executables)
