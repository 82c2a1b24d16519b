"""Whether an error is the devices' runtime's, and not this program's."""

import jax

# What it begins with there, of absl's codes those that a device, its memory or another process can be the cause of.
CODES = (
    "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE",
    "UNKNOWN",
)  # fmt: skip


def is_of_devices(error: BaseException) -> bool:
    """Whether the runtime has raised it: as an error of its own, or as a plain ValueError of the same words, which
    jaxlib 0.10 raises where an array is fetched whose computation has failed meanwhile."""
    own = isinstance(error, jax.errors.JaxRuntimeError)
    return own or (
        isinstance(error, ValueError) and str(error).startswith(tuple(f"{code}: " for code in CODES))
    )
