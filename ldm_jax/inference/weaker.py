"""A weaker version of a model, which leads away from itself (guidance/autoguidance.py).

Decides whether a checkpoint is one: it may be smaller, or trained for less long, but must speak of the same latents, at
the same noise levels, and be told the same.
"""

import functools
from pathlib import Path

from ldm_jax.checkpoints.open import locate, open_checkpoint
from ldm_jax.diffusion.schedule import same_levels
from ldm_jax.models.unet import UNet
from ldm_jax.params import check_params
from ldm_jax.paths import last_written
from ldm_jax.system import System, make_system
from ldm_jax.text_files import shown
from ldm_jax.types import PyTree


def version_of(system: System, path: str) -> tuple[UNet, PyTree]:
    """(the network, {'unet', 'conditioner'}) of the checkpoint at `path`, of which `system` is the stronger version.

    Raises: ValueError for a first stage alone, and for what differs: the latents' size and channels, the noise levels,
    the kind of prediction, or what the network is conditioned on.
    """
    other, params = _opened(locate(path), last_written(locate(path)))
    differs = {
        "how much smaller latents are, and their channels": tuple(
            (one.first_stage.factor, one.latent_shape[2]) for one in (other, system)
        ),
        "a prediction of": (other.prediction_type, system.prediction_type),
        "a learned variance": (other.learned_variance, system.learned_variance),
        "the noise levels of the model": (same_levels(other.schedule, system.schedule), True),
        "the conditioning": (_told(other), _told(system)),
    }
    for what, (got, expected) in differs.items():
        if got != expected:
            raise ValueError(
                f"autoguidance: model {path}: {what}: got {shown(got)}, expected {shown(expected)}"
            )
    return other.unet, params


def _told(system: System) -> list:
    """What the network is conditioned on: the kinds, how they are encoded, and the words that are known."""
    words = system.tokenizer and sorted(system.tokenizer.get_vocab().items())
    return [(part.name, part.conditioner) for part in system.parts] + [words]


@functools.lru_cache(maxsize=2)
def _opened(path: Path, stamp: int) -> tuple[System, PyTree]:
    bundle = open_checkpoint(path).bundle()
    if "unet" not in bundle.params:
        raise ValueError(
            f"autoguidance: model {path}: got a first stage alone, expected a model that samples"
        )
    system = make_system(bundle.config, bundle.tokenizer)
    check_params(system.param_shapes(), bundle.params, str(path))
    params = system.in_compute_dtype(bundle.params)
    return system, {name: params[name] for name in ("unet", "conditioner") if name in params}
