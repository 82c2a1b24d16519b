"""Trains either stage: `python train.py --config configs/NAME.py --workdir DIR`, or `ldm-train`; see
ldm_jax/commands/train.py."""

from ldm_jax.commands.train import console

if __name__ == "__main__":
    console()
