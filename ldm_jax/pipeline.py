"""A latent diffusion model ready to sample: prompts or classes in, pictures out; also what training previews with.

One program is compiled per (sampler, number of steps, guided or not, batch size); prompts, seeds, guidance scale and eta are
arguments of it. Image i depends on seed i alone. It knows no data set and no file (bundle.py does).
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import bundle as bundles
from ldm_jax import grid
from ldm_jax.diffusion import process, timesteps
from ldm_jax.find import find
from ldm_jax.guidance import classifier_free
from ldm_jax.models.unet import apply_unet
from ldm_jax.samplers import base
from ldm_jax.system import System, make_system
from ldm_jax.types import Array, Cond, PyTree

MAX_SEED = 2**32 - 1


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
        num_steps: int = 50,
        guidance_scale: float | None = None,
        sampler: str = "ddim",
        eta: float = 0.0,
        spacing: str = "uniform",
        final_alpha: str | None = None,
        batch_size: int = 8,
        progress: Callable[[int, int], Any] | None = None,
    ) -> np.ndarray:
        """Draws one picture per seed.

        prompts | class_labels: one per seed, or a single one for all; which of them the model takes, if any.
        seeds: integers in [0, 2**32). The same seed gives the same picture whatever stands beside it.
        guidance_scale: 1 is off; None takes the bundle's recommendation. eta: 0 is deterministic (ddim only).
        spacing: 'uniform', 'quad', 'trailing' or the 'original' timesteps. final_alpha: where the last step of ddim and plms
        leads, 'first' (the original's, and theirs) or 'one'. progress: called with (pictures done, of how many).
        Returns: [N, H, W, 3] uint8. Raises: ValueError for a value that is out of range or not known.
        """
        latents = self.sample_latents(
            prompts, seeds, class_labels=class_labels, num_steps=num_steps, guidance_scale=guidance_scale, sampler=sampler,
            eta=eta, spacing=spacing, final_alpha=final_alpha, batch_size=batch_size, progress=progress,
        )  # fmt: skip
        return np.concatenate(
            [grid.to_uint8(self.decode(part))[:number] for part, number in _chunks(latents, batch_size)]
        )

    def sample_latents(
        self,
        prompts,
        seeds,
        *,
        class_labels,
        num_steps,
        guidance_scale,
        sampler,
        eta,
        spacing,
        final_alpha,
        batch_size,
        progress=None,
    ) -> np.ndarray:
        """[N, h, w, c] float32, scaled latents; arguments as `sample`."""
        seeds = _check_seeds(seeds)
        inputs = self._inputs(prompts, class_labels, len(seeds))
        if guidance_scale is None:
            guidance_scale = self.config.get("sampling", {}).get("guidance_scale", 1.0)
        guided = inputs is not None and float(guidance_scale) != 1.0
        takes = inspect.signature(find("samplers", sampler).sampler).parameters
        for option, value in {"eta": eta or None, "final_alpha": final_alpha}.items():
            if value is not None and option not in takes:
                raise ValueError(f"sampler {sampler!r} takes no {option} (got {value}); ddim does")
        visited = timesteps.make_timesteps(spacing, self.system.schedule.num_timesteps, num_steps)
        batch_size = min(batch_size, len(seeds))
        program = self._program(sampler, guided, final_alpha)
        null = jax.tree.map(jnp.asarray, self.system.null_inputs(batch_size)) if guided else None
        out = []
        for start in range(0, len(seeds), batch_size):
            index = np.minimum(
                np.arange(start, start + batch_size), len(seeds) - 1
            )  # the last batch is padded
            part = None if inputs is None else {k: jnp.asarray(v[index]) for k, v in inputs.items()}
            x = program(
                self.params,
                part,
                null,
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
            self._programs["encode"] = jax.jit(lambda p, x: self.system.first_stage.encode(p, x))
        encoded = np.asarray(self._programs["encode"](self.params["first_stage"], jnp.asarray(images)))
        mode = np.split(encoded, 2, axis=-1)[0] if self.system.first_stage.name == "kl" else encoded
        return mode * self.scale_factor

    def _inputs(self, prompts, class_labels, number: int) -> dict[str, np.ndarray] | None:
        given = {"prompts": prompts, "class_labels": class_labels}
        wanted = {"text": "prompts", "class_label": "class_labels", None: None}[self.system.conditioning]
        for name, values in given.items():
            if values is not None and name != wanted:
                raise ValueError(
                    f"this model takes {wanted or 'neither prompts nor class_labels'}, got {name}"
                )
        if wanted is None:
            return None
        values = given[wanted]
        if values is None:
            raise ValueError(f"this model takes {wanted}, got none")
        values = [values] if isinstance(values, str | int) else list(values)
        values = values * number if len(values) == 1 else values
        if len(values) != number:
            raise ValueError(
                f"{wanted}: got {len(values)} for {number} seeds, expected one for each, or a single one"
            )
        return self.system.inputs(values)

    def _program(self, sampler: str, guided: bool, final_alpha: str | None) -> Callable:
        """The compiled sampler; jit itself keeps one version per batch size and number of steps."""
        make = find("samplers", sampler).sampler
        if (sampler, guided, final_alpha) not in self._programs:
            takes_eta = "eta" in inspect.signature(make).parameters
            system = self.system

            def run(params, inputs, null, seeds, guidance_scale, eta, visited):
                def model_fn(x, t, cond, control):
                    return apply_unet(system.unet, params["unet"], x, t, cond, control)

                def condition(values) -> Cond:
                    return system.condition(params.get("conditioner", {}), values)

                if guided:
                    fn = classifier_free.guide(model_fn, condition(inputs), condition(null), guidance_scale)
                else:
                    fn = classifier_free.condition(model_fn, condition(inputs))
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


def load(name: str = "shapes", *, ema: bool = True) -> LatentDiffusion:
    """A shipped model by name, a bundle folder, or a training workdir (its running average unless ema is False).

    Raises: ValueError if there is no such thing, or it is damaged.
    """
    return from_bundle(bundles.open_any(name, ema=ema))
