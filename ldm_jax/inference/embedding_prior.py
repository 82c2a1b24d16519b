"""From captions' embeddings to pictures' embeddings: the prior of unCLIP, on disk and in use.

Decides what a prior's folder holds, and that embeddings are noised in units of their own deviation. The network is
models/embedding_prior.py, what trains it commands/train_prior.py.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax import text_files
from ldm_jax.config import call
from ldm_jax.convert import files
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import make_timesteps
from ldm_jax.models.embedding_prior import EmbeddingPrior
from ldm_jax.params import check_params, from_names, named_leaves
from ldm_jax.samplers import base, ddim
from ldm_jax.types import KEY_IMPL, Array, PyTree

CONFIG, WEIGHTS = "prior.json", "weights.safetensors"
STATISTICS = ("image_mean", "image_std", "text_mean", "text_std")


class Prior:
    """network: its options, those of models.embedding_prior.EmbeddingPrior. params: {'network': its parameters, and
    STATISTICS, each [width] float32}."""

    def __init__(self, network: Mapping[str, Any], params: PyTree):
        self.options, self.params = dict(network), params
        # Nichol & Dhariwal 2021, as of the paper's prior.
        self.network, self.schedule = (
            call(EmbeddingPrior, self.options, "prior"),
            make_schedule("cosine", 1000),
        )
        self._draw = jax.jit(self._drawn)

    @property
    def width(self) -> int:
        return self.network.width

    def embeddings(
        self, text: Sequence | Array, seeds: Sequence[int], num_steps: int = 25, guidance_scale: float = 2.0
    ) -> np.ndarray:
        """[N, width] float32: a picture's embedding for each of text [N, width], the captions' by the same CLIP, drawn
        by each its own of seeds [N] with num_steps steps of DDIM. guidance_scale: 1 is off.

        Raises: ValueError for another width or number of seeds.
        """
        text = np.asarray(text, np.float32)
        if text.ndim != 2 or text.shape[1] != self.width or len(seeds) != len(text):
            raise ValueError(
                f"prior: text embeddings of shape {text.shape} and {len(seeds)} seeds, expected (N, {self.width}) and N"
            )
        steps = make_timesteps("trailing", self.schedule.num_timesteps, num_steps)
        return np.asarray(self._draw(self.params, text, np.asarray(seeds, np.uint32), steps, guidance_scale))

    def _drawn(self, params, text, seeds, steps, scale):
        text = (text - params["text_mean"]) / params["text_std"]
        keys = base.keys_of(seeds)

        def eps_fn(x, t, control=None):
            both = self.network.apply(
                {"params": params["network"]},
                jnp.concatenate([x, x]),
                jnp.concatenate([t, t]),
                jnp.concatenate([jnp.zeros_like(text), text]),
            )
            without, under = jnp.split(both, 2)
            x_start = without + scale * (under - without)
            signal, sigma = (
                self.schedule.sqrt_alphas_cumprod[t],
                self.schedule.sqrt_one_minus_alphas_cumprod[t],
            )
            return (x - signal[:, None] * x_start) / sigma[:, None], {}

        x_T = base.step_noise(keys, text.shape, "x_T")
        sampler = ddim.sampler(self.schedule, final_alpha="one")
        drawn, _, _ = base.sample(eps_fn, sampler, x_T, steps, keys)
        return drawn * params["image_std"] + params["image_mean"]

    def save(self, folder: str | Path) -> None:
        """Writes the folder whole, in the place of a prior that was there."""
        with files.replacing(folder, overwrite=True) as partial:
            partial.mkdir()
            files.write_safetensors(partial / WEIGHTS, named_leaves(self.params), "float32")
            (partial / CONFIG).write_text(json.dumps({"network": self.options}, indent=2) + "\n")


def load(folder: str | Path) -> Prior:
    """Raises: ValueError for a folder that `Prior.save` did not write, or that is damaged."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(f"prior {folder} not found, expected a folder with {CONFIG} and {WEIGHTS}")
    options = text_files.read_object(folder / CONFIG, "prior", {"network": dict})["network"]
    tensors = files.open_tensors(folder / WEIGHTS)
    prior = Prior(options, {})
    template = jax.eval_shape(lambda: fresh(prior.network))
    params = from_names({name: np.asarray(t.read(), np.float32) for name, t in tensors.items()})
    check_params(template, params, str(folder))
    prior.params = params
    return prior


def fresh(network: EmbeddingPrior, seed: int = 0) -> PyTree:
    """Parameters of a prior before training, with statistics of 0 and 1."""
    blank = jnp.zeros((1, network.width))
    params = network.init(jax.random.key(seed, impl=KEY_IMPL), blank, jnp.zeros(1, jnp.int32), blank)[
        "params"
    ]
    statistics = {name: jnp.full(network.width, float(name.endswith("std"))) for name in STATISTICS}
    return {"network": params} | statistics
