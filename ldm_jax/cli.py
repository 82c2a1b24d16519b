"""What the commands share: one plain sentence instead of a traceback, and a compilation cache that outlives the process."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import logging as absl_logging


def use_compilation_cache() -> None:
    """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, by default ~/.cache/ldm_jax/jax; a second start is fast."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm_jax" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def set_up_logging() -> None:
    """This package's progress and everybody's warnings, a line each, on standard error; not orbax's every move."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("train", "ldm_jax"):
        logging.getLogger(name).setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )


def run(main: Callable, *args) -> None:
    """main(*args); what a user can mend (ValueError, OSError and the like) is printed as one sentence, exit code 1.

    LDM_JAX_TRACEBACK=1 shows the traceback as well.
    """
    try:
        main(*args)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except (ValueError, KeyError, AttributeError, OSError, RuntimeError) as error:
        if os.environ.get("LDM_JAX_TRACEBACK"):
            raise
        # AttributeError and KeyError are how ml_collections reports an unknown key of a config.
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
