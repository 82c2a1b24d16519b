"""The command `python -m ldm_jax.data.precompute_latents`; what it does is ldm_jax/precompute_latents.py, above the rooms."""
