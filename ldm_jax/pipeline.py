"""A latent diffusion model ready to sample: conditions in, pictures out; also what training previews with.

One program is compiled per (sampler, number of steps, guided or not, batch size); prompts, seeds, guidance scale and eta are
arguments of it. Image i depends on seed i alone. It knows no data set and no file (bundle.py does).
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import bundle as bundles
from ldm_jax import checkpoints, grid
from ldm_jax.diffusion import process, timesteps
from ldm_jax.find import find
from ldm_jax.guidance import classifier_free
from ldm_jax.models.unet import apply_unet
from ldm_jax.samplers import base
from ldm_jax.system import System, make_system
from ldm_jax.types import Array, PyTree

MAX_SEED = 2**32 - 1
# Settings of a model whose makers recommend none.
FALLBACK = dict(
    num_steps=50, guidance_scale=1.0, sampler="ddim", eta=None, spacing="uniform", final_alpha=None
)
log = logging.getLogger(__name__)


class LatentDiffusion:
    """system: the parts. params: {'first_stage', 'unet', 'conditioner'}. scale_factor: latents = encoded * scale_factor.

    config: what the bundle says of itself; `sampling` holds the defaults that its makers recommend.
    """

    def __init__(self, system: System, params: PyTree, scale_factor: float, config: dict | None = None):
        self.system, self.scale_factor, self.config = system, float(scale_factor), config or {}
        self.params = jax.tree.map(jnp.asarray, params)
        self._programs: dict[tuple, Callable] = {}

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
        batch_size: int = 8,
        progress: Callable[[int, int], Any] | None = None,
        **conditions: Sequence | None,
    ) -> np.ndarray:
        """Draws one picture per seed.

        prompts | class_labels | conditions: one per seed, or a single one for all, of each name that the model takes
        (system.takes; what they are says TAKES of the files of conditioning/).
        negative_prompts: what guidance leads away from, in the place of the empty prompt; as prompts.
        seeds: integers in [0, 2**32). The same seed gives the same picture whatever stands beside it.
        num_steps, guidance_scale (1 is off), sampler, eta, spacing, final_alpha: None takes what the model's makers recommend
        (`settle`). eta: 0 is deterministic, 1 adds DDPM's
        noise (ddim, whose own is 0, and euler_ancestral, whose own is 1). spacing: a key of diffusion.timesteps.SPACINGS.
        final_alpha: where the last step of every sampler but ddpm leads, 'first' (the original's, and that of ddim and plms)
        or 'one' (the clean image, that of the others). progress: called with (pictures done, of how many).
        Returns: [N, H, W, 3] uint8. Raises: ValueError for a value that is out of range or not known.
        """
        given = dict(conditions, prompts=prompts, class_labels=class_labels)
        given = {name: values for name, values in given.items() if values is not None}
        settings = self.settle(
            num_steps=num_steps, guidance_scale=guidance_scale, sampler=sampler, eta=eta, spacing=spacing, final_alpha=final_alpha
        )  # fmt: skip
        latents = self.sample_latents(
            given,
            seeds,
            negative_prompts=negative_prompts,
            batch_size=batch_size,
            progress=progress,
            **settings,
        )
        return np.concatenate(
            [grid.to_uint8(self.decode(part))[:number] for part, number in _chunks(latents, batch_size)]
        )

    def settle(self, **asked) -> dict[str, Any]:
        """The settings of `sample` that are used: those asked for, and for None the makers' recommendation.

        The recommended spacing, eta and final_alpha belong to the recommended sampler: they are not taken for another one.
        Returns: num_steps, guidance_scale, sampler, eta, spacing, final_alpha; the last and eta may be None, the sampler's own.
        """
        recommended = self.config.get("sampling", {})
        own = recommended.get("sampler", FALLBACK["sampler"])
        kept = asked.get("sampler") in (None, own)
        belonging = ("eta", "spacing", "final_alpha")
        made = {k: recommended[k] for k in FALLBACK if k in recommended and (kept or k not in belonging)}
        return FALLBACK | made | {k: v for k, v in asked.items() if v is not None}

    def sample_latents(
        self,
        given: Mapping[str, Sequence],
        seeds: Sequence[int],
        *,
        negative_prompts,
        num_steps,
        guidance_scale,
        sampler,
        eta,
        spacing,
        final_alpha,
        batch_size,
        progress=None,
    ) -> np.ndarray:
        """[N, h, w, c] float32, scaled latents. given: the conditions by name; other arguments as `sample`."""
        seeds = _check_seeds(seeds)
        inputs, null = self._inputs(given, negative_prompts, seeds)
        guided = bool(null) and float(guidance_scale) != 1.0
        takes = inspect.signature(find("samplers", sampler).sampler).parameters
        for option, value in {"eta": eta or None, "final_alpha": final_alpha}.items():
            if value is not None and option not in takes:
                raise ValueError(f"sampler {sampler!r} takes no {option} (got {value}); ddim does")
        if eta is None:
            eta = takes["eta"].default if "eta" in takes else 0.0
        visited = timesteps.make_timesteps(spacing, self.system.schedule.num_timesteps, num_steps)
        batch_size = min(batch_size, len(seeds))
        program = self._program(sampler, guided, final_alpha)
        out = []
        for start in range(0, len(seeds), batch_size):
            index = np.minimum(
                np.arange(start, start + batch_size), len(seeds) - 1
            )  # the last batch is padded
            x = program(
                self.params,
                {k: jnp.asarray(v[index]) for k, v in inputs.items()},
                {k: jnp.asarray(v[index]) for k, v in null.items()} if guided else {},
                jnp.asarray(seeds[index]),
                jnp.float32(guidance_scale),
                jnp.float32(eta),
                jnp.asarray(visited),
            )
            out.append(np.asarray(x)[: len(seeds) - start])
            if progress:
                progress(min(start + batch_size, len(seeds)), len(seeds))
        return np.concatenate(out)

    def decode(self, latents: Array) -> np.ndarray:
        """Scaled latents [B,h,w,c] -> images [B,H,W,C] float32, about [-1, 1]."""
        if "decode" not in self._programs:
            scale = self.scale_factor
            self._programs["decode"] = jax.jit(lambda p, z: self.system.first_stage.decode(p, z / scale))
        return np.asarray(self._programs["decode"](self.params["first_stage"], jnp.asarray(latents)))

    def encode(self, images: Array) -> np.ndarray:
        """Images [B,H,W,C] float in [-1, 1] -> scaled latents [B,h,w,c], the posterior's mode."""
        if "encode" not in self._programs:
            scale = self.scale_factor
            self._programs["encode"] = jax.jit(lambda p, x: self.system.first_stage.mode(p, x) * scale)
        return np.asarray(self._programs["encode"](self.params["first_stage"], jnp.asarray(images)))

    def _inputs(self, given, negative_prompts, seeds: np.ndarray) -> tuple[dict, dict]:
        """(inputs, those that guidance puts in the place of the dropped ones), each with one entry per seed."""
        number, system = len(seeds), self.system
        system.check_names(given)
        given = {name: _one_each(values, number, name) for name, values in given.items()}
        if "seeds" in system.takes:
            given.setdefault("seeds", seeds)
        inputs = system.inputs(given)
        negative = None
        if negative_prompts is not None:
            if "prompts" not in system.takes:
                raise ValueError(
                    f"this model takes {', '.join(system.takes) or 'no conditions'}, got negative_prompts"
                )
            negative = dict(given, prompts=_one_each(negative_prompts, number, "negative_prompts"))
        null = system.null_inputs(number, negative) if system.drops else {}
        return inputs, {key: null[key] for key in system.drops}

    def _program(self, sampler: str, guided: bool, final_alpha: str | None) -> Callable:
        """The compiled sampler; jit itself keeps one version per batch size and number of steps."""
        make = find("samplers", sampler).sampler
        if (sampler, guided, final_alpha) not in self._programs:
            takes_eta = "eta" in inspect.signature(make).parameters
            system, scale_factor = self.system, self.scale_factor

            def run(params, inputs, null, seeds, guidance_scale, eta, visited):
                def model_fn(x, t, cond, control):
                    return apply_unet(system.unet, params["unet"], x, t, cond, control)

                inputs = system.encode_inputs(params["first_stage"], scale_factor, inputs)
                cond = system.condition(params, inputs)
                if guided:
                    uncond = system.condition(params, system.unconditional(inputs, null))
                    fn = classifier_free.guide(model_fn, cond, uncond, guidance_scale)
                else:
                    fn = classifier_free.condition(model_fn, cond)
                eps_fn = process.to_eps_fn(fn, system.schedule, system.prediction_type)
                keys = jax.vmap(jax.random.key)(seeds)
                x_T = base.step_noise(keys, (seeds.shape[0], *system.latent_shape), "x_T")
                options = {"eta": eta} if takes_eta else {}
                if final_alpha is not None:
                    options["final_alpha"] = final_alpha
                chosen = make(system.schedule, **options)
                return base.sample(eps_fn, chosen, x_T, visited, keys)[0]

            self._programs[sampler, guided, final_alpha] = jax.jit(run)
        return self._programs[sampler, guided, final_alpha]


def _check_seeds(seeds: Sequence[int]) -> np.ndarray:
    seeds = np.atleast_1d(np.asarray(seeds))
    if not seeds.size:
        raise ValueError("seeds: got none, expected at least one")
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.min() < 0 or seeds.max() > MAX_SEED:
        raise ValueError(f"seeds: got {seeds.tolist()}, expected integers in [0, {MAX_SEED}]")
    return seeds.astype(np.uint32)


def _one_each(values: Any, number: int, name: str) -> Sequence:
    """values, one per seed: a single one stands for all. Raises: ValueError for another number of them."""
    values = [values] if isinstance(values, str | int) else values
    values = [values[0]] * number if len(values) == 1 else values
    if len(values) != number:
        raise ValueError(
            f"{name}: got {len(values)} for {number} seeds, expected one for each, or a single one"
        )
    return values


def _chunks(values: np.ndarray, size: int):
    """(piece of `size`, how many of its entries count): the last piece is padded, so that it compiles nothing."""
    size = min(size, len(values))
    for start in range(0, len(values), size):
        index = np.minimum(np.arange(start, start + size), len(values) - 1)
        yield values[index], len(values) - start


def from_bundle(bundle: bundles.Bundle) -> LatentDiffusion:
    """Raises: ValueError for a first stage alone, or parameters that do not fit the config."""
    if "unet" not in bundle.params:
        raise ValueError("this checkpoint is a first stage alone; sampling needs a second stage")
    system = make_system(bundle.config, bundle.tokenizer)
    expected = jax.eval_shape(system.init, jax.random.key(0))
    expected["first_stage"] = jax.eval_shape(system.first_stage.init, jax.random.key(0))
    check_params(expected, bundle.params, "the checkpoint")
    return LatentDiffusion(system, bundle.params, bundle.config["scale_factor"], bundle.config)


def check_sampling(options: Mapping[str, Any], num_timesteps: int) -> None:
    """A config's `sampling` section. Raises: ValueError for what would otherwise stop a training run at its first preview."""
    known = (*FALLBACK, "batch_size")
    for name in options:
        if name not in known:
            raise ValueError(f"sampling has no option {name!r}; it has: {', '.join(known)}")
    find("samplers", options.get("sampler", FALLBACK["sampler"]))
    steps = options.get("num_steps", FALLBACK["num_steps"])
    timesteps.make_timesteps(options.get("spacing", FALLBACK["spacing"]), num_timesteps, steps)


def check_params(expected: PyTree, given: PyTree, whose: str) -> None:
    """Compares names and shapes of two trees of arrays (or of their shapes).

    Raises: ValueError that lists the first ten parameters that are missing, unused or of another shape. whose: given's.
    """
    want, got = ({k: v.shape for k, v in _leaves(tree).items()} for tree in (expected, given))
    wrong = [f"{k} is missing" for k in want if k not in got] + [
        f"{k} is not used" for k in got if k not in want
    ]
    wrong += [f"{k} has shape {got[k]}, expected {want[k]}" for k in want if k in got and got[k] != want[k]]
    if wrong:
        raise ValueError(f"{len(wrong)} parameters of {whose} do not fit the config: {'; '.join(wrong[:10])}")


def _leaves(tree: PyTree) -> dict[str, Any]:
    return {
        "/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def load(name: str | Path = "shapes", **options) -> LatentDiffusion:
    """A shipped model by name, a bundle, a training workdir, a file of the original's, or a diffusers folder.

    options: fields of checkpoints.Options, such as ema=False or original_config="v1-inference.yaml".
    Raises: ValueError if there is no such thing, it is damaged, or it is a first stage alone.
    """
    checkpoint = checkpoints.open_checkpoint(name, checkpoints.Options(**options))
    for note in checkpoint.notes:
        log.info("%s", note)
    return from_bundle(checkpoint.bundle())
