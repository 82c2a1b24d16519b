"""Latent diffusion models in JAX and Flax: train both stages, sample, convert.

import ldm_jax
images = ldm_jax.load("shapes").sample(prompts=["a small red circle"], seeds=[0])   # uint8 [1, 64, 64, 3]
"""

__version__ = "0.1.0"


def load(name: str = "shapes", **options):
    """See ldm_jax.inference.pipeline.load; imported when it is called, so that `import ldm_jax` costs nothing."""
    from ldm_jax.inference import pipeline

    return pipeline.load(name, **options)
