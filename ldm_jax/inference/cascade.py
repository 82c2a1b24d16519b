"""A cascade: a model draws small pictures, and upscalers draw them anew, each as many times larger as it learned.

Ho et al. 2021 (arXiv:2106.15282); Saharia et al. 2022, Imagen (arXiv:2205.11487), section 2.3: each upscaler is told
the text and is given the small picture with noise of a level that it knows, which hides what the model before it got
wrong.
Decides what of a call each stage is given.
"""

from collections.abc import Sequence
from typing import Any

from ldm_jax import grid
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.inference.staged import Staged
from ldm_jax.system import System


class Cascade(Staged):
    """base: any model, or a refined one. upscalers: models that take low_res_images, in the order in which they draw.

    It samples like the base, with the base's settings; each upscaler is run with its own recommended ones, and with the
    conditions among those given that it takes.
    noise_levels: of the noise that upscalers add, one for each upscaler or one for all; None is what they do unless
    told.
    Raises: ValueError for an upscaler that is none, or that needs more than what is given here, and for another number
    of levels.
    """

    def __init__(
        self,
        base: Any,
        upscalers: Sequence[LatentDiffusion],
        noise_levels: Sequence[int] | int | None = None,
    ):
        for i, upscaler in enumerate(upscalers):
            _check_upscaler(base.system, upscaler.system, i)
        self.base, self.upscalers, self.noise_levels = base, tuple(upscalers), noise_levels
        self._levels(noise_levels)

    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        *,
        noise_levels: Sequence[int] | int | None = None,
        batch_size: int = 8,
        output: str = "np",
        **options: Any,
    ) -> Any:
        """Draws pictures: as LatentDiffusion.sample of the base, whose options it takes.

        noise_levels: in the place of the cascade's. output: 'np' or 'pil'. Raises: ValueError as there, and for another
        output or number of levels.
        """
        if output not in ("np", "pil"):
            raise ValueError(f"output {output!r}: a cascade gives pictures, expected 'np' or 'pil'")
        levels = self._levels(self.noise_levels if noise_levels is None else noise_levels)
        images = self.base.sample(prompts, seeds, batch_size=batch_size, **options)
        seeds = range(len(images)) if seeds is None else seeds
        for upscaler, level in zip(self.upscalers, levels, strict=True):
            given: dict[str, Any] = {"low_res_images": list(images)}
            if "prompts" in upscaler.system.takes:
                given["prompts"] = prompts if prompts is not None else ""
                if options.get("negative_prompts") is not None:
                    given["negative_prompts"] = options["negative_prompts"]
                given |= {
                    name: options[name] for name in ("plain_prompts", "long_prompts") if name in options
                }
            if level is not None and "noise_levels" in upscaler.system.takes:
                given["noise_levels"] = [level] * len(images)
            images = upscaler.sample(seeds=seeds, batch_size=batch_size, **given)
        return [grid.to_pil(image) for image in images] if output == "pil" else images

    def _levels(self, given: Sequence[int] | int | None) -> list[int | None]:
        number = len(self.upscalers)
        levels: list[int | None] = (
            [given] * number if given is None or isinstance(given, int) else list(given)
        )
        if len(levels) != number:
            raise ValueError(
                f"noise_levels: got {len(levels)} levels, expected one for each of {number} upscalers, or a single one"
            )
        return levels


def _check_upscaler(base: System, upscaler: System, place: int) -> None:
    if "low_res_images" not in upscaler.takes:
        raise ValueError(
            f"upscaler {place + 1}: this model takes no low_res_images, expected one that enlarges"
        )
    needed = set(upscaler.takes) - set(upscaler.optional) - {"low_res_images", "seeds"}
    missing = sorted(needed - set(base.takes))
    if missing:
        raise ValueError(f"upscaler {place + 1}: it needs {', '.join(missing)}, which the base does not take")
