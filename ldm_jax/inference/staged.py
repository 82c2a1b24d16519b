"""Several models in one call, which is a call of the first of them: what it shares with it."""

from typing import Any

from ldm_jax.system import System


class Staged:
    """base: the first model, whose conditions, config and settings are those of the whole."""

    base: Any

    @property
    def system(self) -> System:
        """The base's."""
        return self.base.system

    @property
    def config(self) -> dict:
        """The base's."""
        return self.base.config

    def resolve(self, **asked: Any) -> dict[str, Any]:
        """The settings of the base, which a refiner is run with too: see LatentDiffusion.resolve."""
        return self.base.resolve(**asked)
