"""Two models in one run: the base denoises the levels of much noise, and the refiner the rest of the same timesteps.

Podell et al. 2023 (arXiv:2307.01952) section 2.5; diffusers' denoising_end and denoising_start. Nothing is noised
between the two. Decides what of a call each of the two is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.inference import checks
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.inference.settings import FALLBACK
from ldm_jax.inference.staged import Staged
from ldm_jax.system import System


class BaseAndRefiner(Staged):
    """base, refiner: models of one latent space and one noise schedule. switch: in (0, 1), the share of the noise
    levels that the base runs.

    It samples like the base, with the base's settings and timesteps for both; each has its own conditioning of what is
    given, of which the refiner is handed what it takes, and prompts_2 as its prompts where they are given.
    Raises: ValueError for two models that do not fit together, and for a switch out of range.
    """

    def __init__(self, base: LatentDiffusion, refiner: LatentDiffusion, switch: float = 0.8):
        checks.check_number("refiner_start", switch, 0, 1)
        if switch in (0, 1):
            raise ValueError(f"refiner_start: got {switch}, expected a number between 0 and 1")
        _check_together(base.system, refiner.system)
        self.base, self.refiner, self.switch = base, refiner, float(switch)

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        *,
        output: str = "np",
        **options: Any,
    ) -> Any:
        """Draws pictures: as LatentDiffusion.sample of the base, whose options it takes.

        output: of the refiner. Raises: ValueError as there; for guidance of a refiner that has no null condition.
        """
        settings = self.resolve(**{name: options.pop(name, None) for name in FALLBACK})
        latents = self.base.sample(prompts, seeds, stop=self.switch, output="latents", **settings, **options)
        latents = self.refiner.scale.scale(self.base.scale.unscale(latents))
        seeds = range(len(latents)) if seeds is None else seeds
        given = self._for_refiner(prompts, options)
        return self.refiner.sample(
            seeds=seeds, start=self.switch, latents=latents, output=output, **settings, **given
        )

    def _for_refiner(self, prompts: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options and conditions of the refiner's part of a call."""
        base, refiner = set(self.base.system.takes), set(self.refiner.system.takes)
        given = {k: v for k, v in options.items() if k not in base or k in refiner}
        second = given.pop("prompts_2", None)
        if "prompts" in refiner and (prompts is not None or second is not None):
            given["prompts"] = prompts if second is None else second
        return given


def _check_together(base: System, refiner: System) -> None:
    ours, theirs = ((s.first_stage.factor, s.first_stage.channels) for s in (base, refiner))
    if ours != theirs:
        raise ValueError(
            f"refiner: its latents are of {theirs[1]} channels at 1/{theirs[0]}, expected the base's, "
            f"{ours[1]} at 1/{ours[0]}"
        )
    levels = [np.asarray(s.schedule.log_alphas_cumprod) for s in (base, refiner)]
    if levels[0].shape != levels[1].shape or not np.allclose(*levels, rtol=1e-4, atol=1e-6):
        raise ValueError("refiner: its noise schedule is another than the base's, expected the same")
