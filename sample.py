"""Draws pictures: `python sample.py --prompt "…"`, or `ldm-sample`; see ldm_jax/commands/sample.py."""

from ldm_jax.commands.sample import console

if __name__ == "__main__":
    console()
