"""What every test shares: the CPU, and one compilation cache for this process and those that tests start."""

import os
import pathlib
import tempfile

CACHE = pathlib.Path(
    os.environ.get("LDM_JAX_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / "ldm_jax_test_cache")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Programs of tests run once or twice: compiling them well takes longer than running them badly.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
