"""Runs ldm_jax/precompute_latents.py, which knows config, model and data, as this room may not."""

from ldm_jax import cli
from ldm_jax.precompute_latents import main

if __name__ == "__main__":
    cli.set_up_logging()
    cli.use_compilation_cache()
    cli.run(main)
