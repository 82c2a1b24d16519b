"""Latent diffusion models in JAX and Flax: train both stages, sample, convert.

import ldm_jax
images = ldm_jax.load("shapes").sample(prompts=["a small red circle"], seeds=[0])   # uint8 [1, 64, 64, 3]

What it offers is imported when it is asked for, so that `import ldm_jax` costs nothing.
"""

from typing import TYPE_CHECKING

__all__ = ["LatentDiffusion", "load"]
__version__ = "0.1.0"

if TYPE_CHECKING:  # what an editor reads
    from ldm_jax.inference.pipeline import LatentDiffusion, load
else:  # what runs; a type checker that saw it would take any name for granted

    def __getattr__(name):
        if name in __all__:
            from ldm_jax.inference import pipeline

            return getattr(pipeline, name)
        raise AttributeError(f"module 'ldm_jax' has no attribute {name!r}; it has: {', '.join(__all__)}")

    def __dir__():
        return [*__all__, "__version__"]
